"""The runs that lose processes: small ones of all kinds, the undisturbed result of each, and warm fleets."""

import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

import actors
import byzray
from actors import Fleet, Supervision
from actors.fleet import split
from byzray import Setup
from byzray.runs.directory import RunDirectory
from byzray.runs.result import Result
from byzray.setups import Actors

# What must be the same, byte by byte.
FILES = ("metrics.csv", "evaluations.csv", "parameters.npy")

# How long a test waits for something on an idle machine, in seconds; far more than it takes.
PATIENCE = 120.0

# How long an actor may not respond there, in seconds.
DEADLINE = 20.0

# With CPUs of this size many fleets fit into one small cluster.
CPUS_PER_ACTOR = 0.1

PLACEMENTS = ("worker", "server", "update")
MIXTURE = {"name": "random-mixture", "rules": [{"rule": "multi-krum"}, {"rule": "median", "frequency": 2.0}]}
RULES = ("median", "trimmed-mean", MIXTURE)
SEARCHED = {"name": "little", "factor": "searched", "evaluations": 4}
ATTACKS = ("little", SEARCHED)
INTERVALS = ("25", "90", "0.2s", "0.5s")


def slowness() -> float:
    """How much longer things take now than on an idle machine, by its load per CPU."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def make_data(folder: Path) -> Path:
    """A data set of 60 + 20 examples with 5 features and 2 classes."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = (x @ rng.normal(size=5) + 0.3 * rng.normal(size=80) > 0).astype(np.int64)
    path = folder / "small.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


@dataclass
class Stage:
    """The environment of the killed runs.

    Attributes:
        folder: for whatever is written.
        rng: the source of all random choices.
        steps: of a run.
        address: of the cluster that Ray is connected to here.
    """

    folder: Path
    rng: random.Random
    steps: int
    address: str
    fleets: dict[int, Fleet] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.data = make_data(self.folder)

    def variation(self) -> dict[str, Any]:
        """Random options that differ between runs, by dotted key."""
        draw = self.rng.choice
        return {
            "momentum.placement": draw(PLACEMENTS),
            "momentum.nesterov": draw((False, True)),
            "aggregator": draw(RULES),
            "attack": draw(ATTACKS),
        }

    def base(self, workers_per_actor: int | None) -> dict[str, Any]:
        """The options that all runs share, as in a setup file; None: in one process."""
        layout = {"workers_per_actor": workers_per_actor, "cpus_per_actor": CPUS_PER_ACTOR}
        return {
            "dataset": {"name": "npz", "path": str(self.data)},
            "model": {"name": "mlp", "hidden": [4]},
            "steps": self.steps,
            "batch_size": 4,
            "learning_rate": 0.1,
            "workers": 7,
            "byzantine": 2,
            "evaluation_interval": self.steps // 16,
            "study": {"past": 3},
            "actors": None if workers_per_actor is None else layout,
        }

    def setup(self, workers_per_actor: int | None) -> Setup:
        """A setup drawn at random."""
        return Setup.model_validate({**self.base(workers_per_actor), **nested(self.variation())})

    def interval(self) -> str:
        """How often a run saves checkpoints, as the command line has it."""
        return self.rng.choice(INTERVALS)

    def fleet(self, workers_per_actor: int) -> Fleet:
        """A warm fleet for the five honest workers."""
        if workers_per_actor not in self.fleets:
            cohorts = split(5, math.ceil(5 / workers_per_actor))
            layout = Actors(workers_per_actor=workers_per_actor, cpus_per_actor=CPUS_PER_ACTOR)
            supervision = Supervision(deadline=DEADLINE * slowness())
            self.fleets[workers_per_actor] = Fleet("warm", cohorts, layout, supervision=supervision)
        return self.fleets[workers_per_actor]

    def forget_fleets(self) -> None:
        """Close the warm fleets; later calls of :meth:`fleet` start new ones."""
        for fleet in self.fleets.values():
            fleet.close()
        self.fleets.clear()

    def whole(self, setup: Setup) -> Result:
        """The run of a setup, undisturbed, in the same layout; computed once."""
        output = self.folder / "whole"
        if setup.actors is None:
            return byzray.simulate(setup, output=output)
        return actors.simulate(setup, fleet=self.fleet(setup.actors.workers_per_actor), output=output)

    def new_folder(self) -> Path:
        """An empty folder."""
        self.count += 1
        folder = self.folder / f"{self.count:03d}"
        folder.mkdir()
        return folder


def nested(overrides: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as a setup file holds them."""
    content: dict[str, Any] = {}
    for key, value in overrides.items():
        section, dot, name = key.partition(".")
        if dot:
            content.setdefault(section, {})[name] = value
        else:
            content[key] = value
    return content


def same(whole: Result, output: Path) -> bool:
    """Whether the run of the same setup below `output` is finished, and the same bit by bit."""
    assert whole.directory is not None
    directory = output / RunDirectory.name(whole.setup)
    return all((directory / name).read_bytes() == (whole.directory / name).read_bytes() for name in FILES)


def wait_for(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The value of a condition as soon as it is true.

    Raises:
        TimeoutError: it did not become true in time; the limit depends on the load of the machine.
    """
    began, limit = time.monotonic(), patience
    while not (found := condition()):
        waited = time.monotonic() - began
        limit = max(limit, patience * slowness())
        if waited > limit:
            raise TimeoutError(f"{what}: not within {waited:.0f} s")
        time.sleep(0.02)
    return found


def alive_nodes() -> set[str]:
    """The ids of the nodes that Ray reports as alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
