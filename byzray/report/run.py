"""The figure of one run: accuracy over steps, and the variance-norm ratio against the rule's bound."""

import math
from pathlib import Path

import pandas as pd

from byzray.report.drawing import BLACK, BLUE, ORANGE, Axes, Figure, fitted, legend, own_settings, plain, save
from byzray.runs.result import Result


def variance_norm_ratio(metrics: pd.DataFrame, which: str) -> pd.Series:
    """The squared ratio (deviation / norm)^2 of the `Sampled` or the `Honest` gradients, as the paper plots it."""
    return (metrics[f"{which} gradient deviation"] / metrics[f"{which} gradient norm"]) ** 2


@own_settings()
def run_figure(result: Result) -> Figure:
    """Accuracy on the left, the squared variance-norm ratio of sampled and submitted gradients on the right.

    Without a study there is only the left half.
    """
    setup = result.setup
    panels = 2 if setup.study is not None else 1
    figure = Figure(figsize=(5.2 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _accuracy(axes[0], result)
    if panels == 2:
        _ratio(axes[1], result)
    placement = {"worker": "at the workers", "server": "at the server", "update": "in the update"}
    title = (
        f"{setup.dataset.label()}: {setup.label()}, n = {setup.workers}, f = {setup.byzantine}, "
        f"momentum {setup.momentum.beta:g} {placement[setup.momentum.placement]}"
    )
    figure.suptitle(fitted(title, 10, 5.0 * panels), fontsize=10)
    if panels == 2:
        legend(figure, columns=3)  # below, where it hides no line
    return figure


def _accuracy(axes: Axes, result: Result) -> None:
    table = result.evaluations
    axes.plot(table["step"], table["accuracy"], color=BLUE, marker="." if len(table) < 40 else None)
    axes.set(xlabel="step", ylabel="test accuracy", ylim=(0, 1.02), title=f"best {result.best_accuracy:.3f}")
    axes.grid(alpha=0.3)


def _ratio(axes: Axes, result: Result) -> None:
    setup, metrics = result.setup, result.metrics
    steps = metrics["Step number"]
    axes.plot(steps, variance_norm_ratio(metrics, "Sampled"), color=ORANGE, lw=0.9, label="sampled")
    axes.plot(steps, variance_norm_ratio(metrics, "Honest"), color=BLUE, lw=0.9, label="submitted")
    bound = setup.defence.bound(setup.workers, setup.tolerated)
    if math.isfinite(bound):
        label = plain(f"bound of {setup.defence.label()}")
        axes.axhline(bound**2, color=BLACK, ls="--", lw=1, label=label)
    axes.set(xlabel="step", ylabel="(deviation / norm)$^2$", yscale="log", title="variance-norm ratio")
    axes.grid(alpha=0.3)


def save_run_figure(result: Result, directory: Path) -> None:
    """Write the figure as accuracy.png and accuracy.svg."""
    save(run_figure(result), directory, "accuracy")
