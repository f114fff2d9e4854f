"""Writes the report of a directory of runs: page, figures and tables."""

import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from byzray.mistakes import WrongInput, visible
from byzray.report.archive import SUFFIX, is_archive, read_archive
from byzray.report.collect import Collection, collect
from byzray.report.page import Content, page, states
from byzray.report.panels import Grid, arrange
from byzray.report.paper.claims import Judgement, judge
from byzray.report.paper.statistics import statistics
from byzray.report.tables import curves_table, pairs_table, runs_table, with_pairs
from byzray.runs.directory import DONE

if TYPE_CHECKING:
    from byzray.report.figures import Comparison

# Fewer figures than this are drawn in this process: others take seconds to start.
MANY_COMPARISONS = 12

# How many runs the summary names of each sort.
NAMED = 10


@dataclass(frozen=True)
class Report:
    """What was written, and what it says in short.

    Attributes:
        page: the HTML page.
        summary: lines for a terminal.
        states: how many runs are in which state.
        judgements: of the paper's two claims.
    """

    page: Path
    summary: list[str]
    states: dict[str, int]
    judgements: list[Judgement]


def write_report(directory: str | Path, shown: str | None = None) -> Report:
    """Report on all runs below `directory`, complete or not, in its folder ``report``; replaces an earlier report.

    For an archive, ``NAME.parquet``, the report is the folder ``NAME-report`` next to it.

    What lies there is read as data, whoever made it: no class that a setup names is imported. A figure that cannot be
    drawn is a note of the report.

    Where there is much to draw, processes are started for it, so a script that calls this needs the usual
    ``if __name__ == "__main__":``.

    Args:
        directory: where the runs lie, or an archive of runs.
        shown: what page, summary and messages call it: the URI of which it is a copy, say. Default: its path.

    Raises:
        byzray.mistakes.WrongInput: the directory holds no runs and no plan.
        byzray.mistakes.WrongInput: its folder ``report`` holds something else than a report.
    """
    directory = Path(directory)
    name, shown = (directory.resolve().name, str(directory)) if shown is None else _of_uri(shown)
    if is_archive(directory):
        collection = read_archive(directory, shown)
        target, shown_target = directory.with_name(f"{directory.stem}-report"), f"{shown.removesuffix(SUFFIX)}-report"
    else:
        collection = collect(directory, shown)
        target, shown_target = directory / "report", f"{shown}/report"
    if target.is_symlink() or (target.exists() and not (target / "index.html").exists()):
        raise WrongInput(f"{shown_target}: holds something else than an earlier report; move it away")
    # Written next to the old one, which it replaces when it is complete.
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()  # which nothing may lie in the place of, not even a link
    try:
        report = _write(collection, name, shown, fresh, target, shown_target)
        replaced = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            target.rename(replaced)
        fresh.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return report


def _write(collection: Collection, name: str, shown: str, fresh: Path, target: Path, shown_target: str) -> Report:
    grid = arrange(run.setup for run in collection.runs)
    runs = runs_table(collection.runs, grid)
    pairs = pairs_table(runs)
    runs = with_pairs(runs, pairs)
    curves = curves_table(collection.runs, grid)
    counts = statistics(pairs, runs)
    own = _own(pairs, collection.foreign)
    judgements = judge(own, _whole(collection))
    figures = fresh / "figures"
    figures.mkdir()
    _write_tables(fresh, {"runs": runs, "pairs": pairs, "statistics": counts}, curves)
    drawn = _draw(grid, runs, curves, figures, collection.notes)
    overview = _draw_overview(runs, figures, collection.notes)
    content = Content(visible(name), visible(shown), collection, grid, runs, counts, judgements, drawn, overview)
    (fresh / "index.html").write_text(page(content, figures), encoding="utf-8", errors="backslashreplace")
    lines = [*summary(content, own), visible(f"page: {shown_target}/index.html")]
    return Report(target / "index.html", lines, states(runs), judgements)


def _write_tables(folder: Path, tables: dict[str, pd.DataFrame], curves: pd.DataFrame) -> None:
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        _write_parquet(folder / f"{name}.parquet", pyarrow.Table.from_pandas(table, preserve_index=False))
    # Millions of rows in a large sweep, for which pandas takes minutes.
    with np.errstate(over="ignore"):
        short = curves.astype({"mean": "float32", "std": "float32"})
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with (folder / "curves.csv").open("wb") as file:
        pyarrow.csv.write_csv(pyarrow.Table.from_pandas(short, preserve_index=False), file, options)
    _write_parquet(folder / "curves.parquet", pyarrow.Table.from_pandas(curves, preserve_index=False))


def _write_parquet(path: Path, table: pyarrow.Table) -> None:
    # Opened here, as pyarrow takes no names that are not UTF-8; and by pyarrow, as older pandas give it the name again.
    with path.open("wb") as file:
        pyarrow.parquet.write_table(table, file)


def _of_uri(shown: str) -> tuple[str, str]:
    """The name at the end of an address, and the address without slashes after it."""
    shown = shown.rstrip("/")
    return shown.rpartition("/")[2], shown


def _own(pairs: pd.DataFrame, foreign: frozenset[str]) -> pd.DataFrame:
    """The pairs that are of the sweep: both placements are. What they are measured against may be any run of theirs."""
    return pairs[~pairs[["worker_run", "standard_run"]].isin(foreign).any(axis=1)]


def _whole(collection: Collection) -> int | None:
    """How many pairs the complete sweep has, if what is planned is only a part of it."""
    whole = collection.sweep.whole
    if whole is None or collection.planned >= (math.inf if whole.runs is None else whole.runs):
        return None
    return whole.pairs


@contextmanager
def _drawing(what: str, notes: list[str]) -> Iterator[None]:
    """What fails here, of matplotlib and its settings, is a note: tables and page need no figures."""
    try:
        yield
    except Exception as error:
        notes.append(visible(f"{what} cannot be drawn ({type(error).__name__}: {' '.join(str(error).split())})"))


def _draw_overview(runs: pd.DataFrame, folder: Path, notes: list[str]) -> str:
    """The overview's name; empty if there is nothing to draw, or it cannot be drawn."""
    with _drawing("the overview", notes):
        from byzray.report.drawing import save
        from byzray.report.figures import overview_figure

        figure = overview_figure(runs)
        if figure is not None:
            save(figure, folder, "overview")
            return "overview"
    return ""


Drawn = tuple[dict[str, str], list[str]]


def _draw(
    grid: Grid, runs: pd.DataFrame, curves: pd.DataFrame, folder: Path, notes: list[str]
) -> dict[tuple[str, str], dict[str, str]]:
    """Every comparison's figures; returns their names by panel and attack."""
    panels, attacks, drawings = [], [], []
    with _drawing("the panels", notes):
        from byzray.report.figures import comparisons, draw

        for panel, attack, comparison in comparisons(grid, runs, curves):
            panels.append(panel.name)
            attacks.append(attack)
            drawings.append(comparison)
        found = list(_each(draw, drawings, folder))
        notes += [note for _, problems in found for note in problems]
        return dict(zip(zip(panels, attacks, strict=True), [names for names, _ in found], strict=True))
    return {}


def _each(act: Callable[["Comparison", Path], Drawn], drawings: list["Comparison"], folder: Path) -> Iterator[Drawn]:
    if len(drawings) < MANY_COMPARISONS:
        yield from (act(one, folder) for one in drawings)
        return
    # Spawned, as forking a process that has threads (PyTorch's, Arrow's) may leave a child waiting forever.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(act, drawings, [folder] * len(drawings))


def summary(content: Content, pairs: pd.DataFrame) -> list[str]:
    """The report in short, for a terminal; `pairs`: those of the sweep."""
    runs = content.runs
    counted = states(runs)
    by_state = ", ".join(f"{count} {state}" for state, count in counted.items())
    diverged = runs[runs["diverged_at"].notna()]
    foreign = len(content.collection.foreign)
    among = f", among them {foreign} run{'s that are' if foreign > 1 else ' that is'} not of this sweep" * bool(foreign)
    lines = [
        f"{content.shown}: {len(runs)} runs of {len(content.grid.setups)} setups{among}: "
        f"{by_state}; {len(diverged)} diverged",
        f"pairs of placements (per seed): {int(pairs['decided'].sum())} of {len(pairs)} decided",
    ]
    lines += _claims(content.judgements)
    for state in ("failed", "damaged"):
        those = runs[runs["state"] == state]
        lines += _named(state, [f"{run}: {reason}" for run, reason in zip(those["run"], those["reason"], strict=True)])
    lines += _named(
        "diverged", [f"{run}, at step {at}" for run, at in zip(diverged["run"], diverged["diverged_at"], strict=True)]
    )
    lines += _named("note", content.collection.notes)
    incomplete = int((~runs["state"].isin(DONE)).sum())
    if incomplete:
        lines.append(f"{incomplete} runs are not complete; the page and runs.csv list them")
    return [visible(line) for line in lines]


def _claims(judgements: list[Judgement]) -> list[str]:
    lines = ["where the attack costs at least 20 points,"]
    for claim in dict.fromkeys(one.claim for one in judgements):
        lines.append(f"  {claim}:")
        for one in judgements:
            if one.claim == claim:
                count = f"{one.successes} of {one.effective}" + (f", {one.unknown} undecided" if one.unknown else "")
                lines.append(f"    {one.verdict}{one.where}" + (f" ({count})" if one.scope else ""))
        worst = next(one.worst for one in judgements if one.claim == claim)
        lines += [f"    worst: {worst}"] if worst else []
    return lines


def _named(what: str, found: list[str]) -> list[str]:
    rest = len(found) - NAMED
    lines = [f"{what}: {one}" for one in found[:NAMED]]
    return [*lines, f"... and {rest} more, see the report"] if rest > 0 else lines
