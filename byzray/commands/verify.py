"""byzray verify."""

from collections import Counter
from typing import Annotated

import typer

from byzray.commands._shared import out, pull_results
from byzray.mistakes import WrongInput, parsed
from byzray.runs.directory import STATES


def verify(directory: Annotated[str, typer.Argument(metavar="DIR", help="A run, or a folder or URI of runs.")]) -> None:
    """Compare the files of runs with their digests; fails if one was changed."""
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
