"""The tables of a report: one row a run, one a pair of placements, one a setup and step."""

import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from byzray.evaluation import OF_WORKERS
from byzray.report.collect import Run
from byzray.report.panels import Grid, digest, identity
from byzray.runs.directory import DONE

# Differences of accuracies that are equal but for rounding must count as equal.
SLACK = 1e-9

QUANTITIES = {"accuracy": "evaluations", "loss": "metrics", "sampled": "metrics", "submitted": "metrics"}
"""What curves show, and the table of a run that holds it. The last two are squared variance-norm ratios."""

PAIR_COLUMNS = {
    "pair": "str",
    "panel": "str",
    "dataset": "str",
    "split": "str",
    "n": "int64",
    "f": "int64",
    "rate": "str",
    "nesterov": "bool",
    "attack": "str",
    "rule": "str",
    "seed": "int64",
    "standard_run": "str",
    "worker_run": "str",
    "reference_run": "str",
    "standard_best": "float64",
    "worker_best": "float64",
    "reference_best": "float64",
    "cost": "float64",
    "gain": "float64",
    "decided": "bool",
    "lacks": "str",
}


def runs_table(runs: list[Run], grid: Grid) -> pd.DataFrame:
    """One row per run: what it simulates, its state and its accuracies, as shares of 1."""
    rows = []
    for run in runs:
        facts = grid.facts[digest(identity(run.setup))]
        accuracy = run.evaluations["accuracy"].dropna()
        counted, met = bound_met(run.metrics, facts["bound"])
        rows.append(
            {
                "run": run.name,
                **facts,
                "seed": run.setup["seed"],
                "state": run.state,
                "reason": run.reason,
                "step": run.step,
                "best_accuracy": float(accuracy.max()) if len(accuracy) else np.nan,
                "last_accuracy": float(accuracy.iloc[-1]) if len(accuracy) else np.nan,
                "worst_worker_accuracy": _last(run.evaluations, OF_WORKERS[0]),
                "largest_kappa_hat": float(run.metrics["kappa_hat"].max()) if "kappa_hat" in run.metrics else np.nan,
                "diverged_at": run.diverged_at,
                "ratio_steps": counted,
                "bound_met_steps": met,
                "seconds": run.seconds,
            }
        )
    return pd.DataFrame(rows).astype({"diverged_at": "Int64"})


def _last(table: pd.DataFrame, column: str) -> float:
    """The last value of a column that the table may lack, or have no row for."""
    return float(table[column].iloc[-1]) if column in table.columns and len(table) else np.nan


def bound_met(metrics: pd.DataFrame, bound: float) -> tuple[int, int]:
    """At how many steps the submitted ratio was measured, and at how many of these it was below the squared bound
    while the average loss was no larger than at the first: a model that is lost already has small ratios, too."""
    if "submitted" not in metrics.columns or not len(metrics) or not np.isfinite(bound):
        return 0, 0
    alive = metrics["loss"] <= metrics["loss"].iloc[0]
    return len(metrics), int((alive & (metrics["submitted"] < bound**2)).sum())


def pairs_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for every attacked setup that occurs with both placements, and seed; with the unattacked run of the seed.

    cost = best accuracy of the reference - of the standard placement; gain = best accuracy at the workers - of the
    standard placement; both are shares of 1, and NaN while the pair is undecided.
    """
    attacked = runs[runs["attack"] != "none"]
    placed = {name: attacked[attacked["placement"] == name] for name in ("update", "worker")}
    pairs = placed["worker"].merge(placed["update"], on=["pair", "seed"], suffixes=("", "_standard"))
    reference = runs[["setup", "seed", "run", "state", "best_accuracy"]].rename(
        columns={name: f"{name}_reference" for name in ("run", "state", "best_accuracy")}
    )
    pairs = pairs.merge(
        reference.rename(columns={"setup": "reference_setup"}), on=["reference_setup", "seed"], how="left"
    )
    sides = {"worker": "", "standard": "_standard", "reference": "_reference"}
    for side, suffix in sides.items():
        known = pairs[f"state{suffix}"].isin(DONE) & pairs[f"best_accuracy{suffix}"].notna()
        pairs[f"{side}_best"] = pairs[f"best_accuracy{suffix}"].where(known)
        pairs[f"{side}_run"] = pairs[f"run{suffix}"].astype(object).where(pairs[f"run{suffix}"].notna(), "")
    defined = pairs[[f"{side}_best" for side in sides]].notna().to_numpy()
    pairs["decided"] = pd.Series(defined.all(axis=1), index=pairs.index)
    pairs["lacks"] = [
        ", ".join(side for side, here in zip(sides, row, strict=True) if not here) for row in defined.tolist()
    ]
    pairs["cost"] = (pairs["reference_best"] - pairs["standard_best"]).where(pairs["decided"])
    pairs["gain"] = (pairs["worker_best"] - pairs["standard_best"]).where(pairs["decided"])
    return pairs[list(PAIR_COLUMNS)].astype(PAIR_COLUMNS)


def with_pairs(runs: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The runs, each with the best accuracy of its reference and with cost and gain of its pair, where defined."""
    best = runs[runs["state"].isin(DONE)][["setup", "seed", "best_accuracy"]].rename(
        columns={"setup": "reference_setup", "best_accuracy": "reference_best"}
    )
    merged = runs.merge(best, on=["reference_setup", "seed"], how="left")
    merged = merged.merge(pairs[["pair", "seed", "cost", "gain"]], on=["pair", "seed"], how="left")
    merged[["cost", "gain"]] = merged[["cost", "gain"]].where(merged["placement"].isin(["update", "worker"]))
    return merged


def curves_table(runs: list[Run], grid: Grid) -> pd.DataFrame:
    """Mean and standard deviation over seeds, by setup, quantity and step.

    The deviation divides by the number of seeds, as published. Non-finite values are left out; `seeds` counts
    the others.
    """
    words, curves = [], []
    for words_of_curve, curve in _curves(runs, grid):
        words.append(words_of_curve)
        curves.append(curve)
    if not curves:
        return pd.DataFrame(columns=[*CURVE_WORDS, "step", "mean", "std", "seeds"])
    lengths = [len(curve) for curve in curves]
    # Millions of rows: each word is kept once.
    labels = {name: pd.Categorical([one[name] for one in words]).repeat(lengths) for name in CURVE_WORDS}
    return pd.concat([pd.DataFrame(labels), pd.concat(curves, ignore_index=True)], axis=1)


CURVE_WORDS = ("setup", "panel", "attack", "rule", "placement", "quantity")


def _curves(runs: list[Run], grid: Grid) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    by_setup: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_setup[digest(identity(run.setup))].append(run)
    for key, repeated in by_setup.items():
        facts = {name: grid.facts[key][name] for name in CURVE_WORDS[:-1]}
        for quantity, table in QUANTITIES.items():
            tables = [getattr(run, table) for run in repeated]
            known = [one.set_index("step")[quantity] for one in tables if quantity in one.columns and len(one)]
            if known:
                yield {**facts, "quantity": quantity}, _over_seeds(known)


def _over_seeds(series: list[pd.Series]) -> pd.DataFrame:
    together = pd.concat([one[~one.index.duplicated(keep="last")] for one in series], axis=1).sort_index()
    values = together.to_numpy(dtype="float64")
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():  # where all seeds diverged there is nothing to take the mean of
        warnings.simplefilter("ignore", RuntimeWarning)
        return pd.DataFrame(
            {
                "step": together.index.astype("int64"),
                "mean": np.nanmean(values, axis=1),
                "std": np.nanstd(values, axis=1),
                "seeds": np.isfinite(values).sum(axis=1),
            }
        )
