"""The paper's point in two minutes: two attacks, two rules, momentum where it usually is and at the workers.

Nine runs on one fleet of real Ray actors, seven worker actors and a server, which is started once. What was computed
by an earlier call is taken from its run directories.
"""

import argparse
import time
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import actors
from byzray import Result, Setup

ATTACKS = {"empire": {"name": "empire", "factor": 1.1}, "little": {"name": "little", "factor": 1.5, "negative": True}}
RULES = ("multi-krum", "median")
PLACEMENTS = {"update": "standard", "worker": "at the workers"}
COLOURS = {"update": "#D55E00", "worker": "#0072B2"}

UNATTACKED = Setup.model_validate(
    {
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [64]},
        "batch_size": 4,
        "steps": 300,
        "learning_rate": 0.2,
        "momentum": {"beta": 0.9, "placement": "worker"},
        "workers": 7,
        "aggregator": "average",
        "evaluation_interval": 10,
    }
)


def setups() -> dict[tuple[str, str, str], Setup]:
    """Every attack against every rule, with both placements."""
    return {
        (attack, rule, placement): UNATTACKED.changed(
            workers=11,
            byzantine=4,
            tolerated=4,
            attack=options,
            aggregator=rule,
            momentum={"beta": 0.9, "placement": placement},
        )
        for attack, options in ATTACKS.items()
        for rule in RULES
        for placement in PLACEMENTS
    }


def table(results: dict[tuple[str, str, str], Result], reference: Result) -> Table:
    """Best accuracies: with the standard placement, at the workers, and what that gains."""
    shown = Table(title=f"best accuracy (without attack: {reference.best_accuracy:.3f})")
    for column in ("attack", "rule", *PLACEMENTS.values(), "gain"):
        shown.add_column(column, justify="left" if column in ("attack", "rule") else "right")
    for attack in ATTACKS:
        for rule in RULES:
            standard, worker = (results[attack, rule, placement].best_accuracy for placement in PLACEMENTS)
            shown.add_row(attack, rule, f"{standard:.3f}", f"{worker:.3f}", f"{worker - standard:+.3f}")
    return shown


def figure(results: dict[tuple[str, str, str], Result], reference: Result) -> Figure:
    """Accuracy over steps, a panel for each attack and rule."""
    drawn = Figure(figsize=(9, 5.6), layout="constrained")
    panels = drawn.subplots(len(ATTACKS), len(RULES), sharex=True, sharey=True)
    for row, attack in zip(panels, ATTACKS, strict=True):
        for axes, rule in zip(row, RULES, strict=True):
            known = reference.evaluations
            axes.plot(known["step"], known["accuracy"], color="black", ls=":", label="no attack")
            for placement, label in PLACEMENTS.items():
                curve = results[attack, rule, placement].evaluations
                axes.plot(curve["step"], curve["accuracy"], color=COLOURS[placement], label=f"momentum: {label}")
            axes.set(title=f"{attack} against {rule}", ylim=(0, 1.02))
            axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("test accuracy")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn


def main() -> None:
    """Run, print the table, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/demo"), help="folder for the runs and the figure")
    output = parser.parse_args().output
    console = Console()
    began = time.monotonic()
    console.print("starting Ray and seven worker actors ...")
    actors.connect()
    with actors.Fleet("demo", [range(worker, worker + 1) for worker in range(7)]) as fleet:
        console.print(f"  took {time.monotonic() - began:.1f} s")

        def run(setup: Setup) -> Result:
            start = time.monotonic()
            result = actors.simulate(setup, fleet=fleet, output=output)
            what = f"{setup.label()}, momentum {setup.momentum.placement}"
            took = "computed earlier" if result.reused else f"{time.monotonic() - start:.1f} s"
            console.print(f"  {what}: best accuracy {result.best_accuracy:.3f} ({took})")
            return result

        reference = run(UNATTACKED)
        results = {key: run(setup) for key, setup in setups().items()}
    console.print(table(results, reference))
    path = output / "accuracy.png"
    figure(results, reference).savefig(path, dpi=150)
    console.print(f"figure: {path}, runs: {output}, {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
