"""Runs on one warm fleet whose actors are killed every few seconds: nothing may grow, and no bit may change.

    python tests/chaos/soak.py --minutes 10

What an 8-hour soak would show is a slope; here the slope is measured in ten minutes with far more frequent restarts.
"""

import argparse
import logging
import math
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray
import torch
from chaos_processes import descendants, kill
from chaos_stage import CPUS_PER_ACTOR, DEADLINE, MIXTURE, Stage, nested, same
from numpy.typing import NDArray

import actors
from actors import Fleet, Supervision
from actors.fleet import split
from byzray import Setup, Update
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.result import Result
from byzray.setups import Actors

STEPS = 1500  # a few seconds, undisturbed

EVERY = 4.0  # seconds between two kills, on average

SAMPLE_SECONDS = 3.0

# After how many seconds an actor has loaded all it needs.
GROWN_UP = 8.0

MIB = 2**20


class Tolerance(NamedTuple):
    """By how much a quantity may have grown between the halves' ends, by the line fitted to the second half.

    Attributes:
        growth: so much.
        why: what is known to come and go, or to grow, that much.
    """

    growth: float
    why: str


TOLERANCES = {
    "driver MiB": Tolerance(10, "the allocator's noise; a leak of one run's metrics a run would be more"),
    "driver handles": Tolerance(4, "connections to actors that were just killed, or are new"),
    "driver threads": Tolerance(4, "likewise"),
    "raylet MiB": Tolerance(4, "the allocator's noise"),
    "raylet handles": Tolerance(8, "pipes and sockets of a process that starts or ends"),
    "gcs MiB": Tolerance(12, "Ray keeps a record of each task and dead worker, up to fixed numbers of them"),
    "gcs handles": Tolerance(8, "connections to processes that start or end"),
    "actor MiB": Tolerance(25, "an actor takes more with its age, and ages differ"),
    "actor handles": Tolerance(4, "connections to peers that come and go"),
    "object store MiB": Tolerance(0.5, "the data set and calls under way"),
    "processes": Tolerance(3, "workers that start or end"),
    "run's files": Tolerance(4, "checkpoints and temporary files come and go"),
    "shared memories": Tolerance(1, "an old one until its last actor has unmapped it"),
    "temporary folders": Tolerance(1, "a socket that listens"),
}


@dataclass
class Samples:
    """What was measured: a row of all quantities, at so many seconds and so many restarts."""

    seconds: list[float] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)

    def values(self, name: str) -> NDArray[np.float64]:
        """All of one quantity."""
        return np.array([row[name] for row in self.rows])


@dataclass
class Trend:
    """How a quantity changed.

    Attributes:
        first, last: the means of the first and the last tenth.
        growth: of the line fitted to the second half, over the second half.
        per_restart, per_hour: its slope.
    """

    first: float
    last: float
    growth: float
    per_restart: float
    per_hour: float


def trend(values: NDArray[np.float64], seconds: Sequence[float], restarts: Sequence[int]) -> Trend:
    """The trend of a quantity; samples that are NaN are left out."""
    known = ~np.isnan(values)
    values, times, counts = values[known], np.array(seconds)[known], np.array(restarts, float)[known]
    tenth, half = max(1, len(values) // 10), len(values) // 2
    per_second = float(np.polyfit(times[half:], values[half:], 1)[0])
    duration, happened = times[-1] - times[half], counts[-1] - counts[half]
    growth = per_second * float(duration)
    per_restart = growth / happened if happened else math.nan
    first, last = float(values[:tenth].mean()), float(values[-tenth:].mean())
    return Trend(first, last, growth, per_restart, per_second * 3600)


def report(samples: Samples) -> tuple[str, list[str]]:
    """The table of all trends, and the names of the quantities that grow."""
    header = ("quantity", "first", "last", "growth", "at most", "a restart", "an hour")
    lines, growing = ["".join(f"{word:>18}" if word == "quantity" else f"{word:>11}" for word in header)], []
    for name, tolerance in TOLERANCES.items():
        found = trend(samples.values(name), samples.seconds, samples.restarts)
        if not found.growth <= tolerance.growth:
            growing.append(name)
        numbers = (found.first, found.last, found.growth, tolerance.growth, found.per_restart, found.per_hour)
        verdict = f"  GROWS (allowed: {tolerance.why})" if name in growing else ""
        lines.append(f"{name:>18}" + "".join(f"{number:>11.4g}" for number in numbers) + verdict)
    return "\n".join(lines), growing


def is_actor(process: psutil.Process) -> bool:
    """Whether a process is an actor of the fleet."""
    return process.name().startswith(("ray::ServerActor", "ray::WorkerActor"))


def measure(output: Path) -> dict[str, float]:
    """All quantities now."""
    processes = descendants()
    named: dict[str, psutil.Process] = {"driver": psutil.Process()}
    grown_up, memories = [], set()
    for process in processes:
        with suppress(psutil.Error, OSError):
            name = process.name()
            if name in ("raylet", "gcs_server"):
                named[name.removesuffix("_server")] = process
            if is_actor(process):
                memories |= shared_memories(process.pid)
                if time.time() - process.create_time() > GROWN_UP:
                    grown_up.append((process.memory_info().rss / MIB, process.num_fds()))
    row = {f"{name} MiB": process.memory_info().rss / MIB for name, process in named.items()}
    row |= {f"{name} handles": float(process.num_fds()) for name, process in named.items()}
    row["actor MiB"], row["actor handles"] = np.mean(grown_up, axis=0) if grown_up else (math.nan, math.nan)
    there, free = ray.cluster_resources(), ray.available_resources()
    row["object store MiB"] = (there["object_store_memory"] - free.get("object_store_memory", 0.0)) / MIB
    row["driver threads"] = float(threading.active_count())
    row["processes"] = float(len(processes))
    row["run's files"] = float(sum(len(names) for _, _, names in os.walk(output)))
    row["shared memories"] = float(len(memories))
    row["temporary folders"] = float(len(list(Path(tempfile.gettempdir()).glob("byzray-*"))))
    return row


def shared_memories(pid: int) -> set[str]:
    """The inodes of the shared memories that an actor has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:byzray" in line}


class Disturbance(threading.Thread):
    """Kills a random actor every few seconds, and measures."""

    def __init__(self, folder: Path, seed: int, every: float, seconds: float) -> None:
        super().__init__(daemon=True)
        self.output = folder
        self.seconds = seconds  # then the current run ends undisturbed
        self.rng = random.Random(seed)
        self.every = every
        self.samples = Samples()
        self.kills = 0
        self.replaced = 0  # as runs report it: an actor that dies while it is being replaced counts once
        self.error: Exception | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._disturb()
        except Exception as error:  # raised in the main thread
            self.error = error

    def _disturb(self) -> None:
        began = time.monotonic()
        next_kill = sample = began
        while (now := time.monotonic()) < began + self.seconds and not self.over.wait(0.1):
            if now >= next_kill:
                next_kill = now + self.rng.uniform(0, 2 * self.every)
                self._kill_one()
            if now >= sample:
                sample = now + SAMPLE_SECONDS
                self.samples.rows.append(measure(self.output))
                self.samples.seconds.append(now - began)
                self.samples.restarts.append(self.kills)

    def _kill_one(self) -> None:
        found = []
        for process in descendants():
            with suppress(psutil.Error):
                if is_actor(process):
                    found.append(process.pid)
        if found:
            self.kills += kill(self.rng.choice(sorted(found)))

    def count_replaced(self, update: Update) -> None:
        """Count the actors that were replaced."""
        self.replaced += sum("was lost (process" in event for event in update.events)


def soak(folder: Path, minutes: float, seed: int, every: float) -> tuple[Disturbance, int, list[bool]]:
    """Run one setup again and again on a fleet whose actors are killed.

    Returns:
        The disturbance, how many steps the runs have, and for each run whether it is that of the undisturbed one.
    """
    stage = Stage(folder, random.Random(seed), STEPS, ray.get_runtime_context().gcs_address)
    varied = {"momentum.placement": "worker", "momentum.nesterov": True, "aggregator": MIXTURE, "attack": "little"}
    setup = Setup.model_validate({**stage.base(3), **nested(varied)})
    layout = Actors(workers_per_actor=3, cpus_per_actor=CPUS_PER_ACTOR)
    with Fleet("soak", split(5, 2), layout, supervision=Supervision(10**6, DEADLINE)) as fleet:
        whole = actors.simulate(setup, fleet=fleet, output=folder / "whole")
        output = folder / "disturbed"
        disturbance = Disturbance(output, seed, every, 60 * minutes)
        verdicts: list[bool] = []
        disturbance.start()
        try:
            while disturbance.is_alive():
                verdicts.append(disturbed(setup, fleet, output, disturbance, whole))
        finally:
            disturbance.over.set()
            disturbance.join()
    return disturbance, STEPS * len(verdicts), verdicts


def disturbed(setup: Setup, fleet: Fleet, output: Path, disturbance: Disturbance, whole: Result) -> bool:
    """One run; whether it is the same as undisturbed."""
    checkpoints = CheckpointInterval(seconds=0.5)
    actors.simulate(setup, fleet=fleet, output=output, checkpoints=checkpoints, progress=disturbance.count_replaced)
    identical = same(whole, output)
    shutil.rmtree(output)
    if disturbance.error is not None:
        raise disturbance.error
    return identical


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="10 by default")
    parser.add_argument("--every", type=float, default=EVERY, help="seconds between two kills, 4 by default")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn at random")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small tensors gain nothing from more
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        # To distinguish what actors leave behind from files of other processes.
        (Path(folder) / "temporary").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder) / "temporary")
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
        # There is no other way to stop Ray from printing deaths of actors.
        with (Path(folder) / "ray.txt").open("a") as unread, redirect_stdout(unread):
            ray.init(address="local", num_cpus=4, object_store_memory=200 * MIB, **quiet)
            try:
                disturbance, steps, verdicts = soak(Path(folder), arguments.minutes, arguments.seed, arguments.every)
            finally:
                ray.shutdown()
    text, growing = report(disturbance.samples)
    print(text)
    print(f"{disturbance.kills} actors killed and restarted by Ray, {disturbance.replaced} found lost by the fleet")
    print(f"{len(verdicts)} runs, {steps} steps, {sum(verdicts)} runs identical to the undisturbed one")
    print(f"growing: {', '.join(growing) or 'nothing'}")
    return 0 if all(verdicts) and verdicts and not growing else 1


if __name__ == "__main__":
    sys.exit(main())
