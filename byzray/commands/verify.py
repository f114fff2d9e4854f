"""byzray verify."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from byzray.commands._shared import DataRoot, number, out, pull_results
from byzray.mistakes import WrongInput, parsed


def verify(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A run, a folder or URI of runs, or an archive: NAME.parquet.")
    ],
    recompute: Annotated[
        int | None,
        typer.Option(parser=number(int, 1), metavar="N", help="Of an archive: compute N runs again, drawn at random."),
    ] = None,
    data: DataRoot = None,
) -> None:
    """Compare the files of runs with their digests, or runs of an archive with what is computed here; fails if one
    differs."""
    from byzray.data import data_root
    from byzray.report.archive import is_archive

    if is_archive(Path(directory)) != (recompute is not None):
        expected = "expected --recompute N for it" if recompute is None else "expected an archive, NAME.parquet"
        raise WrongInput(f"{directory}: is {'an' if recompute is None else 'no'} archive of runs, {expected}")
    if recompute is not None:
        _recompute(Path(directory), recompute, data_root(data))
        return
    _compare_digests(directory)


def _recompute(path: Path, count: int, data: Path) -> None:
    from byzray.report.recompute import recompute

    different, computed, elsewhere = 0, 0, ""
    for one in recompute(path, count, data):
        computed, different, elsewhere = computed + 1, different + bool(one.difference), one.elsewhere
        out.print(f"differs: {one.run}: {one.difference}" if one.difference else f"the same: {one.run}", markup=False)
    out.print(f"{computed} runs: {computed - different} the same, {different} different")
    if elsewhere and different:
        out.print(f"computed elsewhere: {elsewhere}", markup=False)
    if different:
        raise typer.Exit(1)


def _compare_digests(directory: str) -> None:
    from byzray.runs.directory import STATES
    from byzray.runs.verification import verify as verify_runs
    from sweeps.storage import Storage

    with parsed("DIR", directory, Storage) as storage:
        pull_results(storage)
        verdicts = verify_runs(storage.folder, locks=storage.filesystem is None)
    if not verdicts:
        raise WrongInput(f"{storage.shown}: holds no runs")
    for one in verdicts:
        if one.problem:
            out.print(f"damaged: {one.run}: {one.problem}", markup=False)
    states = Counter("damaged" if one.problem else one.state for one in verdicts)
    out.print(f"{len(verdicts)} runs: " + ", ".join(f"{states[state]} {state}" for state in STATES if states[state]))
    if states["damaged"]:
        raise typer.Exit(1)
