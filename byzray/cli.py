"""The `byzray` command. Exit codes: 0 done, 1 the work failed, 2 the input is wrong."""

import io
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from byzray import __version__
from byzray.aggregators import Aggregator
from byzray.datasets import MissingData
from byzray.defence import Defence
from byzray.devices import Device
from byzray.mistakes import Failure, SetupError, suggestion
from byzray.options import Options, Registry
from byzray.progress import said_by_actors, shown_progress
from byzray.setups import Setup, load_setup, read_content
from byzray.yaml import parse_yaml

if TYPE_CHECKING:
    from byzray.doctor import Finding
    from byzray.recording import CheckpointInterval
    from sweeps.storage import Storage

T = TypeVar("T")

# How long `byzray doctor` waits for a cluster, in seconds: some nodes may not answer.
DOCTOR_SECONDS = 300.0

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[Any], Any]:
    """Reads a number within bounds from the command line."""
    named = "an integer" if kind is int else "a number"
    bounds = f" >= {least:g}" if most == math.inf else f" from {least:g} to {most:,.0f}"
    expected = named if least == -math.inf else named + bounds

    def parse(text: Any) -> Any:
        try:
            if least <= (value := kind(text)) <= most and value != math.inf:
                return value
        except ValueError:
            pass
        raise typer.BadParameter(f"got {str(text)!r}, expected {expected}")

    return parse


def one_of(names: Sequence[T]) -> Callable[[str], T]:
    """Reads one of some words from the command line."""

    def parse(text: str) -> T:
        if text in names:
            return names[names.index(text)]
        meant = suggestion(text, [str(name) for name in names])
        hint = f"did you mean {meant!r}?" if meant else f"expected one of {', '.join(map(str, names))}"
        raise typer.BadParameter(f"got {text!r}, {hint}")

    return parse


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
Restarts = Annotated[
    int,
    typer.Option(parser=number(int, 0), metavar="N", help="How often actors of a run that were lost are replaced."),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        parser=number(float, 1, 1e6),
        metavar="SECONDS",
        help="An actor that is silent for so long counts as lost.",
        show_default="20 times the slowest step, at least 30",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, such as auto.", show_default="$RAY_ADDRESS, else one is started"),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"byzray {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the command."""


class WrongInput(Exception):
    """A mistake in what the user gave: shown as one message, exit code 2."""


def main() -> None:
    """The entry point: no traceback for a user's mistake."""
    from byzray.recording import Interrupted
    from byzray.results import RunExists

    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, nor need terminals
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="byzray")
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


def import_from_here() -> None:
    """Look for the user's own classes in the working folder, too.

    It comes last: an `actors.py` or a `pandas.py` there is not ours.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def read_setup(path: Path, overrides: list[str] | None, **more: Any) -> Setup:
    """The setup of a command line; classes of the user's own are looked for in the working directory, too."""
    import_from_here()
    values: dict[str, Any] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise WrongInput(f"--set: got {override!r}, expected KEY=VALUE, such as momentum.placement=update")
        try:
            values[key] = parse_yaml(value)
        except ValueError as error:
            raise WrongInput(f"--set {key}: the value {value!r} {error}") from error
    if path.is_dir():
        raise WrongInput(f"{path}: is a directory, expected a setup file, such as the {path / 'setup.yaml'} of a run")
    try:
        return load_setup(path, values | more)
    except SetupError:
        from sweeps.definition import SWEEPS, SweepFile

        if (str(path) in SWEEPS and not path.exists()) or _holds(path, SweepFile, but_not=Setup):
            raise WrongInput(
                f"{path}: is a sweep, not a setup; run it with `byzray sweep {quote(str(path))}`"
            ) from None
        raise


def _holds(path: Path, kind: type[BaseModel], but_not: type[BaseModel]) -> bool:
    """Whether the keys of a file are those of another kind of file."""
    with suppress(SetupError):
        keys = read_content(path).keys()
        return bool(keys & kind.model_fields.keys()) and not keys & but_not.model_fields.keys()
    return False


@app.command()
def run(
    setup_file: SetupFile,
    overrides: Overrides = None,
    seed: Annotated[
        int | None, typer.Option(parser=number(int, -math.inf), metavar="N", help="Replaces the setup's seed.")
    ] = None,
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
    with shown_progress(setup, err) as progress:
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


@app.command()
def show(setup_file: SetupFile, overrides: Overrides = None) -> None:
    """Print a setup resolved, with its rule's validity and variance-norm bound, and how its split deals the labels."""
    setup = read_setup(setup_file, overrides)
    of_data = _of_data(setup_file, setup)
    out.print(setup.yaml().rstrip(), markup=False)
    n, f = setup.workers, setup.tolerated
    out.print(f"# n = {n}, f = {f}, honest workers: {setup.honest}, run directory: {_directory_name(setup)}")
    rules = [rule for rule in (setup.aggregator, *setup.aggregator.parts()) if isinstance(rule, Aggregator)]
    for defence in (Defence(setup.pre, rule) for rule in rules):
        bound, kappa = defence.bound(n, f), defence.kappa(n, f)
        proven = "no variance-norm bound is known" if bound != bound else f"variance-norm bound {bound:.6g}"
        robust = "" if kappa != kappa else f", kappa {kappa:.6g}"
        left, _ = defence.sizes(n, f)
        seen = "" if left == n else f", {defence.rule.label()} sees n = {left}"
        out.print(f"# {defence.label()}: valid for these n and f{seen}; {proven}{robust}")
    if of_data:
        out.print(f"# {of_data}", markup=False)


def _of_data(setup_file: Path, setup: Setup) -> str | None:
    """What is known when the data set is read: how its split deals the labels. Or that it is not here, if its shape is
    known only then. It is read for these two alone.

    Raises:
        SetupError: the model does not fit it, or it cannot be divided so.
    """
    from byzray.division import training
    from byzray.simulation import load_data
    from byzray.splits import Sharded, label_skew
    from byzray.splits.file import File

    split = setup.split
    if setup.dataset.shape is not None and not isinstance(split, Sharded):
        return None
    try:
        data = load_data(setup)
    except MissingData:
        absent = "the data set or the split's file" if isinstance(split, File) else "the data set"
        if setup.dataset.shape is None:
            return f"{absent} is not here, so it was not checked whether the model fits it"
        return f"{absent} is not here, so the label skew is not known"
    except SetupError as error:
        raise SetupError(f"{setup_file}", error.mistakes) from error
    if not isinstance(split, Sharded):
        return None
    divided = training(data, setup)
    shards = split.shards(divided)
    sizes = sorted({len(shard) for shard in shards})
    skew = label_skew(divided.y, shards, divided.classes)
    spread = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    return f"split {split.label()}: label skew {skew:.2f}, shards of {spread} examples"


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
    workers_per_actor: Annotated[
        int | None, typer.Option(parser=number(int, 1), metavar="N", help="Each run on actors of its own.")
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(parser=number(float, 1e-4), metavar="N", help="CPUs of a run.", show_default="1 for each actor"),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            parser=number(float, 0),
            metavar="N",
            help="GPUs of a run.",
            show_default="1/4 or more where there are any",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(parser=number(int, 0), metavar="N", help="How often a run that failed is tried again.")
    ] = 1,
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
    from sweeps.definition import SweepFile, load_sweep, parse_seeds
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
    import_from_here()
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
            _expect_utf8("--output", storage.shown)
            options = SweepOptions(
                resources,
                retries,
                data_root(data),
                download,
                address,
                checkpoints=_interval(checkpoint_every),
                supervision=Supervision(restarts, deadline),
            )
            with said_by_actors(lambda text: err.print(f"byzray: {text}", markup=False)):
                outcome = run_sweep(planned, storage, options, err)
            print_outcome(outcome, storage, out)
            if not outcome.interrupted:
                _report(storage)
    except (SweepError, SweepInUse, OutputNotShared, FleetError, ConnectionError) as error:
        if isinstance(error, SweepError) and _holds(Path(name), Setup, but_not=SweepFile):
            raise WrongInput(
                f"{name}: is a setup, not a sweep; run it with `byzray run {quote(name)}`, "
                "or write a sweep that has it as its `base`"
            ) from None
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


def _expect_utf8(option: str, name: str) -> None:
    """Ray stores nothing below another name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise WrongInput(f"{option}: got {name!r}, expected a folder whose name is UTF-8") from None


def _report(storage: "Storage") -> None:
    from byzray.report import write_report

    err.print("byzray: writing the report, and drawing its figures")
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
    preaggregators = "preaggregators"
    attacks = "attacks"
    splits = "splits"
    models = "models"
    datasets = "datasets"
    sweeps = "sweeps"


@app.command(name="list")
def list_options(
    kind: Annotated[Kind, typer.Argument(parser=one_of(list(Kind)), metavar="KIND", help=f"One of {', '.join(Kind)}.")],
) -> None:
    """List what setups can name, with the options of each and their defaults."""
    from byzray.aggregators import AGGREGATORS
    from byzray.attacks import ATTACKS
    from byzray.datasets import DATASETS
    from byzray.models import MODELS
    from byzray.preaggregators import PREAGGREGATORS
    from byzray.splits import SPLITS

    if kind is Kind.sweeps:
        _list_sweeps()
        return
    registries: dict[Kind, Registry[Any]] = {
        Kind.aggregators: AGGREGATORS,
        Kind.preaggregators: PREAGGREGATORS,
        Kind.attacks: ATTACKS,
        Kind.splits: SPLITS,
        Kind.models: MODELS,
        Kind.datasets: DATASETS,
    }
    table = Table("name", "what it is", "options", box=None, padding=(0, 2, 0, 0))
    for name, cls in registries[kind].classes.items():
        what = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        table.add_row(name, escape(what), escape(_options(cls)))
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
    device: Annotated[
        Device,
        typer.Option(
            parser=one_of(get_args(Device)),
            metavar="auto|cpu|cuda",
            help="Where rules, attacks and trajectories are computed.",
        ),
    ] = "auto",
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
    command = [sys.executable, "-P", "-m", "actors.doctor", asked]  # -P: not from the working folder
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
