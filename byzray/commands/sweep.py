"""byzray sweep."""

from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from byzray.commands._shared import (
    Address,
    CheckpointEvery,
    Cpus,
    DataRoot,
    Deadline,
    Gpus,
    Restarts,
    Retries,
    err,
    holds,
    import_from,
    import_from_folder_of,
    interval,
    number,
    out,
    stopped_by_signals,
)
from byzray.commands.report import write_report
from byzray.mistakes import Failure, SetupError, WrongInput, parsed

if TYPE_CHECKING:
    from sweeps.plan import Plan
    from sweeps.storage import Storage
    from sweeps.trainable import Resources


def sweep(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="demo, paper, appendix or a YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run and why, and run nothing.")] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="With --plan: measure a few steps of each kind of run for the estimate."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPR", help='Only these setups, such as "f == 24 and rate == 0.5". Repeatable.'),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="1-5", help="Replaces the sweep's seeds.")] = None,
    known: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Leave out the runs of this archive (NAME.parquet, of `byzray report`)."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or URI (s3://...) of the results.", show_default="results/SWEEP"),
    ] = None,
    workers_per_actor: Annotated[
        int | None, typer.Option(parser=number(int, 1), metavar="N", help="Each run on actors of its own.")
    ] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    retries: Retries = 1,
    checkpoint_every: CheckpointEvery = None,
    restarts: Restarts = 20,
    deadline: Deadline = None,
    data: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Download data sets that are missing.")] = False,
    address: Address = None,
) -> None:
    """Run the setups of a sweep on Ray Tune, continue unfinished runs, and write the report."""
    import actors
    import sweeps
    from byzray.data import data_root
    from byzray.recording.progress import actor_log_shown
    from byzray.report.archive import names_in
    from byzray.setups import Setup
    from sweeps.definition import SweepFile, parse_seeds
    from sweeps.grid import SweepError
    from sweeps.plan import make_plan
    from sweeps.storage import Storage
    from sweeps.summary import print_outcome
    from sweeps.trainable import Resources
    from sweeps.view import View

    if measure and not plan:
        raise WrongInput("--measure: works only with --plan")
    _import_from(name)
    try:
        chosen = sweeps.load_sweep(name)
    except SweepError as error:
        if not holds(Path(name), Setup, but_not=SweepFile):
            raise
        raise WrongInput(
            f"{name}: is a setup, not a sweep; run it with `byzray run {quote(name)}`, "
            "or write a sweep that has it as its `base`"
        ) from error
    replaced = None if seeds is None else parsed("--seeds", seeds, parse_seeds)
    with parsed("--output", output or f"results/{chosen.name}", Storage) as storage:
        if plan:
            laid_out = chosen if workers_per_actor is None else chosen.laid_out(workers_per_actor)
            planned = make_plan(laid_out, storage, data_root(data), only or (), replaced, names_in(known))
            _show_plan(planned, storage, Resources(cpus, gpus), data_root(data), measure)
            return
        _expect_utf8("--output", storage.shown)
        started = actor_log_shown(lambda text: err.print(f"byzray: {text}", markup=False))
        with started:
            try:
                outcome = sweeps.run(
                    chosen,
                    storage.where,
                    only=only or (),
                    seeds=replaced,
                    known=known,
                    workers_per_actor=workers_per_actor,
                    cpus=cpus,
                    gpus=gpus,
                    retries=retries,
                    checkpoints=interval(checkpoint_every),
                    supervision=actors.Supervision(restarts, deadline),
                    data=data,
                    download=download,
                    address=address,
                    observer=View(err, lambda: stopped_by_signals("saving the runs in progress")),
                )
            except actors.FleetError as error:  # no cluster, or no room for a single run
                raise WrongInput(str(error)) from error
        print_outcome(outcome, storage, out)
        if not outcome.interrupted:
            try:
                write_report(storage)
            except WrongInput as error:  # something else lies in the place of the report
                raise Failure(str(error)) from error
    if not outcome.complete:
        raise typer.Exit(1)


def _import_from(name: str) -> None:
    """Also import the user's own classes from the working folder and from the folders of the sweep and its base."""
    from byzray.setups.files import read_content

    import_from(Path.cwd())
    path = Path(name)
    if path.is_file():
        import_from_folder_of(path)
        with suppress(SetupError):
            base = read_content(path).get("base")
            if isinstance(base, str):
                import_from_folder_of(path.parent / base)


def _show_plan(plan: "Plan", storage: "Storage", resources: "Resources", data: Path, measure: bool) -> None:
    from byzray.datasets import MissingData
    from sweeps.measure import measure as measure_kinds
    from sweeps.summary import print_plan

    paces = plan.paces()
    unmeasured = measure_kinds(plan, data, paces) if measure else None
    print_plan(plan, storage, resources, paces, out, unmeasured)
    if any(not isinstance(error, MissingData) for error in (unmeasured or {}).values()):
        raise typer.Exit(1)


def _expect_utf8(option: str, name: str) -> None:
    """Refuse other names, as Ray cannot store files below them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise WrongInput(f"{option}: got {name!r}, expected a folder whose name is UTF-8") from None
