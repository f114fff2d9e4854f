"""RunDirectory: the only reader and writer of run directories.

A run directory holds

    setup.yaml          the resolved setup
    environment.json    versions, devices, git commit
    metrics.csv         one row a step
    evaluations.csv     step, accuracy; where workers have examples of their own, their worst and mean accuracy
    faults.csv          of a setup that declares faults: one row for each
    checkpoints/        the newest states to continue from, while the run is not finished
    parameters.npy      the final parameters
    accuracy.png, .svg  accuracy, and the variance-norm ratio against the bound
    status.json         running, interrupted, failed, stopped (early, by a sweep's scheduler) or finished; the last
                        step; where it diverged; the digests of the files, once it does not run any more
    log.txt             events of the run: starts, actors that were lost and replaced, damage, failures
    error.txt           of a failed run of a sweep: the traceback
"""

import fcntl
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from byzray.arrays import read_vector
from byzray.divergence import Divergence
from byzray.environment import Environment
from byzray.files import expect_no_link, not_through_links, open_plain, read_plain, remove_temporaries, save
from byzray.mistakes import WrongInput, lines, visible
from byzray.runs.checkpoints import Checkpoint, Checkpoints, Position, Record, parse_record
from byzray.runs.digests import DIGESTED, check_digests, digest
from byzray.runs.result import Result
from byzray.runs.status import State, Status, read_status
from byzray.runs.table import Table, read_table
from byzray.setups import Setup

RunState = Literal["finished", "stopped", "running", "interrupted", "failed", "damaged", "missing"]
"""The states of a run; `stopped`: ended early by a scheduler."""

STATES: tuple[RunState, ...] = get_args(RunState)
"""The states in the order in which reports list them."""

DONE: tuple[RunState, ...] = ("finished", "stopped")
"""The states in which nothing is left to compute, and a run's best accuracy is final."""

T = TypeVar("T")

# Folders next to runs that hold something else.
OTHER_FOLDERS = ("report", "tune", "replaced")


class RunExists(WrongInput):
    """The run's directory exists and cannot be used as it is; the message says why, and how to continue."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


@dataclass(frozen=True)
class Found:
    """The state of a run according to the files of its directory.

    Attributes:
        state: one of :data:`STATES`.
        step: the number of steps taken when its status was written.
        reason: why it failed, was stopped or interrupted, or what is damaged; empty if there is nothing to say.
        seconds: how long its steps and evaluations took; NaN if that is not known.
        diverged: where and why its parameters became non-finite.
        digests: the SHA-256 of its files, by name, as its status has them.
    """

    state: RunState
    step: int = 0
    reason: str = ""
    seconds: float = math.nan
    diverged: Divergence | None = None
    digests: dict[str, str] = field(default_factory=dict)


def read_state(folder: Path, compared: Collection[str] = DIGESTED, locks: bool = True) -> Found:
    """Read the state of a run from its directory, without trusting any file in it.

    Args:
        folder: the run's directory.
        compared: the files that are compared with their digests if the run is done.
        locks: whether the folder has locks, which show whether a process computes the run; copies have none.
    """
    try:
        status = named("status.json", lambda: read_status(folder))
        if status is not None and status.state in DONE:
            check_digests(folder, status, compared)
    except (ValueError, OSError) as error:
        return Found("damaged", reason=explain(error))
    if status is None:
        begun = (folder / "setup.yaml").exists()
        return Found("interrupted", reason="there is no status.json") if begun else Found("missing")
    state, reason = status.state, status.reason or ""
    if state == "running" and locks and not is_computed(folder):
        state, reason = "interrupted", "it was killed: no process is computing it"
    seconds = math.nan if status.seconds is None else status.seconds
    return Found(state, status.step, reason, seconds, status.diverged, status.files or {})


def named(name: str, read: Callable[[], T]) -> T:
    """Call `read`; its errors name the file.

    Raises:
        ValueError: the file is damaged, or cannot be read.
    """
    try:
        return read()
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: is damaged ({explain(error)})") from error
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}") from error


def explain(error: Exception) -> str:
    """Why a file of a run cannot be read, in one line."""
    if isinstance(error, ValidationError):
        return lines(error)[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    return visible(" ".join(str(error).split()))


class _Environment(BaseModel):
    """The fields of environment.json that are used."""

    model_config = ConfigDict(extra="allow")

    files: dict[str, str] = {}
    earlier: list[dict[str, Any]] = []


def run_directories(folder: Path, places: Iterable[str]) -> list[Path]:
    """The run directories at these places of a folder, without those of reports and replaced runs."""
    found = (path.parent for place in places for path in folder.glob(f"{place}/setup.yaml"))
    return sorted(
        path
        for path in found
        if not any(part in OTHER_FOLDERS or part.startswith(".") for part in path.relative_to(folder).parts)
    )


def is_computed(folder: Path) -> bool:
    """Whether a process of this machine, or of one that shares its locks, is computing the run in a directory."""
    try:
        with open_plain(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


class RunDirectory:
    """The directory of one run, named after the whole resolved setup and its seed, and never overwritten."""

    def __init__(self, root: Path, setup: Setup) -> None:
        self.setup = setup
        self.path = root / self.name(setup)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._lock = FileLock(self.path / ".lock")

    @staticmethod
    def name(setup: Setup) -> str:
        """A readable name, unique by a digest of the whole setup."""
        attack = setup.attack.label() if setup.attack is not None else "unattacked"
        words = [setup.dataset.label(), setup.defence.label(), attack, f"f{setup.byzantine}"]
        words += [f"at-{setup.momentum.placement}", f"seed{setup.seed}", setup.digest()]
        return re.sub(r"[^\w.+-]", "_", "-".join(words))

    def __enter__(self) -> "RunDirectory":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            expect_no_link(Path(self._lock.lock_file))  # some releases of filelock follow links and empty the file
            self._lock.acquire(timeout=0.1)  # a reader holds it for a moment
        except Timeout:
            raise RunExists(f"{self.path}: another process is computing this run") from None
        except OSError as error:
            raise RunExists(f"{self.path}: cannot be used as a run directory: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not (self.path / "setup.yaml").exists():  # the run never started: leave no empty directory
            Path(self._lock.lock_file).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                self.path.rmdir()

    @property
    def status(self) -> Status | None:
        """The status of the run; None for a new directory.

        Raises:
            RunExists: status.json is damaged.
        """
        with self._readable("status.json"):
            return read_status(self.path)

    @property
    def environment(self) -> Environment:
        """The content of environment.json, empty if there is none.

        Raises:
            RunExists: it is damaged.
        """
        with self._readable("environment.json"):
            try:
                content = read_plain(self.path / "environment.json")
            except FileNotFoundError:
                return {}
            return _Environment.model_validate_json(content).model_dump(exclude_none=True)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise RunExists(
                f"{self.path / name}: is damaged ({explain(error)}). Delete this file and run the same command "
                "(`byzray run` with --resume) to continue from the last checkpoint, or move the directory away to "
                "start over"
            ) from error

    def set_status(self, state: State, step: int, **more: Any) -> None:
        """Write the status of the run.

        Args:
            state: one of the states of :class:`Status`.
            step: how many steps were taken.
            more: other fields of it.

        Raises:
            StorageFault: it cannot be written.
        """
        content = Status(state=state, step=step, **more).model_dump(exclude_none=True)
        save(self.path / "status.json", lambda path: _write_json(path, content))

    def log(self, text: str) -> None:
        """Append an event with the time to log.txt; failures to write the log are ignored."""
        path = self.path / "log.txt"
        with suppress(OSError), open(path, "a", encoding="utf-8", opener=not_through_links) as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    def examine(self, resume: bool, fingerprints: dict[str, str]) -> Result | None:
        """The result of a finished run; None if the run can start or continue.

        Args:
            resume: whether an unfinished run may be continued.
            fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.

        Raises:
            RunExists: it holds an unfinished run and `resume` is False, a run of something else, or damaged files.
        """
        known = self.path / "setup.yaml"
        if not known.exists():
            return None
        try:
            content = read_plain(known).decode("utf-8", errors="replace")
        except OSError as error:
            raise RunExists(f"{known}: cannot be read ({explain(error)}); move the directory away") from error
        if content != self.setup.yaml():
            raise RunExists(f"{known}: was changed since the run began; move the directory away to start anew")
        status = self.status
        finished = status is not None and status.state == "finished"
        if not (finished or self._begun()):  # such as a rule that failed at its first step and was corrected since
            return None
        self._compare(fingerprints)
        if finished:
            self.checkpoints.remove()  # a process that was killed at this point may have left them
            return self.result()
        if not resume:
            state = "interrupted" if status is None else status.state
            state = "interrupted" if state == "running" else state  # this process holds the lock
            step = 0 if status is None else status.step
            raise RunExists(
                f"{self.path}: holds this run, {state} at step {step} of {self.setup.steps}; "
                f"resume it (--resume {self._onwards()}), or move the directory away"
            )
        return None

    def _onwards(self) -> str:
        """What --resume would do, for a message."""
        newest = next(self.checkpoints.intact([]), None)
        if newest is not None:
            return f"continues it from step {newest.step}"
        if self.checkpoints.paths():
            return "is refused, as its checkpoints are damaged"
        return "starts it over, as no checkpoint was saved yet"

    def _compare(self, fingerprints: dict[str, str]) -> None:
        earlier = self.environment.get("files", {})
        for name, fingerprint in fingerprints.items():
            if earlier.get(name, fingerprint) != fingerprint:
                raise RunExists(
                    f"{self.path}: was computed with another content of {name}; "
                    "move the directory away, or choose another output folder"
                )

    def _begun(self) -> bool:
        """Whether the directory holds rows that a new start would discard."""
        try:
            with open_plain(self.path / "metrics.csv") as file:
                return sum(1 for _ in file) > 1
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunExists(f"{self.path}: is damaged ({explain(error)}); move the directory away") from error

    def begin(self, environment: Environment) -> None:
        """Write setup and environment of a run that starts or continues; earlier environments are kept."""
        remove_temporaries(self.path)
        self.checkpoints.tidy()
        known = self.environment
        if known:
            environment = {**environment, "earlier": [*known.pop("earlier", []), known]}
        save(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        save(self.path / "environment.json", lambda path: _write_json(path, environment))

    def fail(self, reason: str, log: str) -> None:
        """Record why the run failed; its results so far are kept."""
        known = self.status
        step = 0 if known is None else known.step
        kept = {} if known is None else {"seconds": known.seconds, "diverged": known.diverged}
        if not (self.path / "setup.yaml").exists():
            save(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        save(self.path / "error.txt", lambda path: _write_text(path, log))
        self.set_status("failed", step, reason=reason, **kept)

    def continued(
        self, tables: Mapping[str, Table], restore: Callable[[Checkpoint], None]
    ) -> tuple[Checkpoint, Record] | None:
        """The newest usable checkpoint with its record; None if none was saved.

        The simulation and the tables go back to it. The reasons why newer ones cannot be used are logged.

        Args:
            tables: those of the run, by the names of their files.
            restore: restores the simulation; raises ValueError or LookupError if the state does not fit.

        Raises:
            RunExists: checkpoints were saved, and none can be used.
        """
        refused: list[str] = []
        for checkpoint in self.checkpoints.intact(refused):
            try:
                if checkpoint.step > self.setup.steps:
                    raise ValueError(f"the run has {self.setup.steps} steps")
                record = parse_record(checkpoint.record)
                contents = {name: _content(table, record.files.get(name)) for name, table in tables.items()}
                restore(checkpoint)
            except (ValueError, LookupError) as error:
                refused.append(f"the checkpoint of step {checkpoint.step} cannot be used: {error}")
                continue
            for reason in refused:
                self.log(reason)
            for name, table in tables.items():
                table.resume_from(contents[name])
            return checkpoint, record
        if refused:
            raise RunExists(f"{'; '.join(refused)}; move {self.path} away to start anew")
        return None

    def finish(self, result: Result) -> None:
        """Write the final parameters and the status `finished`, and remove the checkpoints.

        Raises:
            StorageFault: something cannot be written.
        """
        save(self.path / "parameters.npy", lambda path: _write_array(path, result.parameters))
        more = {"seconds": result.seconds, "diverged": result.diverged, "files": self.digests()}
        self.set_status("finished", len(result.metrics), **more)
        self.log("finished")
        (self.path / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        self.checkpoints.remove()

    def digests(self) -> dict[str, str]:
        """The SHA-256 of those files of :data:`DIGESTED` that exist."""
        return {name: digest(self.path / name) for name in DIGESTED if (self.path / name).exists()}

    def result(self) -> Result:
        """The result of a finished run.

        Raises:
            RunExists: one of its files is damaged.
        """
        status = self.status
        assert status is not None
        try:
            check_digests(self.path, status)
            faults = self.path / "faults.csv"
            return Result(
                setup=self.setup,
                metrics=read_table(self.path / "metrics.csv"),
                evaluations=read_table(self.path / "evaluations.csv"),
                parameters=read_vector(self.path / "parameters.npy"),
                directory=self.path,
                faults=read_table(faults) if faults.exists() else None,
                diverged=status.diverged,
                seconds=math.nan if status.seconds is None else status.seconds,
                reused=True,
            )
        except (OSError, ValueError) as error:
            raise RunExists(
                f"{self.path}: is damaged ({explain(error)}); move the directory away to start anew"
            ) from error


def _content(table: Table, position: Position | None) -> bytes:
    assert table.path is not None
    if position is None:
        raise ValueError(f"{table.path}: was not there when it was saved")
    try:
        return table.content(position.model_dump())
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
