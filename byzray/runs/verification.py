"""Whether the files of runs are those that were computed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from byzray.mistakes import visible
from byzray.runs.checkpoints import Checkpoints, Damaged
from byzray.runs.directory import read_state, run_directories

# Where runs lie below a folder: itself a run, a folder of runs, that of a sweep, one of sweeps.
PLACES = (".", "*", "runs/*", "*/runs/*")


class Verdict(NamedTuple):
    """What is said of a run.

    Attributes:
        run: its directory, as seen from the folder that was given.
        state: one of :data:`byzray.runs.directory.RunState`.
        problem: which file was changed or cannot be read; empty if none.
    """

    run: str
    state: str
    problem: str


def verify(folder: Path) -> list[Verdict]:
    """Compare the files of all runs at or below a folder with their digests; nothing is imported or written.

    Of a run that is not finished these are its checkpoints.
    """
    found = run_directories(folder, PLACES)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: _verdict(path, folder), found))


def _verdict(path: Path, folder: Path) -> Verdict:
    found = read_state(path)
    problems = [*_damaged_checkpoints(path), *([found.reason] if found.state == "damaged" else [])]
    name = path.name if path == folder else str(path.relative_to(folder))
    return Verdict(visible(name), found.state, "; ".join(map(visible, problems)))


def _damaged_checkpoints(path: Path) -> Iterator[str]:
    checkpoints = Checkpoints(path / "checkpoints")
    for one in checkpoints.paths():
        try:
            checkpoints.check(one)
        except Damaged as damage:
            if one.is_symlink() or one.exists():  # else a newer one took its place meanwhile
                yield str(damage).replace(f"{path}/", "")
