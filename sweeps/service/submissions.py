"""Submissions as sweeps. They are data: nothing of their authors' is imported, read or built here.

A submission is checked in a process of its own, as to check thousands of setups takes many seconds, and nobody else is
to wait for it.
"""

import hashlib
import json
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from byzray.client.models import Submission
from byzray.datasets.npz import Npz
from byzray.files import read_plain
from byzray.mistakes import WrongInput, short
from byzray.options import importing_only
from byzray.setups import Setup
from byzray.splits.file import File
from byzray.yaml import parse_yaml
from sweeps.definition import SWEEPS, Range, Sweep, SweepFile, parse_file, parse_seeds, sweep_of
from sweeps.grid import SweepError
from sweeps.plan import Paces
from sweeps.service.settings import Settings

# A submission that takes longer to check is refused, in seconds.
CHECK_SECONDS = 120

# The file in which a driver leaves the paces of its runs.
PACES = "paces.json"

IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+")

T = TypeVar("T")


class Rejected(WrongInput):
    """A submission is wrong.

    Attributes:
        mistakes: all of its mistakes, each with its place, the value and what was expected.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = list(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{count} in the submission")

    def __reduce__(self) -> tuple[type["Rejected"], tuple[list[str]]]:
        return Rejected, (self.mistakes,)


class Estimate(NamedTuple):
    """How long a sweep takes.

    Attributes:
        seconds: on so many slots; None if no similar runs were measured.
        without: how many runs are left out, as no similar ones were measured.
    """

    seconds: float | None
    without: int


class Checked(NamedTuple):
    """A submission that is valid.

    Attributes:
        id: of its sweep: the same for the same content and owner.
        name: of its sweep.
        setups: how many setups it has.
        runs: how many runs.
    """

    id: str
    name: str
    setups: int
    runs: int


def sweep_in(submission: Submission, allow: Sequence[str]) -> tuple[Sweep, list[int] | None]:
    """The sweep in a submission, and the seeds that replace the sweep's, if any.

    Args:
        submission: it.
        allow: the classes and paths that it may name, see :class:`sweeps.service.settings.Settings`.

    Raises:
        Rejected: it is wrong.
    """
    if submission.sweep is not None and submission.yaml is not None:
        raise Rejected(["sweep, yaml: got both, expected one of them"])
    with importing_only(name for name in allow if ":" in name):
        try:
            sweep = _named(submission) if submission.yaml is None else _written(submission.yaml, submission.name)
            if submission.set:
                sweep = sweep.changed(submission.set)
            if submission.workers_per_actor is not None:
                sweep = sweep.laid_out(submission.workers_per_actor)
            setups = sweep.setups(tuple(submission.only))
            seeds = None if submission.seeds is None else parse_seeds(submission.seeds)
        except SweepError as error:
            raise Rejected(error.mistakes) from None
        except ValueError as error:
            raise Rejected([f"seeds: got {short(submission.seeds)}, {error}"]) from None
    if sweep.search is not None:
        over = sweep.search.sample.model_dump(exclude_none=True)["over"]
        mistakes = [*_foreign_names(sweep.search.base, allow), *_foreign_names(over, allow)]
    else:
        mistakes = _foreign_paths(setups, allow)
    if mistakes:
        raise Rejected(list(dict.fromkeys(mistakes)))
    return sweep, seeds


def _named(submission: Submission) -> Sweep:
    if submission.sweep is None:
        raise Rejected(["sweep: expected the name of a sweep that is built in, or a 'yaml'"])
    if submission.sweep not in SWEEPS:
        raise Rejected([f"sweep: got {short(submission.sweep)}, expected one of {', '.join(SWEEPS)}, or a 'yaml'"])
    return SWEEPS[submission.sweep][1]()


def _written(text: str, name: str | None) -> Sweep:
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise Rejected([f"yaml: {error}"]) from None
    if not isinstance(content, dict):
        raise Rejected([f"yaml: got {short(content)}, expected a mapping of fields such as 'dataset: mnist'"])
    name = name or "sweep"
    if content.keys() & Setup.model_fields.keys() and not content.keys() & SweepFile.model_fields.keys():
        return sweep_of(SweepFile(reference=False), content, "yaml", name)
    file = parse_file("yaml", content)
    if isinstance(file.base, str):
        raise Rejected([f"base: got {short(file.base)}, expected the fields themselves: a service reads no other file"])
    return sweep_of(file, file.base, "yaml", name)


def _foreign_names(content: Any, allow: Sequence[str], key: str = "") -> Iterator[str]:
    """What is wrong with the classes and paths anywhere in a search, whose setups are not known yet."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _foreign_names(value, allow, name if name not in Range.model_fields else key)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _foreign_names(value, allow, key)
    elif isinstance(content, str) and content not in allow:
        if IMPORT_PATH.fullmatch(content):
            yield f"{key}: {content!r} is a class of somebody's own, which is not imported here"
        elif key.rpartition(".")[2] == "path":
            yield f"{key}: got {short(content)}, expected one that the operator allows"


def _foreign_paths(setups: Sequence[Setup], allow: Sequence[str]) -> list[str]:
    """What is wrong with the paths that setups name."""
    named = {("dataset.path", one.dataset.path) for one in setups if isinstance(one.dataset, Npz)}
    named |= {("split.path", one.split.path) for one in setups if isinstance(one.split, File)}
    allowed = [name for name in allow if ":" not in name]
    expected = f"one that the operator allows: {', '.join(allowed) or 'none'}"
    return [f"{where}: got {short(path)}, expected {expected}" for where, path in sorted(named) if path not in allowed]


def identity(submission: Submission, sweep: Sweep, seeds: list[int] | None, owner: str) -> str:
    """The id of a submission's sweep."""
    name = submission.name or sweep.name
    stopping = sweep.early_stopping and sweep.early_stopping.model_dump()
    sample = sweep.search and sweep.search.sample.model_dump()
    content = [owner, name, sweep.digest(), seeds or sweep.seeds, submission.only, stopping, sample]
    return f"{name.lower()}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]}"


def _within_time(import_from: str, task: Callable[..., T], *arguments: Any) -> T:
    if import_from not in sys.path:
        sys.path.append(import_from)  # last, so that nothing there hides an installed module
    signal.alarm(CHECK_SECONDS)  # which ends the process
    try:
        return task(*arguments)
    finally:
        signal.alarm(0)


def _check(submission: Submission, allow: Sequence[str], owner: str, most_runs: int) -> Checked:
    sweep, seeds = sweep_in(submission, allow)
    setups = len(sweep.setups(tuple(submission.only))) if sweep.search is None else sweep.search.sample.count
    runs = setups * len(seeds or sweep.seeds)
    if runs > most_runs:
        raise Rejected([f"has {runs} runs, expected at most {most_runs}"])
    return Checked(identity(submission, sweep, seeds, owner), submission.name or sweep.name, setups, runs)


def _estimate(submission: Submission, allow: Sequence[str], folders: Sequence[Path], slots: int) -> Estimate:
    sweep, seeds = sweep_in(submission, allow)
    paces = Paces([])
    for folder in folders:
        with suppress(OSError, ValueError, TypeError):
            paces.add_content(json.loads(read_plain(folder / PACES)))
    search = sweep.search
    setups = sweep.setups(tuple(submission.only)) if search is None else search.examples()[: search.sample.count]
    each = len(seeds or sweep.seeds) * (1 if search is None else search.sample.count / len(setups))
    known = [(setup.steps, paces.of(setup)) for setup in setups]
    seconds = [steps * pace * each for steps, pace in known if pace is not None]
    return Estimate(sum(seconds) / slots if seconds else None, round((len(known) - len(seconds)) * each))


class Checker:
    """Checks submissions in a process of its own.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self.allow = settings.allow
        self.most_runs = settings.most_runs
        self.import_from = str(settings.import_from)
        self._pool: ProcessPoolExecutor | None = None
        self._lock = Lock()  # one at a time

    def check(self, submission: Submission, owner: str) -> Checked:
        """Check a submission.

        Raises:
            Rejected: it is wrong.
        """
        return self._do(_check, submission, self.allow, owner, self.most_runs)

    def estimate(self, submission: Submission, folders: Sequence[Path], slots: int) -> Estimate:
        """Estimate the time of a submission that was checked.

        Args:
            submission: it.
            folders: of earlier sweeps, whose paces are known.
            slots: how many runs are computed at the same time.
        """
        return self._do(_estimate, submission, self.allow, tuple(folders), slots)

    def _do(self, task: Callable[..., T], *arguments: Any) -> T:
        with self._lock:
            for _ in range(2):  # somebody may have killed the process since the last one
                began = time.monotonic()
                self._pool = self._pool or _process()
                try:
                    return self._pool.submit(_within_time, self.import_from, task, *arguments).result()
                except BrokenProcessPool:
                    self.close()
                    if time.monotonic() - began > CHECK_SECONDS:
                        break
        raise Rejected([f"cannot be checked within {CHECK_SECONDS} s and the memory there is, expected fewer setups"])

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
