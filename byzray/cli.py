"""The `byzray` command. Exit codes: 0 done, 1 the work failed, 2 the input is wrong."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from byzray.aggregators import RandomMixture
from byzray.datasets import MissingData
from byzray.devices import Device
from byzray.mistakes import Failure, SetupError
from byzray.options import Options, Registry
from byzray.setups import Setup, load_setup
from byzray.yaml import parse_yaml

if TYPE_CHECKING:
    from byzray.doctor import Finding
    from byzray.recording import CheckpointInterval
    from sweeps.storage import Storage

T = TypeVar("T")

# How long `byzray doctor` waits for a cluster, in seconds: some nodes may not answer.
DOCTOR_SECONDS = 300.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP.yaml", help="The setup file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, such as momentum.placement=update. Repeatable."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The folder that holds data sets.", show_default="$BYZRAY_DATA"),
]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        metavar="N|Ns",
        help="Save a state to continue from every N steps, or N seconds.",
        show_default="about once a minute",
    ),
]
Restarts = Annotated[int, typer.Option(min=0, help="How often actors of a run that were lost are replaced.")]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        max=1e6,
        metavar="SECONDS",
        help="An actor that is silent for so long counts as lost.",
        show_default="20 times the slowest step, at least 30",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, such as auto.", show_default="$RAY_ADDRESS, else one is started"),
]


class WrongInput(Exception):
    """A mistake in what the user gave: shown as one message, exit code 2."""


def main() -> None:
    """The entry point: no traceback for a user's mistake."""
    from byzray.recording import Interrupted
    from byzray.results import RunExists

    try:
        app()
    except (SetupError, MissingData, RunExists, WrongInput) as error:
        err.print(f"[red]byzray:[/] {escape(str(error))}")
        sys.exit(2)
    except Failure as error:
        err.print(f"[red]byzray:[/] failed: {escape(str(error))}")
        sys.exit(1)
    except Interrupted as error:
        err.print(f"[yellow]byzray:[/] {escape(str(error))}; the same command with --resume continues it")
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be read
        err.print(f"[red]byzray:[/] failed: {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("[yellow]byzray:[/] aborted")
        sys.exit(1)
    except Exception as error:
        err.print(escape("".join(traceback.format_exception(error))), style="dim")
        err.print(f"[red]byzray:[/] failed: {escape(f'{type(error).__name__}: {error}')}")
        sys.exit(1)


def read_setup(path: Path, overrides: list[str] | None, **more: Any) -> Setup:
    """The setup of a command line; classes of the user's own are looked for in the working directory, too."""
    sys.path.insert(0, str(Path.cwd()))
    values: dict[str, Any] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise WrongInput(f"--set: got {override!r}, expected KEY=VALUE, such as momentum.placement=update")
        try:
            values[key] = parse_yaml(value)
        except ValueError as error:
            raise WrongInput(f"--set {key}: the value {value!r} {error}") from error
    return load_setup(path, values | more)


@app.command()
def run(
    setup_file: SetupFile,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the setup's seed.")] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the run's own directory is made.")] = Path(
        "results"
    ),
    in_process: Annotated[bool, typer.Option("--in-process", help="Compute in this process, without Ray.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    checkpoint_every: CheckpointEvery = None,
    restarts: Restarts = 20,
    deadline: Deadline = None,
    data: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")] = False,
    address: Address = None,
) -> None:
    """Run one setup, on Ray actors unless told otherwise."""
    more: dict[str, Any] = {} if seed is None else {"seed": seed}
    setup = read_setup(setup_file, overrides, **more, **({"actors": None} if in_process else {}))
    began = time.monotonic()
    with shown_progress(setup) as progress:
        options: dict[str, Any] = {"output": output, "data": data, "download": download, "resume": resume}
        options["checkpoints"] = _interval(checkpoint_every)
        if setup.actors is None:
            from byzray.simulation import simulate

            result = simulate(setup, progress=progress, **options)
        else:
            import actors

            supervision = actors.Supervision(restarts, deadline)
            result = actors.simulate(setup, progress=progress, address=address, supervision=supervision, **options)
    last = result.evaluations.iloc[-1]
    took = "computed earlier, not run again" if result.reused else f"{time.monotonic() - began:.1f} s"
    out.print(
        f"{setup.label()}: best accuracy {result.best_accuracy:.4f}, "
        f"{last['accuracy']:.4f} at step {int(last['step'])}, {took}"
    )
    if result.diverged is not None:
        out.print(f"diverged at step {result.diverged.step}: {result.diverged.reason}")
    out.print(str(result.directory))


def _interval(text: str | None) -> "CheckpointInterval":
    from byzray.recording import CheckpointInterval

    return CheckpointInterval() if text is None else _parsed("--checkpoint-every", text, CheckpointInterval.parse)


@contextmanager
def shown_progress(setup: Setup) -> Iterator[Callable[[Any], bool]]:
    """Yields a function to report progress to. It asks for a stop after SIGINT or SIGTERM."""
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:  # the second one does not wait for the end of the stretch
            raise KeyboardInterrupt
        stopping = True
        err.print(f"byzray: {signal.Signals(number).name}: stopping after this stretch of steps")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (_live if err.is_terminal else _lines)(setup) as show:

            def report(update: Any) -> bool:
                for event in update.events:
                    err.print(f"[yellow]byzray:[/] {escape(event)}")
                show(update)
                return stopping

            yield report
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _live(setup: Setup) -> Iterator[Callable[[Any], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  loss {task.fields[loss]:.4f}"),
        TextColumn("accuracy {task.fields[accuracy]:.4f}  {task.fields[pace]:.1f} steps/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        nan = float("nan")
        task = bar.add_task(setup.label(), total=setup.steps, loss=nan, accuracy=nan, pace=0.0, start=False)
        pace = Pace()

        def show(update: Any) -> None:
            if pace.first is None:
                bar.start_task(task)
            steps_per_second = pace.at(update.step)
            bar.update(task, completed=update.step, loss=update.loss, accuracy=update.accuracy, pace=steps_per_second)

        yield show


@contextmanager
def _lines(setup: Setup) -> Iterator[Callable[[Any], None]]:
    """Plain lines, not more than one in five seconds, where the output is no terminal."""
    pace = Pace()
    shown = -5.0

    def show(update: Any) -> None:
        nonlocal shown
        now = time.monotonic()
        started = pace.first is not None
        steps_per_second = pace.at(update.step)
        if not started:  # nothing to tell yet
            return
        if now - shown >= 5 or update.ended:
            shown = now
            left = (setup.steps - update.step) / steps_per_second if steps_per_second else float("nan")
            err.print(
                f"{setup.label()}: step {update.step}/{setup.steps}  loss {update.loss:.4f}  "
                f"accuracy {update.accuracy:.4f}  {steps_per_second:.1f} steps/s  {left:.0f} s left"
            )

    yield show


class Pace:
    """Steps a second since the first report."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None

    def at(self, step: int) -> float:
        now = time.monotonic()
        if self.first is None:
            self.first = (now, step)
        began, first_step = self.first
        return (step - first_step) / (now - began) if now > began else 0.0


@app.command()
def show(setup_file: SetupFile, overrides: Overrides = None) -> None:
    """Print a setup resolved, with its rule's validity and variance-norm bound."""
    setup = read_setup(setup_file, overrides)
    untried = _untried(setup)
    out.print(setup.yaml().rstrip(), markup=False)
    n, f = setup.workers, setup.tolerated
    out.print(f"# n = {n}, f = {f}, honest workers: {setup.honest}, run directory: {_directory_name(setup)}")
    rules = [setup.aggregator]
    if isinstance(setup.aggregator, RandomMixture):
        rules += [component.rule for component in setup.aggregator.rules]
    for rule in rules:
        bound = rule.bound(n, f)
        proven = "no variance-norm bound is known" if bound != bound else f"variance-norm bound {bound:.6g}"
        out.print(f"# {rule.label()}: valid for these n and f; {proven}")
    if untried:
        out.print(f"# {untried}", markup=False)


def _untried(setup: Setup) -> str | None:
    """Why the model was not tried on the data set, where that tells its shape only when it is read.

    Raises:
        SetupError: they do not fit.
    """
    from byzray.simulation import load_data

    if setup.dataset.shape is not None:
        return None
    try:
        load_data(setup)
    except MissingData:
        return "the data set is not here, so it was not checked whether the model fits it"
    return None


def _directory_name(setup: Setup) -> str:
    from byzray.results import RunDirectory

    return RunDirectory.name(setup)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="demo, paper, appendix or a YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run and why, and run nothing.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --plan: take a few steps of each kind of run, for an estimate.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPR", help='Only these setups, such as "f == 24 and rate == 0.5". Repeatable.'),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="1-5", help="Replaces the sweep's seeds.")] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or URI (s3://...) of the results.", show_default="results/SWEEP"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="As sweeps always do: continue what is there.")] = True,
    in_process: Annotated[bool, typer.Option("--in-process", help="Each run in one actor, as by default.")] = False,
    workers_per_actor: Annotated[int | None, typer.Option(min=1, help="Each run on actors of its own.")] = None,
    cpus: Annotated[
        float | None, typer.Option(min=1e-4, help="CPUs of a run.", show_default="1 for each actor")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a run.", show_default="1/4 or more where there are any")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a run that failed is tried again.")] = 1,
    checkpoint_every: CheckpointEvery = None,
    restarts: Restarts = 20,
    deadline: Deadline = None,
    data: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Download data sets that are missing.")] = False,
    address: Address = None,
) -> None:
    """Run many setups on Ray Tune, continue those under way, and write the report."""
    from actors import FleetError, Supervision
    from byzray.simulation import data_root
    from sweeps.definition import load_sweep, parse_seeds
    from sweeps.grid import SweepError
    from sweeps.measure import measure as measure_kinds
    from sweeps.plan import make_plan
    from sweeps.storage import Storage
    from sweeps.summary import print_outcome, print_plan
    from sweeps.sweep import Options as SweepOptions
    from sweeps.sweep import OutputNotShared, SweepInUse, run_sweep
    from sweeps.trainable import Resources

    if measure and not plan:
        raise WrongInput("--measure: expected with --plan, which it is for")
    if in_process and workers_per_actor is not None:
        raise WrongInput("--in-process and --workers-per-actor exclude each other")
    sys.path.insert(0, str(Path.cwd()))
    try:
        chosen = load_sweep(name)
        if in_process or workers_per_actor is not None:
            chosen = chosen.laid_out(workers_per_actor)
        replaced = None if seeds is None else _parsed("--seeds", seeds, parse_seeds)
        with _parsed("--output", output or f"results/{chosen.name}", Storage) as storage:
            planned = make_plan(chosen, storage, data_root(data), only or (), replaced)
            resources = Resources(cpus, gpus)
            if plan:
                paces = planned.paces()
                unmeasured = measure_kinds(planned, data_root(data), paces) if measure else None
                print_plan(planned, storage, resources, paces, out, unmeasured)
                if any(not isinstance(error, MissingData) for error in (unmeasured or {}).values()):
                    raise typer.Exit(1)
                return
            options = SweepOptions(
                resources,
                retries,
                data_root(data),
                download,
                address,
                checkpoints=_interval(checkpoint_every),
                supervision=Supervision(restarts, deadline),
            )
            outcome = run_sweep(planned, storage, options, err)
            print_outcome(outcome, storage, out)
            if not outcome.interrupted:
                _report(storage)
    except (SweepError, SweepInUse, OutputNotShared, FleetError, ConnectionError) as error:
        raise WrongInput(str(error)) from error
    if outcome.failed or outcome.interrupted or outcome.stranded:
        raise typer.Exit(1)


@app.command()
def report(directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URI of the results.")]) -> None:
    """Write the report on whatever runs there are: a page, figures and tables."""
    from byzray.report import NothingToReport
    from sweeps.storage import Storage

    try:
        with _parsed("DIR", directory, Storage) as storage:
            _report(storage)
    except (NothingToReport, FileExistsError) as error:
        raise WrongInput(str(error)) from error


@app.command()
def verify(directory: Annotated[str, typer.Argument(metavar="DIR", help="A run, or a folder or URI of runs.")]) -> None:
    """Compare the files of runs with their digests; fails if one was changed."""
    from byzray.verification import verify as verify_runs
    from sweeps.storage import Storage

    with _parsed("DIR", directory, Storage) as storage:
        _pull_results(storage)
        verdicts = verify_runs(storage.folder)
    if not verdicts:
        raise WrongInput(f"{storage.shown}: holds no runs")
    damaged = [one for one in verdicts if one.problem]
    for one in damaged:
        out.print(f"damaged: {one.run}: {one.problem}", markup=False)
    finished = sum(one.state in ("finished", "stopped") for one in verdicts)
    out.print(f"{len(verdicts)} runs, {finished} of them finished: {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


def _parsed(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise WrongInput(f"{option}: got {text!r}, {error}") from error


def _report(storage: "Storage") -> None:
    from byzray.report import write_report

    _pull_results(storage)
    written = write_report(storage.folder, shown=storage.shown)
    storage.push("report")
    storage.remove("report")  # figures of an earlier one
    for line in written.summary:
        out.print(line, markup=False)


def _pull_results(storage: "Storage") -> None:
    # A folder of single runs has no folder `runs`; what Tune wrote is of no use here.
    storage.pull(*(name for name in storage.top() if name not in ("tune", "replaced")))


class Kind(StrEnum):
    aggregators = "aggregators"
    attacks = "attacks"
    models = "models"
    datasets = "datasets"
    sweeps = "sweeps"


@app.command(name="list")
def list_options(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what setups can name, with the options of each and their defaults."""
    from byzray.aggregators import AGGREGATORS
    from byzray.attacks import ATTACKS
    from byzray.datasets import DATASETS
    from byzray.models import MODELS

    if kind is Kind.sweeps:
        _list_sweeps()
        return
    registries: dict[Kind, Registry[Any]] = {
        Kind.aggregators: AGGREGATORS,
        Kind.attacks: ATTACKS,
        Kind.models: MODELS,
        Kind.datasets: DATASETS,
    }
    table = Table("name", "what it is", "options", box=None, padding=(0, 2, 0, 0))
    for name, cls in registries[kind].classes.items():
        table.add_row(name, escape((cls.__doc__ or "").split("\n\n")[0].strip()), escape(_options(cls)))
    Console(highlight=False, emoji=False, width=max(out.width, 100)).print(table)


def _list_sweeps() -> None:
    from sweeps.definition import SWEEPS

    table = Table("name", "what it is", "setups", "runs", box=None, padding=(0, 2, 0, 0))
    for name, (what, make) in SWEEPS.items():
        made = make()
        setups = len(made.setups())
        table.add_row(name, escape(what), f"{setups}", f"{setups * len(made.seeds)}")
    Console(highlight=False, emoji=False, width=max(out.width, 100)).print(table)


def _options(cls: type[Options]) -> str:
    fields = cls.model_fields.items()
    return "\n".join(
        f"{name} (required)" if field.is_required() else f"{name} = {field.default}" for name, field in fields
    )


@app.command()
def conformance(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of vectors.")],
    on_actors: Annotated[bool, typer.Option("--actors", help="Run trajectories on Ray actors.")] = False,
    device: Annotated[Device, typer.Option(help="Where rules, attacks and trajectories are computed.")] = "auto",
    address: Address = None,
) -> None:
    """Replay vectors of the published code; fails if an error is over its tolerance."""
    from byzray.conformance import replay

    if not directory.is_dir():
        raise WrongInput(f"{directory}: expected a directory of vectors")
    failed, count = [], 0
    with _trajectory_starter(on_actors, address) as start:
        try:
            for case in replay(directory, start, device):
                count += 1
                verdict = "ok    " if case.passed else "FAILED"
                out.print(f"{verdict} {case.error:.2e} (at most {case.tolerance:.0e})  {case.name}", markup=False)
                if not case.passed:
                    failed.append(case)
        except ValueError as error:
            raise WrongInput(str(error)) from error
    if not count:
        raise WrongInput(f"{directory}: holds no cases")
    out.print(f"{count} cases, {count - len(failed)} within tolerance, {len(failed)} over")
    for case in failed:
        err.print(f"over its tolerance: {case.name}: {case.error:.3e}, at most {case.tolerance:.0e}", markup=False)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _trajectory_starter(on_actors: bool, address: str | None) -> Iterator[Any]:
    from byzray.simulation import LocalSimulation

    if not on_actors:
        yield LocalSimulation
        return
    import actors
    from actors.fleet import split
    from actors.simulation import FleetSimulation

    actors.connect(address, dashboard=False)
    with actors.Fleet("conformance", split(9, 3)) as fleet:
        yield lambda setup, data, parameters: FleetSimulation(setup, data, fleet, parameters)


@app.command()
def doctor(
    data: DataRoot = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where results shall go, on a cluster.", show_default="results"),
    ] = None,
    address: Address = None,
) -> None:
    """Report what this machine, or a cluster, can run, with the mend for what is missing."""
    from byzray.doctor import examine

    broken = False
    colours = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "red"}
    for one in chain(examine(data), _ray_findings(address, data, output)):
        out.print(f"[{colours[one.state]}]{one.state:<8}[/] {escape(f'{one.what:<24} {one.found}')}")
        for line in one.mend.splitlines():  # in full, not in a table, which would cut paths off
            out.print(f"{'':9}{escape(line)}")
        broken |= one.state == "broken"
    if broken:
        raise typer.Exit(1)


def _ray_findings(address: str | None, data: Path | None, output: str | None) -> Iterator["Finding"]:
    """What there is to say about Ray and its cluster; asked in a process of its own, which may hang."""
    from byzray.doctor import Finding

    asked = json.dumps([address, None if data is None else str(data), output])
    command = [sys.executable, "-m", "actors.doctor", asked]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        limit = threading.Timer(DOCTOR_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):  # Ray may speak, too
                    yield Finding(**json.loads(line))
            process.wait()
        finally:
            in_time = limit.is_alive()
            limit.cancel()
        if process.returncode and in_time:
            said.seek(0)
            reason = said.read().strip().splitlines()[-1:] or ["unknown"]
            yield Finding("broken", "Ray", reason[0], "see the logs in /tmp/ray/session_latest/logs")
    if not in_time:
        mend = "see the logs in /tmp/ray/session_latest/logs, on the head"
        yield Finding("broken", "Ray", f"no answer in {DOCTOR_SECONDS:g} s", mend)


if __name__ == "__main__":
    main()
