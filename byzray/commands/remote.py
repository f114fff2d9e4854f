"""The commands that talk to a service: submit, ps, status, logs, watch, pause, cancel, resume, delete, get."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from byzray.commands._shared import err, number, out
from byzray.console import duration
from byzray.mistakes import WrongInput
from byzray.yaml import parse_yaml

if TYPE_CHECKING:
    from byzray.client import Client
    from byzray.client.models import Sweep

SweepId = Annotated[
    str, typer.Argument(metavar="SWEEP", help="Its id, or the beginning of one.", autocompletion=lambda: _ids())
]
Service = Annotated[
    str | None,
    typer.Option("--service", metavar="URL", help="The service.", show_default="$BYZRAY_SERVICE, else port 8000 here"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Only = Annotated[list[str] | None, typer.Option(metavar="EXPR", help="Only these setups. Repeatable.")]


def submit(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP|SETUP", help="demo, paper, appendix or a YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what it stands for, and submit nothing.")] = False,
    only: Only = None,
    seeds: Annotated[str | None, typer.Option(metavar="1-5", help="Replaces the seeds.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value in all setups. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What it is called.", show_default="the file's name")] = None,
    workers_per_actor: Annotated[
        int | None, typer.Option(parser=number(int, 1), metavar="N", help="Each run on actors of its own.")
    ] = None,
    priority: Annotated[
        int, typer.Option(parser=number(int, -100, 100), metavar="N", help="Among your sweeps; the highest is first.")
    ] = 0,
    at_once: Annotated[
        int | None, typer.Option(parser=number(int, 1), metavar="N", help="The most runs at a time.")
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """Submit a sweep or a setup to a service. Submitted again, it is the same sweep."""
    values = dict(_value(text) for text in overrides or [])
    client = _client(service)
    known: dict[str, Any] = {"name": name, "only": only or (), "seeds": seeds, "set": values}
    if plan:
        planned = client.plan(sweep, **known)
        _print(planned, as_json, f"{planned.id}: {planned.setups} setups, {planned.runs} runs, {planned.done} done")
        if planned.seconds is not None and not as_json:
            without = f"; without {planned.without} runs, as no similar ones were measured" if planned.without else ""
            out.print(f"estimate on the whole cluster: {duration(planned.seconds)}{without}", markup=False)
        return
    found = client.submit(sweep, **known, workers_per_actor=workers_per_actor, priority=priority, at_once=at_once)
    if follow:
        _watch(client, found.id, as_json)
    else:
        _print(found, as_json, f"{found.id}: {_line(found)}")


def ps(
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only this owner's.")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only those in this state.")] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """List the sweeps of a service, the newest first."""
    from byzray.client.models import ENDED

    found = list(_client(service).sweeps(owner, state))
    shown = [one for one in found if every or state or one.state not in ENDED]
    if as_json:
        out.file.write(json.dumps([one.model_dump(mode="json") for one in shown], indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in ("SWEEP", "OWNER", "STATE", "DONE", "LEFT"):
        table.add_column(column, justify="right" if column in ("DONE", "LEFT") else "left", overflow="fold")
    for one in shown:
        left = duration(one.seconds_left) if one.seconds_left is not None else ""
        failed = f", {one.runs.failed} failed" if one.runs.failed else ""
        table.add_row(escape(one.id), escape(one.owner), one.state, f"{one.runs.done}/{one.runs.total}{failed}", left)
    if shown:
        out.print(table)
    else:
        others = len(found)
        out.print(f"no sweep{f'; {others} have ended, see --all' if others else ''}", markup=False)


def status(sweep: SweepId, service: Service = None, as_json: AsJson = False) -> None:
    """Show a sweep, its progress and its runs."""
    client = _client(service)
    found = _find(client, sweep)
    if as_json:
        runs = [run.model_dump(mode="json", exclude={"setup"}) for run in client.runs(found.id)]
        out.file.write(json.dumps({**found.model_dump(mode="json"), "all_runs": runs}, indent=2) + "\n")
        return
    out.print(f"{found.id} of {found.owner}: {_line(found)}", markup=False)
    if found.why:
        out.print(found.why, markup=False)
    for run in found.current:
        best = f", best accuracy {run.best_accuracy:.4f}" if run.best_accuracy is not None else ""
        left = f", {duration(run.seconds_left)} left" if run.seconds_left is not None else ""
        out.print(f"  {run.run}: step {run.step} of {run.steps}{best}{left}", markup=False)
    for failed in client.runs(found.id, "failed") if found.runs.failed else ():
        out.print(f"  failed: {failed.run}: {failed.reason}", markup=False)


def watch(sweep: SweepId, service: Service = None, as_json: AsJson = False) -> None:
    """Watch a sweep until it has ended or was paused."""
    client = _client(service)
    _watch(client, _find(client, sweep).id, as_json)


def logs(
    sweep: SweepId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the sweep has ended.")] = False,
    service: Service = None,
) -> None:
    """Print the log of a sweep's driver."""
    client = _client(service)
    for text in client.logs(_find(client, sweep).id, follow):
        out.file.write(text)
        out.file.flush()


def pause(sweep: SweepId, service: Service = None, as_json: AsJson = False) -> None:
    """Save the runs of a sweep and stop it, until it is resumed."""
    client = _client(service)
    found = client.pause(_find(client, sweep).id)
    _print(found, as_json, f"{found.id}: {_line(found)}")


def cancel(sweep: SweepId, service: Service = None, as_json: AsJson = False) -> None:
    """Save the runs of a sweep and end it; it can be resumed all the same."""
    client = _client(service)
    found = client.cancel(_find(client, sweep).id)
    _print(found, as_json, f"{found.id}: {_line(found)}")


def resume(
    sweep: SweepId,
    mix_versions: Annotated[
        bool, typer.Option("--mix-versions", help="Even if its runs were computed with other versions.")
    ] = False,
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """Continue a sweep, and retry its failed runs."""
    client = _client(service)
    found = client.resume(_find(client, sweep).id, mix_versions)
    _print(found, as_json, f"{found.id}: {_line(found)}")


def delete(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Its whole id.")],
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """Delete a sweep that has ended, with all its results."""
    _client(service).delete(sweep)
    if as_json:
        out.file.write(json.dumps({"deleted": sweep}) + "\n")


def get(
    sweep: SweepId,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to.", show_default="./SWEEP")] = None,
    runs: Annotated[bool, typer.Option("--runs", help="Also the files of all runs.")] = False,
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """Download the results of a sweep: runs.csv, runs.parquet and the report."""
    client = _client(service)
    found = _find(client, sweep)
    folder = output or Path(found.id)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in _downloaded(client, found.id, folder, runs):
        written.append(str(path))
        if not as_json and path.parent in (folder, folder / "report"):
            out.print(str(path), markup=False, soft_wrap=True)
    if as_json:
        out.file.write(json.dumps({"files": written}, indent=2) + "\n")


def _downloaded(client: "Client", sweep: str, folder: Path, runs: bool) -> Iterator[Path]:
    """Download the results of a sweep, file by file."""
    from byzray.client import Refused
    from byzray.files import write_atomically

    frame = client.results(sweep)
    for path, write in ((folder / "runs.csv", frame.to_csv), (folder / "runs.parquet", frame.to_parquet)):
        write_atomically(path, partial(write, index=False))
        yield path
    try:
        yield client.report(sweep, folder / "report")
    except Refused as error:  # there is none yet
        err.print(f"byzray: {error}", markup=False)
    for run in client.runs(sweep) if runs else ():
        for file in client.files(sweep, run.run):
            path = folder / "runs" / run.run / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download(sweep, run.run, file.name, path)
            yield path


def _client(url: str | None) -> "Client":
    from byzray.client import Client

    return Client(url)


def _ids() -> Iterable[str]:
    """The ids of all sweeps, for the shell; none if no service answers."""
    with suppress(Exception):
        from byzray.client import Client

        return [sweep.id for sweep in Client(patience=0).sweeps()]
    return []


def _find(client: "Client", text: str) -> "Sweep":
    """The sweep with an id, or the only one whose id begins so.

    Raises:
        byzray.mistakes.WrongInput: there is none, or more than one.
    """
    known = {one.id: one for one in client.sweeps()}
    found = [known[text]] if text in known else [one for id, one in known.items() if id.startswith(text)]
    if len(found) != 1:
        among = ", ".join(one.id for one in found) if found else ", ".join(list(known)[:10]) or "none: it has no sweeps"
        raise WrongInput(f"sweep: got {text!r}, expected the id of one, among {among}")
    return found[0]


def _value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise WrongInput(f"--set: got {text!r}, expected KEY=VALUE, such as momentum.placement=update")
    try:
        return key, parse_yaml(value)
    except ValueError as error:
        raise WrongInput(f"--set {key}: the value {value!r} {error}") from error


def _line(sweep: "Sweep") -> str:
    """A sweep's progress in a line."""
    runs = sweep.runs
    parts = [f"{sweep.state}, {runs.done}/{runs.total} runs done"]
    parts += [f"{runs.running} running"] if runs.running else []
    parts += [f"{runs.failed} failed"] if runs.failed else []
    parts += [f"{sweep.steps_per_second:.0f} steps/s"] if sweep.steps_per_second else []
    parts += [f"{duration(sweep.seconds_left)} left"] if sweep.seconds_left is not None else []
    return ", ".join(parts)


def _watch(client: "Client", sweep: str, as_json: bool) -> None:
    """Show a sweep's progress, in one line on a terminal, until it has ended."""
    live = sys.stdout.isatty() and not as_json
    last = ""
    for found in client.watch(sweep):
        if as_json:
            out.file.write(found.model_dump_json() + "\n")
            out.file.flush()
            continue
        line = f"{_line(found)}{f': {found.why}' if found.why else ''}"
        if live:
            line = line[: out.width - 1]
            out.file.write(f"\r\x1b[2K{line}")
            out.file.flush()
        elif line != last:
            out.print(line, markup=False)
        last = line
    if live:
        out.file.write("\n")
    if found.state == "failed":
        raise typer.Exit(1)


def _print(content: BaseModel, as_json: bool, line: str) -> None:
    if as_json:
        out.file.write(content.model_dump_json(indent=2) + "\n")
    else:
        out.print(line, markup=False, soft_wrap=True)


def commands() -> Iterator[Any]:
    """All of them, in the order in which the help lists them."""
    yield from (submit, ps, status, watch, logs, pause, cancel, resume, get, delete)
