"""What the service answers about its sweeps, from the files of their folders."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from time import monotonic, time
from typing import Any

import ray
from ray.exceptions import RayError

from byzray.client import models
from byzray.files import open_plain
from byzray.report import load_runs
from byzray.runs.directory import read_state
from byzray.runs.table import read_table
from byzray.yaml import read_yaml
from sweeps.fair_share import Answer, Claim, sum_of
from sweeps.queue import claims
from sweeps.service.progress import Report, finite, read_report
from sweeps.service.records import Record, Records
from sweeps.service.settings import Settings

# A driver that has not reported for so many seconds is stuck.
SILENT_SECONDS = 30.0

# The cluster is asked again after so many seconds.
CLUSTER_SECONDS = 1.0

# So much of a log is answered at a time, in bytes.
LOG_BYTES = 2**20

# The names of runs and of their files begin with neither a dot nor a slash, and hold no slash.
PLAIN_NAME = re.compile(r"[\w+-][\w.+-]{0,250}")


def state_of(record: Record, report: Report | None, driven: bool) -> tuple[models.State, str]:
    """The state of a sweep, and why it is in it.

    Args:
        record: what is asked of it.
        report: its driver's last.
        driven: whether it has a driver.
    """
    current = report if report is not None and report.round == record.round else None
    if current is not None and current.ended is not None and not current.ended.again:
        if current.ended.complete:
            return "finished", ""
        if record.asked == "run":
            return "failed", current.ended.why
    if record.asked != "run":
        if driven:
            return "stopping", "its runs are being saved"
        return ("paused" if record.asked == "pause" else "cancelled"), ""
    if current is not None and current.ended is not None and current.ended.why:
        return "stuck", current.ended.why
    if not driven or current is None or current.ended is not None:
        return "starting", "its driver is being started"
    if (silent := time() - current.updated) > SILENT_SECONDS:
        return "stuck", f"its driver has not reported for {silent:.0f} s"
    if current.stuck:
        return "stuck", current.why
    return ("running" if current.runs.running or not current.runs.waiting else "waiting"), current.why


def sweep_of(record: Record, folder: Path, driven: bool) -> models.Sweep:
    """A sweep and its progress.

    Args:
        record: its record.
        folder: its folder.
        driven: whether it has a driver.
    """
    report = read_report(folder)
    state, why = state_of(record, report, driven)
    counts = models.Counts(total=record.runs, waiting=record.runs) if report is None else report.runs
    live = report if state in ("running", "waiting", "stuck", "stopping") else None
    if live is None and counts.running:  # its driver was killed
        counts = counts.model_copy(update={"running": 0, "waiting": counts.waiting + counts.running})
    return models.Sweep(
        id=record.id,
        name=record.name,
        owner=record.owner,
        state=state,
        why=why,
        submitted=record.submitted,
        runs=counts,
        current=[] if live is None else live.current,
        steps_per_second=None if live is None else live.steps_per_second,
        seconds_left=None if live is None else live.seconds_left,
        priority=record.priority,
        at_once=record.at_once,
        versions=record.versions,
    )


def run_names(folder: Path) -> list[str]:
    """The names of a sweep's runs in the order of its plan; those of a search as far as it has found them."""
    with suppress(OSError):
        path = folder / "planned.jsonl"
        known = _setups(path, path.stat().st_mtime_ns)
        found = sorted(one.name for one in (folder / "runs").glob("*") if one.is_dir() and not one.is_symlink())
        return [*known, *(name for name in found if name not in known)]
    return []


def has_run(folder: Path, name: str) -> bool:
    """Whether a sweep has a run of this name, computed or not."""
    path = folder / "runs" / name
    if PLAIN_NAME.fullmatch(name) is None or path.is_symlink():
        return False
    return name in run_names(folder) or path.is_dir()


def run_of(folder: Path, name: str) -> models.Run:
    """A run of a sweep."""
    path = folder / "runs" / name
    found = read_state(path, compared=())
    accuracies: list[float] = []
    with suppress(OSError, ValueError, LookupError):
        accuracies = [float(value) for value in read_table(path / "evaluations.csv")["accuracy"]]
    setup = _setup(folder, name)
    return models.Run(
        run=name,
        state=found.state,
        step=found.step,
        steps=int(setup.get("steps", found.step)),
        accuracy=finite(accuracies[-1]) if accuracies else None,
        best_accuracy=finite(max(accuracies)) if accuracies else None,
        seconds=finite(found.seconds),
        reason=found.reason,
        setup=setup,
    )


def _setup(folder: Path, name: str) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        path = folder / "planned.jsonl"
        if (setup := _setups(path, path.stat().st_mtime_ns).get(name)) is not None:
            return setup
    with suppress(OSError, ValueError):
        content = read_yaml(folder / "runs" / name / "setup.yaml")
        return content if isinstance(content, dict) else {}
    return {}


@lru_cache(maxsize=8)
def _setups(path: Path, version: int) -> dict[str, dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return {one["run"]: one["setup"] for one in map(json.loads, file)}


def files_of(folder: Path, run: str) -> list[models.File]:
    """The files of a run, those that can be fetched."""
    with suppress(OSError):
        paths = sorted((folder / "runs" / run).iterdir())
        plain = (one for one in paths if PLAIN_NAME.fullmatch(one.name) and one.is_file() and not one.is_symlink())
        return [models.File(name=path.name, bytes=path.stat().st_size) for path in plain]
    return []


def log_from(folder: Path, offset: int) -> tuple[bytes, int]:
    """A part of the log of a sweep's driver from a byte on, and where the next part begins."""
    try:
        with open_plain(folder / "driver.log") as file:
            file.seek(offset)
            content = file.read(LOG_BYTES)
    except OSError:
        return b"", offset
    if len(content) == LOG_BYTES:  # whole lines
        content = content[: content.rfind(b"\n") + 1] or content
    return content, offset + len(content)


def results_of(folder: Path, form: str) -> bytes:
    """The runs of a sweep, a row each, as CSV or Parquet.

    Raises:
        byzray.mistakes.WrongInput: there are none.
    """
    frame = load_runs(folder)
    if form == "csv":
        return frame.to_csv(index=False).encode()
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()


def report_of(folder: Path) -> bytes | None:
    """The report of a sweep as a zip; None if it has not been written yet."""
    page = folder / "report"
    if not (page / "index.html").is_file():
        return None
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _plain_files(page):
            archive.write(path, path.relative_to(page).as_posix())
    return content.getvalue()


def _plain_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from _plain_files(path)
        elif path.is_file() and not path.name.startswith("."):
            yield path


class ClusterView:
    """What the cluster has, and who computes on it.

    Args:
        settings: of the service.
        records: of its sweeps.
    """

    def __init__(self, settings: Settings, records: Records) -> None:
        self._folder = settings.sweeps.resolve()
        self._records = records
        self._last: tuple[float, models.Cluster] | None = None

    def get(self) -> models.Cluster:
        """As it was within the last second."""
        if self._last is None or monotonic() - self._last[0] > CLUSTER_SECONDS:
            self._last = monotonic(), self._ask()
        return self._last[1]

    def _ask(self) -> models.Cluster:
        nodes, free = [], {}
        with suppress(RayError):
            nodes, free = ray.nodes(), ray.available_resources()
        return models.Cluster(
            nodes=[
                models.Node(
                    address=node["NodeManagerAddress"], alive=node["Alive"], resources=_countable(node["Resources"])
                )
                for node in nodes
            ],
            total=_countable(sum_of(node["Resources"] for node in nodes if node["Alive"])),
            free=_countable(free),
            turns=[self._turn(claim, answer) for claim, answer in claims()],
        )

    def _turn(self, claim: Claim, answer: Answer) -> models.Turn:
        place = Path(claim.sweep)
        ours = place.parent == self._folder and self._records.get(place.name) is not None
        return models.Turn(
            id=place.name if ours else "",
            name=claim.name,
            owner=claim.owner,
            running=len(claim.held),
            holds=sum_of(bundle for held in claim.held.values() for bundle in held),
            waiting=claim.waiting if claim.wanted is not None else 0,
            why=answer.why,
            stuck=answer.stuck,
        )


def _countable(resources: dict[str, float]) -> dict[str, float]:
    """Without memory and the resources that stand for nodes and placement groups."""
    return {name: amount for name, amount in resources.items() if name in ("CPU", "GPU")}
