"""Writes the tables and the figure of docs/reproduction.md from docs/reproduction.parquet.

python docs/reference/reproduction.py
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from byzray.report.archive import read_archive
from byzray.report.collect import Run
from byzray.report.drawing import own_settings
from byzray.report.figures import overview_figure
from byzray.report.panels import arrange
from byzray.report.paper.claims import EFFECTIVE, judge
from byzray.report.paper.statistics import statistics
from byzray.report.tables import SLACK, pairs_table, runs_table, with_pairs

DOCS = Path(__file__).parents[1]
ARCHIVE, PAGE = DOCS / "reproduction.parquet", DOCS / "reproduction.md"

WORST = 10
"""How many of the pairs in which momentum at the workers loses are listed."""

SUBSETS = ("all", "dataset", "f", "attack", "rule", "rate", "nesterov")


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    lines = [list(columns), *([str(cell) for cell in row] for row in rows)]
    first, *others = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([first, "|" + "---|" * len(lines[0]), *others])


def points(share: Any) -> str:
    """A share of 1, in hundredths."""
    return f"{100 * share:.1f}"


def computed(runs: list[Run]) -> str:
    """How many runs, of which seeds, on what and for how long."""
    seeds = sorted({run.setup["seed"] for run in runs})
    by_dataset = pd.Series([run.setup["dataset"]["name"] for run in runs]).value_counts(sort=False)
    machines = sorted({_machine(run.environment) for run in runs})
    commits = sorted({run.environment.get("git", "unknown")[:10] for run in runs})
    diverged = sum(run.diverged_at is not None for run in runs)
    rows = [
        ("runs", f"{len(runs)}: " + ", ".join(f"{count} on {name}" for name, count in by_dataset.items())),
        ("seeds", ", ".join(map(str, seeds))),
        ("diverged", f"{diverged}"),
        ("computing time", f"{sum(run.seconds for run in runs) / 3600:.1f} hours, one thread a run"),
        ("machine", "; ".join(machines)),
        ("byzray", "commit " + ", ".join(commits)),
    ]
    return table(("", ""), rows)


def _machine(environment: dict[str, Any]) -> str:
    packages = environment.get("packages", {})
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "numpy", "ray") if name in packages)
    return f"{environment.get('device')}, Python {environment.get('python')}, {versions}"


def claims(pairs: pd.DataFrame) -> str:
    """The paper's two claims."""
    rows = []
    for one in judge(pairs):
        interval = "-" if one.interval is None else f"{points(one.interval[0])} to {points(one.interval[1])} %"
        share = f"{points(one.successes / one.effective)} %" if one.effective else "-"
        rows.append((one.claim, one.verdict, f"{one.successes} of {one.effective}", share, interval))
    return table(("where the attack costs at least 20 points,", "verdict", "pairs", "share", "95 % interval"), rows)


def counts(pairs: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What the paper counts."""
    found = statistics(pairs, runs)
    rows = []
    for one in found[found["by"].isin(SUBSETS)].to_dict("records"):
        effective = [f"{one[f'won_back_{at}']} of {one[f'effective_{at}']}" for at in (10, 20, 40)]
        rows.append([one["subset"], one["pairs"], *effective, *(one[f"worse_{at}"] for at in (0, 2, 5))])
    columns = ["", "pairs", "won back 10", "20", "40", "worse", "by over 2", "by over 5"]
    return table(columns, rows)


def won_back(pairs: pd.DataFrame) -> str:
    """Of the pairs in which the attack costs at least 20 points: how many gain at all and 20 points, cost, gain, and
    what share of the cost is won back."""
    effective = pairs[pairs["decided"] & (pairs["cost"] >= EFFECTIVE - SLACK)]
    rows = []
    failing = (effective["rule"] == "multi-krum") & (effective["attack"] == "empire")
    by_both = effective.groupby(["rule", "attack"], sort=True)
    groups = [("all", effective), ("all but multi-krum under empire", effective[~failing])]
    groups += [(", ".join(map(str, names)), inside) for names, inside in by_both]
    for name, inside in groups:
        share = inside["gain"] / inside["cost"]
        means = (points(inside[name].mean()) for name in ("cost", "gain"))
        shares = (points(share.quantile(at)) for at in (0.25, 0.5, 0.75))
        below = int((inside["cost"] < 0.3 - SLACK).sum())
        raised, by_20 = ((inside["gain"] > SLACK).sum(), (inside["gain"] >= EFFECTIVE - SLACK).sum())
        rows.append([name, len(inside), raised, by_20, below, *means, *shares])
    columns = [
        "",
        "pairs",
        "raised",
        "by 20",
        "cost below 30",
        "mean cost",
        "mean gain",
        "share won back: lower quartile",
        "median",
        "upper quartile",
    ]
    return table(columns, rows)


def accuracies(runs: pd.DataFrame) -> str:
    """Best and last accuracies, means over rates, Nesterov's momentum or not, and seeds."""
    attacked = runs[runs["attack"] != "none"]
    rows = []
    for (dataset, f, attack, rule), inside in attacked.groupby(["dataset", "f", "attack", "rule"], sort=True):
        means = inside.groupby("placement")[["best_accuracy", "last_accuracy", "reference_best"]].mean()
        standard, worker = means.loc["update"], means.loc["worker"]
        best = [standard["reference_best"], standard["best_accuracy"], worker["best_accuracy"]]
        last = [standard["last_accuracy"], worker["last_accuracy"]]
        rows.append([dataset, f, attack, rule, *map(points, (*best, *last))])
    columns = ["data set", "f", "attack", "rule", "no attack", "standard", "at workers", "last: standard", "at workers"]
    return table(columns, rows)


def worst(pairs: pd.DataFrame, runs: pd.DataFrame) -> str:
    """The pairs in which momentum at the workers loses most."""
    last = runs.set_index("run")["last_accuracy"]
    rows = []
    for one in pairs[pairs["decided"]].nsmallest(WORST, "gain").to_dict("records"):
        setup = f"{one['dataset']}, f = {one['f']}, rate {one['rate']}" + ", Nesterov" * one["nesterov"]
        best = (one["reference_best"], one["standard_best"], one["worker_best"])
        lasts = (last[one["standard_run"]], last[one["worker_run"]])
        gain = f"{100 * one['gain']:+.1f}"
        rows.append(
            [f"{one['rule']}, {one['attack']}", setup, one["seed"], *map(points, best), gain, *map(points, lasts)]
        )
    columns = ["rule, attack", "setup", "seed", "no attack", "standard", "at workers", "gain"]
    return table([*columns, "last: standard", "at workers"], rows)


def blocks() -> tuple[dict[str, str], pd.DataFrame]:
    """The generated parts of the page by name, and the table of runs."""
    collected = read_archive(ARCHIVE, ARCHIVE.name).runs
    runs = runs_table(collected, arrange(run.setup for run in collected))
    pairs = pairs_table(runs)
    runs = with_pairs(runs, pairs)
    parts = {
        "computed": computed(collected),
        "claims": claims(pairs),
        "won back": won_back(pairs),
        "counts": counts(pairs, runs),
        "accuracies": accuracies(runs),
        "worst": worst(pairs, runs),
    }
    return parts, runs


def filled(text: str, parts: dict[str, str]) -> str:
    """The page with its generated parts replaced."""
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{part}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the page and its figure."""
    parts, runs = blocks()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
    figure = overview_figure(runs)
    assert figure is not None
    with own_settings():
        figure.savefig(DOCS / "figures/reproduction.png", dpi=150)


if __name__ == "__main__":
    main()
