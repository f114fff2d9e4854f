"""Computes runs of an archive again, and compares."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from byzray.mistakes import WrongInput, short
from byzray.options import importing_only
from byzray.report.archive import read_archive
from byzray.report.collect import Run, collect
from byzray.setups import Setup
from byzray.simulation import simulate

ELSEWHERE = ("device", "threads", "python", "packages")
"""Of an environment, what may change a result."""


MOST_THREADS = 1024


class Recomputed(NamedTuple):
    """A run that was computed again.

    Attributes:
        run: its name.
        difference: what differs; empty if all accuracies and the final parameters are the same, to the bit.
        elsewhere: how the environment differs from that of the archive; empty if it does not.
    """

    run: str
    difference: str
    elsewhere: str


def recompute(path: Path, count: int, data: Path) -> Iterator[Recomputed]:
    """Compute so many runs of an archive again, drawn at random from those that finished and were computed in one
    process; each on as many threads as before.

    Args:
        path: the archive.
        count: how many; all, if it has fewer.
        data: the folder that holds data sets.

    Raises:
        WrongInput: there is no archive, or a run names a class of somebody's own, which is not imported.
        byzray.datasets.MissingData: a data set is not there.
    """
    runs = [run for run in read_archive(path, str(path)).runs if _can_be_computed(run)]
    if not runs:
        raise WrongInput(f"{path}: holds no finished run that was computed in one process")
    drawn = np.random.default_rng().permutation(len(runs))[:count]
    threads = torch.get_num_threads()
    try:
        for number in sorted(drawn):
            yield _recomputed(runs[number], data)
    finally:
        torch.set_num_threads(threads)


def _can_be_computed(run: Run) -> bool:
    """Whether the same bits are expected: a scheduler may have stopped a run, and rounding differs between layouts."""
    return run.state == "finished" and run.setup.get("actors") is None


def _recomputed(run: Run, data: Path) -> Recomputed:
    try:
        with importing_only(()):
            setup = Setup.model_validate(run.setup)
    except ValueError as error:
        raise WrongInput(f"{run.name}: its setup cannot be computed here: {error}") from error
    threads = run.environment.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise WrongInput(f"{run.name}: got {short(threads)} threads, expected 1 to {MOST_THREADS}")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        simulate(setup, output=folder, data=data, progress=lambda _: False)
        (again,) = collect(Path(folder)).runs
    differences = []
    if again.digests["parameters.npy"] != run.digests["parameters.npy"]:
        differences.append("the final parameters")
    before, now = (one.evaluations["accuracy"].to_numpy() for one in (run, again))
    if len(before) != len(now):
        differences.append(f"{len(now)} evaluations, in the archive {len(before)}")
    elif not np.array_equal(before, now, equal_nan=True):
        differences.append(f"accuracies, by up to {np.nanmax(np.abs(before - now)):.2g}")
    return Recomputed(run.name, ", ".join(differences), _elsewhere(run.environment, again.environment))


def _elsewhere(before: dict[str, Any], now: dict[str, Any]) -> str:
    found = []
    for key in ELSEWHERE:
        then, here = before.get(key), now.get(key)
        if isinstance(then, dict) and isinstance(here, dict):
            names = sorted(name for name in then.keys() | here.keys() if then.get(name) != here.get(name))
            found += [f"{name} {here.get(name)}, in the archive {then.get(name)}" for name in names]
        elif then != here:
            found.append(f"{key} {here}, in the archive {then}")
    return "; ".join(found)
