"""What the paper counts: how often attacks cost accuracy, and how often momentum at the workers wins it back."""

from collections.abc import Iterator

import pandas as pd

from byzray.report.tables import SLACK
from byzray.runs.directory import DONE

POINTS = (10, 20, 40)
"""Thresholds of costs and gains, in points of accuracy (hundredths)."""

LOSSES = (0, 2, 5)
"""Thresholds of accuracy lost by momentum at the workers, in points."""

# By what the pairs are counted apart.
SUBSETS = (("dataset",), ("dataset", "f"), ("f",), ("attack",), ("rule",), ("nesterov",), ("rate",))


def statistics(pairs: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for all pairs, and one for each subset: counts of (pair of placements, seed), as published.

    Columns: pairs (decided ones), undecided; effective_P: the attack costs at least P points of the best accuracy;
    won_back_P: of these, momentum at the workers gains at least P points; worse_P: it loses (more than P points);
    bounded_runs: complete runs of rules with a known bound, and with a study; bound_met_runs: of these, the bound was
    met at some step, see :func:`byzray.report.tables.bound_met`; bound_met_share: the largest share of steps, of 1.
    """
    rows = [{"by": "all", "subset": "all", **_counts(pairs, runs)}]
    for columns in SUBSETS:
        rows += _by(columns, pairs, runs)
    return pd.DataFrame(rows)


def _by(columns: tuple[str, ...], pairs: pd.DataFrame, runs: pd.DataFrame) -> Iterator[dict[str, object]]:
    names = list(columns)
    for values, inside in pairs.groupby(names, sort=True):
        among = runs
        for name, value in zip(names, values, strict=True):
            among = among[among[name] == value]
        subset = ", ".join(_word(name, value) for name, value in zip(names, values, strict=True))
        yield {"by": " and ".join(names), "subset": subset, **_counts(inside, among)}


def _word(name: str, value: object) -> str:
    if name == "nesterov":
        return "Nesterov" if value else "without Nesterov"
    return str(value) if name in ("dataset", "attack", "rule") else f"{name} = {value}"


def _counts(pairs: pd.DataFrame, runs: pd.DataFrame) -> dict[str, float]:
    decided = pairs[pairs["decided"]]
    counts: dict[str, float] = {"pairs": len(decided), "undecided": len(pairs) - len(decided)}
    for points in POINTS:
        effective = decided[decided["cost"] >= points / 100 - SLACK]
        counts[f"effective_{points}"] = len(effective)
        counts[f"won_back_{points}"] = int((effective["gain"] >= points / 100 - SLACK).sum())
    for points in LOSSES:
        counts[f"worse_{points}"] = int((decided["gain"] < -points / 100 - SLACK).sum())
    bounded = runs[runs["state"].isin(DONE) & (runs["ratio_steps"] > 0)]
    counts["bounded_runs"] = len(bounded)
    counts["bound_met_runs"] = int((bounded["bound_met_steps"] > 0).sum())
    counts["bound_met_share"] = (
        float((bounded["bound_met_steps"] / bounded["ratio_steps"]).max()) if len(bounded) else 0.0
    )
    return counts
