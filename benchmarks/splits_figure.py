"""The figure of docs/heterogeneous.md: the labels that each worker sees, by split.

    python benchmarks/splits_figure.py [--docs docs]

Ten honest workers share the training set of `digits`, with seed 1. The script also prints label skew and sizes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from byzray import Setup
from byzray.data import load_data
from byzray.division import training
from byzray.splits import Sharded, label_skew

WORKERS = 10

SPLITS: dict[str, Any] = {
    "iid": "iid",
    "similarity 0.5": {"name": "similarity", "gamma": 0.5},
    "dirichlet 1": {"name": "dirichlet", "alpha": 1.0},
    "dirichlet 0.1": {"name": "dirichlet", "alpha": 0.1},
    "shards 2": {"name": "shards", "classes": 2},
}


def counts(split: Any) -> tuple[np.ndarray, float]:
    """How many examples of each class each worker has, (classes, workers), and the label skew."""
    setup = Setup.model_validate({"workers": WORKERS, "aggregator": "average", "split": split})
    assert isinstance(setup.split, Sharded)
    divided = training(load_data(setup), setup)
    shards = setup.split.shards(divided)
    table = np.stack([np.bincount(divided.y[shard], minlength=divided.classes) for shard in shards], axis=1)
    return table, label_skew(divided.y, shards, divided.classes)


def draw(tables: dict[str, tuple[np.ndarray, float]]) -> Figure:
    """Five panels in two columns, to be read on a screen of 390 pixels; where a sixth would be, the scale."""
    figure = Figure(figsize=(3.9, 5.9))
    axes = figure.subplots(3, 2)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.07, top=0.96, wspace=0.18, hspace=0.26)
    norm = PowerNorm(0.5, vmin=0, vmax=max(int(table.max()) for table, _ in tables.values()))
    for ax, (name, (table, skew)) in zip(axes.flat, tables.items(), strict=False):
        image = ax.imshow(table, cmap="Blues", norm=norm, aspect="auto", origin="lower")
        ax.set_title(f"{name}, skew {skew:.2f}", fontsize=8.5, loc="left")
        ax.set_xticks(range(table.shape[1]))
        ax.set_yticks(range(table.shape[0]))
        ax.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(table.shape[0] + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=0.8)
        ax.tick_params(which="both", length=0, labelsize=7.5)
        ax.spines[:].set_color("0.8")
    for ax in axes[:, 0]:
        ax.set_ylabel("label", fontsize=8.5, labelpad=1)
    for ax in (axes[2, 0], axes[1, 1]):
        ax.set_xlabel("worker", fontsize=8.5, labelpad=1)
    legend = axes[2, 1]
    legend.set_axis_off()
    box = legend.get_position()
    scale = figure.add_axes((box.x0 + 0.02, box.y0 + 0.11, box.width - 0.06, 0.028))
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", ticks=[0, 5, 20, 50, 100, 150])
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_edgecolor("0.8")
    bar.ax.set_title("examples of a label\nthat a worker has", fontsize=8.5, loc="left")
    return figure


def main() -> None:
    """Print the numbers and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs", help="where to write")
    given = parser.parse_args()
    tables = {name: counts(split) for name, split in SPLITS.items()}
    for name, (table, skew) in tables.items():
        sizes, labels = table.sum(axis=0), (table > 0).sum(axis=0)
        print(
            f"{name:<15} label skew {skew:.2f}, shards of {sizes.min()} to {sizes.max()} examples, "
            f"{labels.min()} to {labels.max()} labels each"
        )
    draw(tables).savefig(given.docs / "figures" / "splits.png", dpi=200)


if __name__ == "__main__":
    main()
