"""Steps a second of the paper's MNIST setups: byzray, the code published with the paper, byzfl's loop, and the limit.

Runs them by turns, in processes of as many threads, on the same setups: n = 51, f = 24, rate 0.5, `little`, momentum at
the workers, all study metrics, the accuracy on the whole test set every 5 steps, results written to a directory. Time
counts from the second evaluation to the last, so that the start is in neither.

byzfl has a loop for the same job without metrics, clipping and regularisation, see loops.py; it writes nothing.

    python benchmarks/steps.py --published CHECKOUT [--peers DIR] [--data DIR] [--threads N] [--json FILE]
"""

import byzray  # isort: skip  # before PyTorch: as in the `byzray` command, its threads then spin only for a while

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import wraps
from inspect import ismethod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import psutil
import torch
from loops import BYZFL_RULES, byzfl_evaluations
from measured_limits import INTERVAL, measure_rates, rates_table, report, step_seconds
from peers import published_copy
from rich.console import Console
from rich.table import Table

import byzray.cohort
import byzray.study
from byzray import Setup
from byzray.data import data_root, load_data
from byzray.datasets import Data
from byzray.defence import Defence
from byzray.environment import environment
from byzray.gradients import Gradients
from byzray.metrics import Moments
from byzray.momentum import WorkerMomentum
from byzray.recording.update import Update
from byzray.sampling import TrainingStream
from byzray.server import Server
from byzray.simulation import LocalSimulation
from byzray.study import Study
from sweeps.paper import ATTACKS, MNIST

# Our names of the rules, and those of the published code.
RULES = {"multi-krum": "krum", "median": "median", "trimmed-mean": "trmean", "phocas": "phocas", "meamed": "meamed"}
QUICK = ("multi-krum", "median")
SLOWNESS = 4  # times as many of our steps are timed as of the others, which take so much longer

# Each evaluation of the published code starts such a line.
EVALUATED = re.compile(r"Accuracy \(step (\d+)\)\.\.\. ")


def setups() -> dict[str, Setup]:
    """The setups by rule, from the paper's grid."""
    axes = {
        "dataset": ("mnist",),
        "byzantine": (24,),
        "learning_rate.initial": (0.5,),
        "momentum.nesterov": (False,),
        "aggregator": tuple(RULES),
        "attack": tuple(attack for attack in ATTACKS if attack["name"] == "little"),
        "momentum.placement": ("worker",),
    }
    assert axes.keys() == MNIST.axes.keys()
    points = replace(MNIST, axes=axes, reference=False).points("paper")
    return {point.setup.aggregator.name: point.setup.changed(device="cpu") for point in points}


class Moment(NamedTuple):
    """When an evaluation was done: in seconds of wall time, and of CPU time of all processes of a run."""

    wall: float
    cpu: float


def ours(setup: Setup, steps: int, data: Path) -> Moment:
    """The seconds a step of byzray, in this process."""
    moments: list[Moment] = []

    def note(update: Update) -> None:
        if update.step % INTERVAL == 0:
            moments.append(Moment(time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as output:
        byzray.simulate(setup.changed(steps=steps), seed=1, output=output, data=data, progress=note)
    return _seconds_a_step(moments)


def published(setup: Setup, steps: int, copy: Path, threads: int) -> Moment:
    """The seconds a step of the published code, in a process of its own."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-OO", "attack.py", *arguments(setup, steps), "--result-directory", output]
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, cwd=copy, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            lines, moments = [], []
            for line in process.stdout:
                lines.append(line)
                if EVALUATED.search(line):
                    moments.append(Moment(time.perf_counter(), _cpu_seconds(process.pid)))
        if process.returncode:
            raise SystemExit(f"the published code failed:\n{''.join(lines[-20:])}")
        rows = (Path(output) / "study").read_text().splitlines()
    if len(rows) != 1 + steps:
        raise SystemExit(f"the published code wrote {len(rows) - 1} rows of metrics, expected {steps}")
    return _seconds_a_step(moments)


def byzfl(setup: Setup, steps: int, data: Path, folder: Path) -> Moment:
    """The seconds a step of byzfl's loop, in this process."""
    return _seconds_a_step([Moment(*both) for both in byzfl_evaluations(setup, steps, INTERVAL, data, folder)])


def _cpu_seconds(pid: int) -> float:
    """Of a process, of those that it started and that ended, and of those that still run."""
    process = psutil.Process(pid)
    total = sum(process.cpu_times()[:4])  # user and system, its own and those of children that ended
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def arguments(setup: Setup, steps: int) -> list[str]:
    """Those that the published `reproduce.py` gives for a setup."""
    rate = setup.learning_rate.initial
    return [
        *("--seed", "1", "--device", "cpu", "--dataset", "mnist", "--model", "simples-full", "--loss", "nll"),
        *("--batch-size", "83", "--learning-rate", f"{rate}", "--learning-rate-decay-delta", "300"),
        *("--momentum", "0.9", "--momentum-at", "worker", "--l2-regularize", "1e-4", "--gradient-clip", "2"),
        *("--evaluation-delta", f"{INTERVAL}", "--nb-steps", f"{steps}"),
        *("--nb-for-study", "1", "--nb-for-study-past", "150"),
        *("--nb-workers", f"{setup.workers}", "--nb-decl-byz", f"{setup.byzantine}"),
        *("--nb-real-byz", f"{setup.byzantine}", "--gar", RULES[setup.aggregator.name]),
        *("--attack", "little", "--attack-args", "factor:1.5", "negative:True"),
    ]


def _seconds_a_step(moments: list[Moment]) -> Moment:
    """Of wall and of CPU time; until the second evaluation caches and threads come to life."""
    first, last = moments[1], moments[-1]
    steps = INTERVAL * (len(moments) - 2)
    return Moment((last.wall - first.wall) / steps, (last.cpu - first.cpu) / steps)


def pieces(setup: Setup) -> dict[str, tuple[Any, str]]:
    """The functions in which a step of ours spends its time, none within another: their owner and their name."""
    return {
        "sampling": (TrainingStream, "batch"),
        "gradients": (Gradients, "__call__"),
        "clipping": (byzray.cohort, "clip"),
        "momentum": (WorkerMomentum, "submit"),
        "attack": (type(setup.attack), "__call__"),
        "rule": (Defence, "step"),
        "spread of the gradients": (Moments, "of"),
        "spread of the submissions": (Study, "spread"),
        "metrics: all else": (byzray.study, "metric_row"),
        "evaluation": (Server, "evaluate"),
    }


def parts(setup: Setup, steps: int, data: Data) -> dict[str, float]:
    """The milliseconds a step of each part of our step, and of all else: medians of stretches of an evaluation each."""
    simulation = LocalSimulation(setup.changed(steps=INTERVAL + steps), data)
    simulation.advance(INTERVAL)  # warm-up
    simulation.evaluate()
    stretches: list[dict[str, float]] = []
    with ExitStack() as stack:
        spent: dict[str, float] = {}
        for name, (owner, function) in pieces(setup).items():
            known = getattr(owner, function)
            called = _formed(known) if name == "rule" else known
            stack.enter_context(patch.object(owner, function, _timed(called, name, spent)))
        for _ in range(steps // INTERVAL):
            spent.update(dict.fromkeys(pieces(setup), 0.0))
            began = time.perf_counter()
            simulation.advance(simulation.step_number + INTERVAL)
            simulation.evaluate()
            all_else = time.perf_counter() - began - sum(spent.values())
            stretches.append({**spent, "update and all else": all_else})
    return {name: 1e3 / INTERVAL * median(one[name] for one in stretches) for name in stretches[0]}


def _formed(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step of a defence with its vector, which is otherwise formed later, once it is read."""

    def formed(*arguments: Any) -> Any:
        aggregate, state = step(*arguments)
        assert aggregate.vector_D is not None
        return aggregate, state

    return formed


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Any:
    """The function, whose calls add the seconds that they take to those spent under its name."""

    @wraps(function)
    def timed(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] += time.perf_counter() - began

    return staticmethod(timed) if ismethod(function) else timed  # a class method is bound already


def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """For every rule, the seconds a step of every repeat, and the parts of our step in milliseconds."""
    chosen = {rule: setup for rule, setup in setups().items() if not given.quick or rule in QUICK}
    rules: dict[str, Any] = {rule: {"byzray": [], "published": [], "byzfl": []} for rule in chosen}
    with ExitStack() as stack:
        copy = stack.enter_context(published_copy(given.published, given.data)) if given.published else None
        for repeat in range(given.repeats):
            for rule, setup in chosen.items():
                console.print(f"repeat {repeat + 1} of {given.repeats}: {rule}", highlight=False)
                rules[rule]["byzray"].append(ours(setup, SLOWNESS * given.steps, given.data)._asdict())
                if copy is not None:
                    rules[rule]["published"].append(published(setup, given.steps, copy, given.threads)._asdict())
                if given.peers is not None and rule in BYZFL_RULES:
                    rules[rule]["byzfl"].append(byzfl(setup, given.steps, given.data, given.peers)._asdict())
    data = load_data(next(iter(chosen.values())), given.data)
    for rule, setup in chosen.items():
        rules[rule]["parts"] = parts(setup, SLOWNESS * given.steps, data)
    return rules


def medians(repeats: list[dict[str, float]]) -> Moment:
    """Of the repeats, of wall and of CPU time."""
    return Moment(median(one["wall"] for one in repeats), median(one["cpu"] for one in repeats))


def steps_table(rules: dict[str, Any], limit: float) -> Table:
    """Steps a second by rule, medians of the repeats."""
    columns = (
        "rule",
        "byzray",
        "published",
        "times as fast",
        "times less CPU",
        "byzfl",
        "times as fast",
        "of the limit",
    )
    table = Table(*columns, title=f"steps/s; the limit: {1 / limit:.1f}", title_justify="left")
    for rule, found in rules.items():
        own = medians(found["byzray"])
        compared = ["-", "-", "-"]
        if found["published"]:
            other = medians(found["published"])
            compared = [f"{1 / other.wall:.2f}", f"{other.wall / own.wall:.1f}", f"{other.cpu / own.cpu:.1f}"]
        of_byzfl = ["-", "-"]
        if found["byzfl"]:
            other = medians(found["byzfl"])
            of_byzfl = [f"{1 / other.wall:.2f}", f"{other.wall / own.wall:.1f}"]
        table.add_row(rule, f"{1 / own.wall:.2f}", *compared, *of_byzfl, f"{limit / own.wall:.0%}")
    return table


def parts_table(rules: dict[str, Any]) -> Table:
    """Where our own steps spend their time."""
    table = Table("ms a step", *rules, title_justify="left")
    for part in next(iter(rules.values()))["parts"]:
        table.add_row(part, *(f"{found['parts'][part]:.2f}" for found in rules.values()))
    table.add_section()
    table.add_row("in all", *(f"{sum(found['parts'].values()):.2f}" for found in rules.values()))
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="a checkout of the published code; without it, byzray alone")
    parser.add_argument("--peers", type=Path, help="a folder that byzfl was installed into")
    parser.add_argument("--data", type=Path, default=data_root(), help="folder that holds MNIST/raw")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, in both")
    parser.add_argument("--steps", type=int, default=30, help="of a run of the published code; of ours four times that")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    if given.steps % INTERVAL or given.steps < 2 * INTERVAL:
        parser.error(f"--steps: got {given.steps}, expected a multiple of {INTERVAL}, at least {2 * INTERVAL}")
    torch.set_num_threads(given.threads)
    console = Console()
    rates = measure_rates()
    rules = measure(given, console)
    rates = rates.best(measure_rates())
    console.print(rates_table(rates), steps_table(rules, step_seconds(rates)), parts_table(rules))
    if given.json is not None:
        figures = {
            "environment": environment(torch.device("cpu")),
            "options": f"--steps {given.steps} --repeats {given.repeats} --threads {given.threads}",
            "limit": report(rates),
            "rules": rules,
        }
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
