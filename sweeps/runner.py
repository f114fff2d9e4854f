"""Run a sweep from Python."""

import math
from collections.abc import Sequence
from pathlib import Path

from actors.supervision import Supervision
from byzray.data import data_root
from byzray.mistakes import WrongInput, parsed
from byzray.report.archive import names_in
from byzray.runs.checkpoints import CheckpointInterval
from sweeps.definition import Sweep, load_sweep, parse_seeds
from sweeps.observer import Observer
from sweeps.outcome import Outcome
from sweeps.plan import make_plan
from sweeps.queue import Turns
from sweeps.storage import Storage
from sweeps.trainable import Resources
from sweeps.tuner import Options, run_sweep
from sweeps.view import View


def run(
    sweep: Sweep | str | Path,
    output: str | Path | None = None,
    *,
    only: str | Sequence[str] = (),
    seeds: str | Sequence[int] | None = None,
    known: str | Path | None = None,
    workers_per_actor: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    retries: int = 1,
    checkpoints: CheckpointInterval = CheckpointInterval(),
    supervision: Supervision = Supervision(),
    data: str | Path | None = None,
    download: bool = False,
    address: str | None = None,
    turns: Turns | None = None,
    observer: Observer | None = None,
) -> Outcome:
    """Compute the runs of a sweep that are not computed yet; the same call continues an interrupted sweep.

    Args:
        sweep: a name (``demo``, ``paper``, ``appendix``), a YAML file, or a sweep made in Python.
        output: the folder or URI of the results; by default ``results/NAME``.
        only: conditions that select some of its setups, such as ``"f == 24 and rate == 0.5"``.
        seeds: replace the sweep's: a list, or a text such as ``1-5``.
        known: an archive of runs, which are left out: see :mod:`byzray.report.archive`.
        workers_per_actor: the number of workers per actor; by default each run is computed in one process.
        cpus: CPUs that a run reserves; by default 1 for each actor.
        gpus: GPUs that a run reserves; by default a share of one where there are any.
        retries: how often a failed run is retried.
        checkpoints: how often a run saves a state to continue from.
        supervision: when an actor counts as lost, and how many losses a run tolerates.
        data: the folder that holds data sets, see :func:`byzray.data.data_root`.
        download: whether missing data sets may be downloaded.
        address: of a running Ray cluster; by default $RAY_ADDRESS, else Ray starts here.
        turns: how it takes turns with other sweeps on a cluster that is already running.
        observer: receives the progress; by default it is shown on standard error, or in the notebook.

    Returns:
        what this call computed. :func:`byzray.load_runs` reads the results of a folder, and
        :func:`byzray.report.write_report` writes the report.

    Raises:
        byzray.mistakes.WrongInput: the sweep, the output or another argument is wrong, or another process computes it.
        actors.FleetError: no cluster answers at the address, Ray cannot start, or there is no room for a single run.
        KeyboardInterrupt: after all running trials have been saved.
    """
    for name, value, least in (("workers_per_actor", workers_per_actor, 1), ("retries", retries, 0)):
        if value is not None and value < least:
            raise WrongInput(f"{name}: got {value}, expected at least {least}")
    for name, amount, smallest in (("cpus", cpus, 1e-4), ("gpus", gpus, 0.0)):  # as Ray counts
        if amount is not None and not smallest <= amount < math.inf:
            raise WrongInput(f"{name}: got {amount}, expected a number >= {smallest:g}")
    chosen = sweep if isinstance(sweep, Sweep) else load_sweep(str(sweep))
    if workers_per_actor is not None:
        chosen = chosen.laid_out(workers_per_actor)
    options = Options(
        Resources(cpus, gpus), retries, data_root(data), download, address, checkpoints, supervision, turns or Turns()
    )
    conditions = (only,) if isinstance(only, str) else tuple(only)
    text = seeds if isinstance(seeds, str) or seeds is None else ",".join(map(str, seeds))
    replaced = None if text is None else parsed("seeds", text, parse_seeds)
    with parsed("output", str(output or f"results/{chosen.name}"), Storage) as storage:
        names = names_in(None if known is None else Path(known))
        plan = make_plan(chosen, storage, options.data, conditions, replaced, names)
        return run_sweep(plan, storage, options, View() if observer is None else observer)
