"""byzray list."""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from byzray.commands._shared import one_of, out
from byzray.options import Options

if TYPE_CHECKING:
    from byzray.defence import Defence


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

Guarantee = Callable[["Defence", int, int], float]


def list_options(
    kind: Annotated[Kind, typer.Argument(parser=one_of(list(Kind)), metavar="KIND", help=f"One of {', '.join(Kind)}.")],
    workers: Annotated[int, typer.Option(min=1, help="n, for the bounds of aggregators and pre-aggregators.")] = 25,
    byzantine: Annotated[int, typer.Option(min=0, help="f, likewise.")] = 5,
) -> None:
    """List the values of a field of setups, with their options and defaults.

    Aggregators are listed with their variance-norm bound and their robustness coefficient kappa for n workers of which
    f are Byzantine; pre-aggregators with the kappa that they have before the trimmed mean.
    """
    from byzray.setups import REGISTRIES

    if kind is Kind.sweeps:
        _list_sweeps()
        return
    guarantees = _guarantees(kind)
    table = Table("name", "what it is", "options", *guarantees, box=None, padding=(0, 2, 0, 0))
    for name, cls in REGISTRIES[FIELDS[kind]].classes.items():
        what = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        cells = (_guarantee(cls, of, workers, byzantine) for of in guarantees.values())
        table.add_row(name, escape(what), escape(_options(cls)), *cells)
    if guarantees:
        proven = "bound and kappa" if kind is Kind.aggregators else "kappa before trimmed-mean"
        table.caption = f"{proven}, at n = {workers}, f = {byzantine}; n/a: not valid for these"
        table.caption_justify = "left"
    _print(table)


def _guarantees(kind: Kind) -> dict[str, Guarantee]:
    """Columns of what is proven."""
    from byzray.defence import Defence

    if kind is Kind.aggregators:
        return {"bound": Defence.bound, "kappa": Defence.kappa}
    return {"kappa": Defence.kappa} if kind is Kind.preaggregators else {}


def _guarantee(cls: type[Options], of: Guarantee, workers: int, byzantine: int) -> str:
    """A bound or a kappa of an option with its defaults, as text: "n/a" where it is not valid for n and f."""
    from byzray.aggregators import Aggregator, TrimmedMean
    from byzray.defence import Defence
    from byzray.preaggregators import PreAggregator

    if any(field.is_required() for field in cls.model_fields.values()):
        return "-"
    option = cls()
    if isinstance(option, PreAggregator):
        defence = Defence([option], TrimmedMean())
    else:
        assert isinstance(option, Aggregator)
        defence = Defence([], option)
    if defence.check(workers, byzantine):
        return "n/a"
    value = of(defence, workers, byzantine)
    return "-" if math.isnan(value) else f"{value:.3g}"


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
