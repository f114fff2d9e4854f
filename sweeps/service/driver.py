"""The driver of a submitted sweep, which the service starts as a job of Ray's.

python -m sweeps.service.driver STORAGE SWEEP
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from threading import Lock, Thread

from filelock import FileLock, Timeout

import sweeps
from actors import FleetError
from byzray.client.models import Counts, RunProgress
from byzray.files import replace_text
from byzray.mistakes import WrongInput
from byzray.report import write_report as write_page
from sweeps.outcome import Outcome
from sweeps.progress import Progress
from sweeps.queue import Turns
from sweeps.service.progress import Ended, Report, finite, read_report, write_report
from sweeps.service.records import Record, Records
from sweeps.service.settings import Settings
from sweeps.service.storage import is_stopping, read_settings
from sweeps.service.submissions import PACES, sweep_in
from sweeps.tuner import first_line

# Versions of these decide whether results are the same bit for bit.
PACKAGES = ("byzray", "torch", "numpy", "numba")

# The progress is written at most this often, and at least that often, in seconds.
WRITE_SECONDS, LONGEST_SECONDS = 0.5, 5.0

# How often a driver whose runs have no room on the cluster checks for it, in seconds.
ROOM_SECONDS = 5.0


class Reporter(sweeps.Observer):
    """Writes the progress of a sweep into its folder, and stops it when the service asks for that.

    Args:
        settings: of the service.
        record: of the sweep.
        turns: receives changes of the record.
    """

    def __init__(self, settings: Settings, record: Record, turns: Turns) -> None:
        self.settings = settings
        self.records = Records(settings.sweeps)
        self.folder = self.records.of(record.id)
        self.record = record
        self.turns = turns
        self.progress: Progress | None = None
        self.written = 0.0
        counts = _counts_before(self.folder, record)
        self.last = Report(round=record.round, updated=time.time(), runs=counts, why="its runs are being planned")
        self.computing = False
        self.lock = Lock()
        write_report(self.folder, self.last)
        Thread(target=self._keep_reporting, name="reports", daemon=True).start()

    def _keep_reporting(self) -> None:
        """Report while no run is computed: runs are planned, or the report is written."""
        while self.last.ended is None:
            time.sleep(LONGEST_SECONDS)
            if not self.computing and self.last.ended is None:
                self._write(self.last.model_copy(update={"updated": time.time()}))

    def begin(self, title: str, progress: Progress) -> None:
        self.progress = progress
        self.computing = True
        self.refresh()

    def end(self) -> None:
        self.computing = False

    def run_ended(self, run: str, outcome: str) -> None:
        print(f"{run}: {outcome}", flush=True)

    def message(self, text: str) -> None:
        print(f"byzray: {text}", flush=True)

    def refresh(self) -> None:
        if (passed := time.monotonic() - self.written) < WRITE_SECONDS:
            return
        report = self._report()
        if passed > LONGEST_SECONDS or report.model_copy(update={"updated": self.last.updated}) != self.last:
            self._write(report)

    def stop_asked(self) -> bool:
        found = self.records.get(self.record.id)
        if found is None:  # it was deleted
            return True
        self.turns.priority, self.turns.at_once = found.priority, found.at_once
        return found.asked != "run" or found.round != self.record.round or is_stopping(self.settings)

    def waits(self, why: str, stuck: bool = False) -> None:
        """No run is computed, for a reason; `stuck`: there is no room on the cluster."""
        self._write(self.last.model_copy(update={"updated": time.time(), "why": why, "stuck": stuck, "current": []}))

    def ended(self, ended: Ended, counts: Counts | None = None) -> None:
        """The driver ends."""
        update = {
            "updated": time.time(),
            "ended": ended,
            "current": [],
            "why": "",
            "stuck": False,
            "seconds_left": None,
        }
        self._write(self.last.model_copy(update=update | ({"runs": counts} if counts else {})))

    def _write(self, report: Report) -> None:
        with self.lock:
            self.written = time.monotonic()
            if self.last.ended is not None:
                return
            try:
                write_report(self.folder, report)
            except OSError as error:  # a full disk: the runs themselves say what that means for them
                print(f"byzray: the progress cannot be written: {error}", flush=True)
            else:
                self.last = report

    def _report(self) -> Report:
        progress = self.progress
        assert progress is not None
        current = [
            RunProgress(
                run=name,
                step=step,
                steps=setup.steps,
                accuracy=finite(accuracy),
                best_accuracy=finite(best),
                seconds_left=finite(progress.seconds_left_of(name)),
            )
            for name, (setup, step, accuracy, best) in list(progress.current.items())
        ]
        counts = _counts(progress.total, progress.done, progress.running, progress.failed)
        return Report(
            round=self.record.round,
            updated=time.time(),
            runs=counts,
            current=current,
            why=progress.why,
            stuck=progress.stuck and not progress.running,
            steps_per_second=finite(progress.steps_per_second),
            seconds_left=finite(progress.seconds_left),
        )


def _counts(total: int, done: int, running: int, failed: int) -> Counts:
    done, failed = min(done, total), min(failed, total - min(done, total))
    running = min(running, total - done - failed)
    return Counts(total=total, done=done, running=running, failed=failed, waiting=total - done - running - failed)


def _counts_before(folder: Path, record: Record) -> Counts:
    before = read_report(folder)
    done = 0 if before is None else before.runs.done
    return _counts(record.runs, done, 0, 0)


def compute(settings: Settings, record: Record) -> None:
    """Compute what is left of a sweep, and report how that ended."""
    records = Records(settings.sweeps)
    folder = records.of(record.id)
    turns = Turns(record.owner, record.priority, record.at_once)
    reporter = Reporter(settings, record, turns)
    if why := _other_versions(records, record):
        reporter.ended(Ended(complete=False, why=why))
        return
    try:
        outcome = _outcome(settings, record, reporter, turns)
    except WrongInput as error:
        print(f"byzray: failed: {error}", flush=True)
        reporter.ended(Ended(complete=False, why=first_line(str(error))))
        return
    except Exception as error:  # the cluster is lost, say, or the disk is full: another driver may succeed
        traceback.print_exc()
        why = first_line(f"{type(error).__name__}: {error}")
        reporter.ended(Ended(complete=False, why=f"its driver failed ({why}); it is started again", again=True))
        return
    if outcome is None:
        reporter.ended(Ended(complete=False, again=True))
        return
    done = outcome.earlier + outcome.finished + len(outcome.stopped)
    counts = _counts(reporter.last.runs.total, done, 0, len(outcome.failed))
    reporter.last = reporter.last.model_copy(update={"runs": counts})
    if reporter.progress is not None:
        content = json.dumps(reporter.progress.paces.content())
        replace_text(folder / PACES, content)
    if done and not is_stopping(settings):
        reporter.waits("its report is being written")
        _write_page(folder)
    reporter.ended(_ended(outcome), counts)


def _outcome(settings: Settings, record: Record, reporter: Reporter, turns: Turns) -> Outcome | None:
    """Compute the sweep, once the cluster has room for its runs; None if it was to stop before."""
    sweep, seeds = sweep_in(record.submission, settings.allow)
    while True:
        try:
            return sweeps.run(
                sweep,
                reporter.folder,
                only=record.submission.only,
                seeds=seeds,
                cpus=settings.cpus,
                gpus=settings.gpus,
                retries=settings.retries,
                data=settings.data,
                turns=turns,
                observer=reporter,
            )
        except FleetError as error:
            reporter.message(str(error))
            began = time.monotonic()
            while time.monotonic() - began < ROOM_SECONDS:
                reporter.waits(str(error), stuck=True)
                if reporter.stop_asked():
                    return None
                time.sleep(0.5)


def _ended(outcome: Outcome) -> Ended:
    if outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        more = f" (and {len(outcome.failed) - 1} more)" if len(outcome.failed) > 1 else ""
        why = f"failed: {name}{more}: {first_line(reason)}"
    else:
        why = outcome.stranded
    again = outcome.interrupted or bool(outcome.stranded)
    return Ended(complete=outcome.complete, why=why, again=again)


def _write_page(folder: Path) -> None:
    try:
        for line in write_page(folder).summary:
            print(line, flush=True)
    except Exception:  # its results are there all the same
        traceback.print_exc()


def _other_versions(records: Records, record: Record) -> str:
    """Why the sweep does not go on with the versions that are installed; empty if it does."""
    here = {name: metadata.version(name) for name in PACKAGES}
    begun = any((records.of(record.id) / "runs").glob("*/environment.json"))
    if not begun or not record.versions:
        records.change(record.id, versions=here)
        return ""
    other = [f"{name} {then}, now {here[name]}" for name, then in record.versions.items() if then != here.get(name)]
    if other and record.mix_versions:  # these ones, not any later ones
        records.change(record.id, versions=here, mix_versions=False)
    if not other or record.mix_versions:
        return ""
    return (
        f"its runs were computed with {'; '.join(other)}: results could differ; "
        "`byzray resume --mix-versions` goes on all the same, a new name starts anew"
    )


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Everything that this process and those that it starts print goes to a file."""
    with path.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield


def main(storage: str, sweep: str) -> None:
    """Compute a sweep, unless another driver does."""
    settings = read_settings(Path(storage))
    sys.path.append(str(settings.import_from))  # last, so that nothing there hides an installed module
    record = Records(settings.sweeps).get(sweep)
    if record is None or record.asked != "run":
        return
    folder = Records(settings.sweeps).of(sweep)
    lock = FileLock(folder / ".driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{sweep}: another driver computes it")
        return
    with lock, _logged(folder / "driver.log"):
        print(f"byzray: {time.strftime('%Y-%m-%d %H:%M:%S')} driver {os.getpid()} of {sweep} starts", flush=True)
        compute(settings, record)


if __name__ == "__main__":
    main(*sys.argv[1:])
