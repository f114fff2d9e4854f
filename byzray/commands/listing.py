"""byzray list."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from byzray.commands._shared import one_of, out
from byzray.options import Options
from byzray.setups import REGISTRIES


class Kind(StrEnum):
    """The kinds of options that can be listed."""

    aggregators = "aggregators"
    preaggregators = "preaggregators"
    attacks = "attacks"
    splits = "splits"
    models = "models"
    datasets = "datasets"
    sweeps = "sweeps"


# The fields of setups that name them.
FIELDS = {
    Kind.aggregators: "aggregator",
    Kind.preaggregators: "pre",
    Kind.attacks: "attack",
    Kind.splits: "split",
    Kind.models: "model",
    Kind.datasets: "dataset",
}


def list_options(
    kind: Annotated[Kind, typer.Argument(parser=one_of(list(Kind)), metavar="KIND", help=f"One of {', '.join(Kind)}.")],
) -> None:
    """List the values of a field of setups, with their options and defaults."""
    if kind is Kind.sweeps:
        _list_sweeps()
        return
    table = Table("name", "what it is", "options", box=None, padding=(0, 2, 0, 0))
    for name, cls in REGISTRIES[FIELDS[kind]].classes.items():
        what = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        table.add_row(name, escape(what), escape(_options(cls)))
    _print(table)


def _list_sweeps() -> None:
    from sweeps.definition import SWEEPS

    table = Table("name", "what it is", "setups", "runs", box=None, padding=(0, 2, 0, 0))
    for name, (what, make) in SWEEPS.items():
        made = make()
        setups = len(made.setups())
        table.add_row(name, escape(what), f"{setups}", f"{setups * len(made.seeds)}")
    _print(table)


def _print(table: Table) -> None:
    """In the width of the terminal; elsewhere, in a file say, in a fixed one."""
    Console(highlight=False, emoji=False, width=out.width if out.is_terminal else 100).print(table)


def _options(cls: type[Options]) -> str:
    fields = cls.model_fields.items()
    return "\n".join(
        f"{name} (required)" if field.is_required() else f"{name} = {field.default}" for name, field in fields
    )
