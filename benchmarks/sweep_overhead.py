"""What a sweep costs in addition to its computation.

Runs a sweep on a local Ray cluster with one CPU a run, and prints the share of the time in which its slots computed
steps and evaluations, and what a run cost beyond that. The time counts from when Tune
starts the first trial, whose actor has yet to import PyTorch, to the end.

    python benchmarks/sweep_overhead.py --runs 20 --seconds 5
    python benchmarks/sweep_overhead.py --runs 10 --dataset mnist --steps 300
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import ray
import torch
from rich.console import Console
from rich.table import Table

import actors
import byzray
from byzray import Setup
from byzray.data import data_root
from byzray.environment import environment
from sweeps.definition import Sweep
from sweeps.grid import Point
from sweeps.observer import Observer
from sweeps.outcome import Outcome
from sweeps.paper import MNIST
from sweeps.plan import make_plan
from sweeps.storage import Storage
from sweeps.trainable import Resources
from sweeps.tuner import Options, run_sweep

# Of the demo, and of the paper.
SETUPS = {
    "digits": {
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [64]},
        "learning_rate": 0.2,
        "workers": 11,
        "byzantine": 4,
        "aggregator": "median",
        "attack": "little",
        "actors": None,
    },
    "mnist": {
        **MNIST.base,
        "dataset": "mnist",
        "byzantine": 24,
        "learning_rate": {"initial": 0.5, "half_life": 5000, "every": 300},
        "momentum": {"beta": 0.9, "placement": "worker"},
        "aggregator": "median",
        "attack": "little",
    },
}


def calibrated(setup: Setup, seconds: float, data: Path) -> Setup:
    """The setup with as many steps as take so long in this process, on one thread as in the sweep."""
    torch.set_num_threads(1)
    byzray.simulate(setup.changed(steps=50), data=data)  # what is imported on first use
    tried = byzray.simulate(setup.changed(steps=300), data=data)
    return setup.changed(steps=max(1, round(300 * seconds / tried.seconds)))


def measure(setup: Setup, runs: int, data: Path) -> Outcome:
    """Compute so many runs, in a folder that is removed again."""
    sweep = Sweep("overhead", (Point(setup),), tuple(range(1, runs + 1)))
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        options = Options(Resources(cpus=1), 0, data)
        return run_sweep(make_plan(sweep, storage, data), storage, options, Observer())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs in the sweep")
    parser.add_argument("--dataset", choices=SETUPS, default="digits", help="whose setup: the demo's or the paper's")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long one computes, alone")
    parser.add_argument("--steps", type=int, help="steps of a run, in place of --seconds")
    parser.add_argument("--data", help="folder that holds data sets")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    data = data_root(given.data)
    setup = Setup.model_validate(SETUPS[given.dataset])
    setup = setup.changed(steps=given.steps) if given.steps else calibrated(setup, given.seconds, data)
    actors.connect(dashboard=False, output=False)
    console = Console()
    console.print(f"{given.runs} runs of {setup.steps} steps on {given.dataset}, {os.cpu_count()} CPUs")
    outcome = measure(setup, given.runs, data)
    computing = outcome.busy * outcome.seconds * outcome.slots / given.runs
    further = outcome.seconds * outcome.slots / given.runs - computing
    figures = {"seconds": outcome.seconds, "busy": outcome.busy, "computing": computing, "further": further}
    table = Table("slots", "seconds", "computing", "a run computes", "a run costs in addition")
    table.add_row(
        f"{outcome.slots}", f"{outcome.seconds:.1f}", f"{outcome.busy:.1%}", f"{computing:.2f} s", f"{further:.2f} s"
    )
    ray.shutdown()
    console.print(table)
    if given.json is not None:
        given.json.write_text(
            json.dumps(
                {
                    "environment": environment(torch.device("cpu")),
                    "dataset": given.dataset,
                    "steps": setup.steps,
                    "runs": given.runs,
                    **figures,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
