"""What a step costs on actors beyond its computation, next to plainly written actors, and how soon a fleet runs.

Takes the same steps by turns in this process, on a fleet, and on plain Ray actors: a method call for each actor and
step, answered with numpy arrays. Prints the median time of a step of each, and what the two kinds of actors cost beyond
the computation in this process. The setup is the paper's on MNIST (d = 79,510) without an attack, so that what is
exchanged weighs as much as it can.

    python benchmarks/actor_steps.py [--workers 10] [--steps 300] [--data DIR] [--json FILE]
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import actors
from actors.fleet import split
from actors.simulation import FleetSimulation
from byzray import Setup, Update
from byzray.cohort import Cohort, Contribution
from byzray.data import load_data
from byzray.datasets import Data
from byzray.environment import environment
from byzray.metrics import Moments
from byzray.server import Server
from byzray.setups import Actors
from byzray.simulation import LocalSimulation

# What is timed at once: long enough that the one call for each stretch of steps does not show.
CHUNK = 10

# Reserved, so that both kinds of actors fit into a small cluster side by side; they use what they get.
CPUS_PER_ACTOR = 0.01

SETUP = Setup.model_validate(
    {
        "dataset": "mnist",
        "model": "full",
        "batch_size": 83,
        "learning_rate": 0.02,
        "momentum": {"placement": "worker", "beta": 0.99},
        "l2": 1e-8,
        "clip": 2,
        "aggregator": "average",
        "evaluation_interval": 0,
        "device": "cpu",
    }
)


class PlainActor:
    """A cohort behind method calls."""

    def __init__(self, setup: Setup, workers: range, data: Data) -> None:
        torch.set_num_threads(1)
        self.cohort = Cohort(setup, workers, data, torch.device("cpu"))
        self.submissions_KD = torch.empty(len(workers), self.cohort.gradients.network.dimension)

    def step(self, point_D: NDArray[np.float32], step: int) -> tuple[NDArray[Any], ...]:
        """Take a step; returns the submissions and the contribution as arrays."""
        contribution = self.cohort.step(torch.from_numpy(point_D.copy()), step, self.submissions_KD)
        moments = contribution.sampled
        assert moments is not None
        parts = (self.submissions_KD, contribution.losses_K, moments.mean_D, moments.scatter)
        return tuple(part.numpy() for part in parts)


class PlainSimulation:
    """A run on plain actors, the server in this process."""

    def __init__(self, setup: Setup, data: Data, cohorts: list[range]) -> None:
        self.server = Server(setup, data, torch.device("cpu"))
        self.cohorts = cohorts
        plain: Any = ray.remote(PlainActor).options(num_cpus=CPUS_PER_ACTOR)
        reference = ray.put(data)
        self.workers = [plain.remote(setup, workers, reference) for workers in cohorts]

    @property
    def step_number(self) -> int:
        """How many steps have been taken."""
        return self.server.step_number

    def advance(self, stop: int) -> NDArray[np.float64]:
        """Take the steps up to `stop`, exclusive; returns their rows of metrics."""
        while self.server.step_number < stop:
            point = ray.put(self.server.point().numpy())
            answers = ray.get([worker.step.remote(point, self.server.step_number) for worker in self.workers])
            contributions = []
            for workers, (submissions, losses, mean, scatter) in zip(self.cohorts, answers, strict=True):
                np.copyto(self.server.trained_TD.numpy()[workers.start : workers.stop], submissions)
                moments = Moments(len(workers), torch.from_numpy(mean.copy()), torch.from_numpy(scatter.copy()))
                contributions.append(Contribution(torch.from_numpy(losses.copy()), moments))
            self.server.step(contributions)
        return self.server.take_rows()

    def close(self) -> None:
        """End the actors."""
        for worker in self.workers:
            ray.kill(worker)


class Advancing(Protocol):
    """A simulation, as far as it is timed."""

    @property
    def step_number(self) -> int:
        """How many steps have been taken."""

    def advance(self, stop: int) -> NDArray[np.float64]:
        """Take the steps up to `stop`, exclusive."""


def alternate(simulations: dict[str, Advancing], steps: int) -> dict[str, float]:
    """The median time of a step of each, in milliseconds, all by turns."""
    for simulation in simulations.values():
        simulation.advance(CHUNK)
    times: dict[str, list[float]] = {name: [] for name in simulations}
    for _ in range(math.ceil(steps / CHUNK)):
        for name, simulation in simulations.items():
            times[name].append(timed(lambda: simulation.advance(simulation.step_number + CHUNK)) / CHUNK)  # noqa: B023
    return {name: 1000 * statistics.median(found) for name, found in times.items()}


def timed(work: Callable[[], object]) -> float:
    """How many seconds it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def warm_start(setup: Setup, fleet: actors.Fleet, data: str | None) -> float:
    """Seconds from the call of `simulate` on a fleet that has run before until the first step is done."""
    done: list[float] = []

    def note(update: Update) -> None:
        if update.step and not done:
            done.append(time.perf_counter())

    began = time.perf_counter()
    actors.simulate(setup.changed(steps=2), seed=2, fleet=fleet, data=data, progress=note)
    return done[0] - began


def measure(setup: Setup, count: int, steps: int, root: str | None) -> dict[str, float]:
    """The figures for so many worker actors."""
    data = load_data(setup, root)
    cohorts = split(setup.honest, count)
    layout = Actors(workers_per_actor=len(cohorts[0]), cpus_per_actor=CPUS_PER_ACTOR)
    began = time.perf_counter()
    with actors.Fleet("benchmark", cohorts, layout) as fleet:
        figures = {"fleet started, s": time.perf_counter() - began}
        plain = PlainSimulation(setup, data, cohorts)
        simulations: dict[str, Advancing] = {
            "in process": LocalSimulation(setup, data),
            "fleet": FleetSimulation(setup, data, fleet),
            "plain": plain,
        }
        figures |= {f"{name}, ms": value for name, value in alternate(simulations, steps).items()}
        plain.close()
        figures["second run's first step, s"] = warm_start(setup, fleet, root)
    for name in ("fleet", "plain"):
        figures[f"{name} beyond, ms"] = figures[f"{name}, ms"] - figures["in process, ms"]
    figures["ratio"] = figures["fleet beyond, ms"] / figures["plain beyond, ms"]
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10, help="honest workers, first one an actor, then in two")
    parser.add_argument("--steps", type=int, default=300, help="steps of each kind")
    parser.add_argument("--data", help="folder that holds data sets")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    setup = SETUP.changed(workers=given.workers, steps=1_000_000)
    actors.connect(dashboard=False, output=False)
    found = {
        f"{count} x {math.ceil(given.workers / count)}": measure(setup, count, given.steps, given.data)
        for count in (given.workers, 2)
    }
    ray.shutdown()
    table = Table("actors x workers", *found, title=f"a step of {given.workers} workers, {os.cpu_count()} CPUs")
    for name in next(iter(found.values())):
        table.add_row(name, *(f"{figures[name]:.2f}" for figures in found.values()))
    Console().print(table)
    if given.json is not None:
        figures = {"environment": environment(torch.device("cpu")), "layouts": found}
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
