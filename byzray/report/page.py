"""The page of a report: one self-contained HTML file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from byzray.report.collect import Collection, Run, SweepFacts
from byzray.report.panels import PLACEMENTS, Grid, Panel
from byzray.report.paper.claims import Judgement
from byzray.report.paper.statistics import LOSSES, POINTS
from byzray.runs.directory import DONE, STATES

# With more panels than this their sections are closed at first.
OPEN_PANELS = 6

# Lists longer than this are cut; runs.csv has all of it.
LISTED = 200

PAPERS_GRID = "paper"

# How much is shown of a fact on the environment, in characters.
LONGEST_FACT = 100


@dataclass(frozen=True)
class Content:
    """The content of the page.

    Attributes:
        name: of the directory.
        shown: where the runs lie, as the page says it.
        collection: what was found there.
        grid: its setups.
        runs: a table of :func:`byzray.report.tables.runs_table`, with the pairs' columns.
        statistics: a table of :func:`byzray.report.paper.statistics.statistics`.
        judgements: of the claims.
        drawn: the names of figures, without their ends, by panel and attack, and kind.
        overview: the name of the overview figure, empty if there is nothing to draw.
    """

    name: str
    shown: str
    collection: Collection
    grid: Grid
    runs: pd.DataFrame
    statistics: pd.DataFrame
    judgements: list[Judgement]
    drawn: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    overview: str = ""


def states(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs are in which state, those that occur."""
    counts = runs["state"].value_counts().to_dict()
    return {state: counts[state] for state in STATES if counts.get(state)}


def page(content: Content, figures: Path) -> str:
    """The HTML text, with the SVG files of a folder embedded in it."""
    environment = Environment(
        loader=PackageLoader("byzray.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = _points
    environment.filters["signed"] = lambda value: _points(value, "+.1f")
    environment.filters["figure"] = _figure
    sweep = content.collection.sweep
    return environment.get_template("page.html.j2").render(
        name=sweep.sweep or content.name,
        shown=content.shown,
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        part=_part(sweep),
        environments=_environments(content.collection.runs),
        states=states(content.runs),
        runs=len(content.runs),
        setups=len(content.grid.setups),
        diverged=int(content.runs["diverged_at"].notna().sum()),
        judgements=content.judgements,
        other_grid=sweep.sweep != PAPERS_GRID,
        overview=_embedded(figures, content.overview),
        statistics=_telling(content.statistics).to_dict("records"),
        POINTS=POINTS,
        LOSSES=LOSSES,
        panels=[_panel(panel, content, figures) for panel in content.grid.panels],
        defences=_defences(content.runs),
        open_panels=len(content.grid.panels) <= OPEN_PANELS,
        placements=PLACEMENTS,
        troubles=_troubles(content),
        foreign=sorted(content.collection.foreign),
        notes=content.collection.notes,
        listed=LISTED,
    )


def _part(sweep: SweepFacts) -> str:
    """Which part of a complete sweep this is, empty if it is all of it."""
    whole = sweep.whole
    if whole is None or whole.runs is None or sweep.runs is None or whole.runs == sweep.runs:
        return ""
    chosen = [f"only {', '.join(sweep.only)}"] if sweep.only else []
    if sweep.seeds:
        chosen.append(f"seeds {', '.join(map(str, sweep.seeds))}")
    chosen.append(f"{sweep.runs} of the {whole.runs} runs of the complete sweep")
    return "; ".join(chosen)


def _environments(runs: list[Run]) -> list[tuple[str, int]]:
    """On what the runs were computed, most frequent first."""

    def words(one: dict[str, Any]) -> str:
        packages = one.get("packages")
        versions = packages if isinstance(packages, dict) else {}
        parts = [f"{name} {versions[name]}" for name in ("byzray", "torch") if name in versions]
        parts += [str(one[name]) for name in ("device", "platform") if one.get(name)]
        commit = [f"commit {str(one['git'])[:18]}"] if one.get("git") else []
        return ", ".join(text[:LONGEST_FACT] for text in [*parts, *commit])

    return Counter(words(run.environment) for run in runs if run.environment).most_common()


def _telling(statistics: pd.DataFrame) -> pd.DataFrame:
    """Without the divisions into a single subset, which repeat the first row."""
    sizes = statistics.groupby("by")["subset"].transform("size")
    return statistics[(sizes > 1) | (statistics["by"] == "all")]


def _embedded(folder: Path, name: str) -> str:
    """A figure as a data URI; not in base 64, which is a quarter longer."""
    if not name:
        return ""
    svg = " ".join((folder / f"{name}.svg").read_text(encoding="utf-8").split())
    return "data:image/svg+xml," + quote(svg, safe=" /:;=,.-_()!*?")


def _points(value: float | None, form: str = ".1f") -> str:
    """A share of 1 in points of accuracy."""
    return "–" if value is None or not np.isfinite(value) else format(100 * value, form).replace("-", "−")


def _figure(value: float) -> str:
    """A number of a few digits."""
    return "–" if np.isnan(value) else "∞" if np.isinf(value) else f"{value:.3g}"


def _panel(panel: Panel, content: Content, figures: Path) -> dict[str, Any]:
    runs = content.runs
    inside = runs[runs["panel"] == panel.name]
    reference = runs[(runs["setup"] == panel.reference) & runs["state"].isin(DONE)]["best_accuracy"].dropna()
    attacks = []
    for attack in sorted(inside["attack"].unique()):
        drawn = content.drawn.get((panel.name, attack), {})
        embedded = {kind: _embedded(figures, drawn.get(kind, "")) for kind in ("curves", "ratios")}
        attacks.append({"attack": attack, **embedded})
    return {
        "name": panel.name,
        "title": panel.title,
        "details": panel.details,
        "reference": _mean_and_deviation(reference),
        "reference_missing": not panel.reference,
        "placements": [name for name in PLACEMENTS if name in set(inside["placement"])],
        "attacks": attacks,
        "rules": [
            {"rule": rule, "cells": [_cells(inside, rule, one["attack"]) for one in attacks]}
            for rule in sorted(inside["rule"].unique())
        ],
        "planned": len(inside),
        "complete": int(inside["state"].isin(DONE).sum()),
    }


def _cells(inside: pd.DataFrame, rule: str, attack: str) -> dict[str, Any]:
    """Best accuracies of a rule under an attack, by placement, and what the worker placement gains."""
    here = inside[(inside["rule"] == rule) & (inside["attack"] == attack)]
    complete = here[here["state"].isin(DONE)]
    gains = complete.loc[complete["placement"] == "worker", "gain"].dropna()
    return {
        "best": {
            placement: _mean_and_deviation(complete.loc[complete["placement"] == placement, "best_accuracy"].dropna())
            for placement in PLACEMENTS
        },
        "diverged": set(here.loc[here["diverged_at"].notna(), "placement"]),
        "gain": float(gains.mean()) if len(gains) else None,
    }


def _defences(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """For each defence, at each split, n and f: what is proven of it, and what its complete runs showed. Those without
    a robustness coefficient, proven or measured, and without accuracies of workers are left out."""
    rows = []
    for (split, n, f, tolerated, rule), those in runs.groupby(["split", "n", "f", "tolerated", "rule"]):
        complete = those[those["state"].isin(DONE)]
        row: dict[str, Any] = {
            **{"split": split, "n": n, "f": f, "tolerated": tolerated, "rule": rule},
            "bound": float(those["bound"].iloc[0]),
            "kappa": float(those["kappa"].iloc[0]),
            "largest": _with_attack(complete, "largest_kappa_hat", pd.Series.idxmax),
            "worst": _with_attack(complete, "worst_worker_accuracy", pd.Series.idxmin),
        }
        if row["largest"] or row["worst"] or not np.isnan(row["kappa"]):
            rows.append(row)
    return rows


def _with_attack(runs: pd.DataFrame, column: str, which: Callable[[pd.Series], Any]) -> dict[str, Any] | None:
    """One value of a column, and under which attack it was."""
    values = runs[column].dropna()
    if not len(values):
        return None
    run = runs.loc[which(values)]
    return {"value": float(run[column]), "attack": run["attack"]}


def _mean_and_deviation(values: pd.Series) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {"mean": float(values.mean()), "std": float(values.std(ddof=0)), "seeds": len(values)}


def _troubles(content: Content) -> dict[str, Any]:
    """What is missing or went wrong."""
    runs = content.runs
    logs = {run.name: run.log for run in content.collection.runs}
    by_state = {
        state: runs[runs["state"] == state][["run", "reason", "step", "steps"]].to_dict("records")
        for state in ("failed", "damaged", "interrupted", "running", "stopped")
    }
    missing = runs[runs["state"] == "missing"]
    titles = {panel.name: panel.title for panel in content.grid.panels}
    counts = missing["panel"].map(lambda name: titles.get(name, "unattacked references")).value_counts(sort=False)
    diverged = runs[runs["diverged_at"].notna()]
    return {
        **by_state,
        "logs": logs,
        "missing": counts.to_dict(),
        "missing_count": len(missing),
        "missing_names": missing["run"].tolist() if len(missing) <= LISTED else [],
        "diverged": diverged[["run", "diverged_at", "steps", "best_accuracy"]].to_dict("records"),
    }
