"""Verification of the files of runs by their digests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from byzray.mistakes import visible
from byzray.runs.checkpoints import Checkpoints, Damaged
from byzray.runs.directory import read_state, run_directories

# Run directories below a folder, which is itself a run, or holds runs, a sweep or sweeps.
PLACES = (".", "*", "runs/*", "*/runs/*")


class Verdict(NamedTuple):
    """The result of a run's verification.

    Attributes:
        run: its directory, relative to the given folder.
        state: one of :data:`byzray.runs.directory.RunState`.
        problem: which file was changed or cannot be read; empty if none.
    """

    run: str
    state: str
    problem: str


def verify(folder: Path, locks: bool = True) -> list[Verdict]:
    """Compare the files of all runs in a folder with their digests; imports and writes nothing.

    Unfinished runs are verified by their checkpoints.
    """
    found = run_directories(folder, PLACES)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: _verdict(path, folder, locks), found))


def _verdict(path: Path, folder: Path, locks: bool) -> Verdict:
    found = read_state(path, locks=locks)
    problems = [*_damaged_checkpoints(path), *([found.reason] if found.state == "damaged" else [])]
    name = path.name if path == folder else str(path.relative_to(folder))
    return Verdict(visible(name), found.state, "; ".join(map(visible, problems)))


def _damaged_checkpoints(path: Path) -> Iterator[str]:
    checkpoints = Checkpoints(path / "checkpoints")
    for one in checkpoints.paths():
        try:
            checkpoints.check(one)
        except Damaged as damage:
            if one.is_symlink() or one.exists():  # else it was replaced by a newer one
                yield str(damage).replace(f"{path}/", "")
