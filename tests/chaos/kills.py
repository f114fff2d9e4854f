"""Runs that lose a process at a random moment: each must end with the bytes of the undisturbed run.

    python tests/chaos/kills.py --runs 100 --seed 1

A run loses a worker actor, its server actor, the actor of the sweep that computes it (trial), the process of the
command (driver), or a whole node with workers (raylet). Runs continue by themselves; those of a driver are resumed.
"""

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import ray
import torch
from chaos_processes import Command, Outpost, end, holder, kill
from chaos_stage import DEADLINE, PATIENCE, Stage, alive_nodes, nested, same, slowness, wait_for
from ray.util.placement_group import placement_group, remove_placement_group

import actors
from actors import Fleet, Supervision
from actors.fleet import split
from byzray import Setup, Update
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.directory import RunDirectory
from byzray.runs.result import Result
from byzray.setups import Actors
from byzray.yaml import write_yaml

# Of 100 runs.
SHARES = {"worker": 30, "server": 22, "driver": 16, "trial": 20, "raylet": 12}

STEPS = 400  # one to three seconds

# The kinds of drivers, in turn.
DRIVERS = ("in process", "on actors", "in process", "sweep", "in process", "own cluster", "in process", "on actors")

RUNS_PER_SWEEP = 7

LOST = "was lost (process"

# After how many seconds which kill is done.
TimedKill = tuple[float, Callable[[], Any]]


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        run: in words.
        losses: how many processes it lost while it was under way.
        ended: "itself", "resumed" or "lost".
        identical: whether its files are those of the undisturbed run.
        seconds: how long all took.
        note: what went wrong.
    """

    run: str
    losses: int = 0
    ended: str = "lost"
    identical: bool = False
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing was lost or wrong."""
        return self.ended != "lost" and self.identical and not self.note


@contextmanager
def trying(stage: Stage, run: str) -> Iterator[Outcome]:
    """Yields the outcome to fill in; an exception makes it a lost one, and is suppressed."""
    outcome, began = Outcome(run), time.monotonic()
    try:
        with limited(2 * PATIENCE):
            yield outcome
    except Exception as error:
        outcome.ended = "lost"
        outcome.note += f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        stage.forget_fleets()  # they may still compute it
    outcome.seconds = time.monotonic() - began


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in this thread if the block takes longer, scaled by the load of the machine."""
    began = time.monotonic()
    limit = seconds

    def give_up(_number: int, _frame: FrameType | None) -> None:
        nonlocal limit
        limit = max(limit, seconds * slowness())
        passed = time.monotonic() - began
        if passed >= limit:
            raise TimeoutError(f"it hangs: not done within {passed:.0f} s")
        signal.setitimer(signal.ITIMER_REAL, limit - passed)

    handler = signal.signal(signal.SIGALRM, give_up)
    earlier, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # such as pytest's
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, earlier - (time.monotonic() - began)) if earlier else 0.0)


class KillsAtStep:
    """A progress callback: once the run has reached a step, each kill is done after its pause."""

    def __init__(self, step: int, timed_kills: Sequence[TimedKill]) -> None:
        self.step = step
        self.timed_kills = timed_kills
        self.timers: list[threading.Timer] = []

    def __call__(self, update: Update) -> None:
        if update.step >= self.step and not update.ended and not self.timers:
            self.timers = [threading.Timer(pause, action) for pause, action in self.timed_kills]
            for timer in self.timers:
                timer.start()

    def end(self) -> None:
        """Do no more kills."""
        for timer in self.timers:
            timer.cancel()
            timer.join()


def words(setup: Setup, interval: str) -> str:
    """The options of a run, for the log."""
    layout = "in process" if setup.actors is None else f"{setup.actors.workers_per_actor} per actor"
    momentum = f"{setup.momentum.placement}{' nesterov' if setup.momentum.nesterov else ''}"
    assert setup.attack is not None
    return f"{setup.aggregator.label()}, {setup.attack.label()}, {momentum}, {layout}, checkpoints {interval}"


def log_of(output: Path, setup: Setup) -> str:
    """The log of a run so far."""
    try:
        return (output / RunDirectory.name(setup) / "log.txt").read_text()
    except FileNotFoundError:
        return ""


def run_with_kills(
    stage: Stage,
    outcome: Outcome,
    setup: Setup,
    interval: str,
    fleet: Fleet,
    timed_kills: Sequence[TimedKill],
    whole: Result,
    until: float = 0.9,
) -> None:
    """Run a setup on a fleet, and kill actors within this share of its steps."""
    output = stage.new_folder()
    kills_at_step = KillsAtStep(stage.rng.randrange(int(stage.steps * until)), timed_kills)
    checkpoints = CheckpointInterval.parse(interval)
    try:
        actors.simulate(setup, fleet=fleet, output=output, checkpoints=checkpoints, progress=kills_at_step)
    finally:
        kills_at_step.end()
    outcome.losses = log_of(output, whole.setup).count(LOST)
    outcome.ended = "itself"
    outcome.identical = same(whole, output)


def kill_actors(stage: Stage, count: int, server: bool) -> Iterator[Outcome]:
    """Runs on a warm fleet that lose an actor; one in four loses another one, at times while the first is replaced."""
    rng = stage.rng
    for _ in range(count):
        setup, interval = stage.setup(rng.choice((1, 3))), stage.interval()
        assert setup.actors is not None
        with trying(stage, words(setup, interval)) as outcome:
            whole, fleet = stage.whole(setup), stage.fleet(setup.actors.workers_per_actor)
            timed_kills = [timed_kill(fleet, 0 if server else rng.randint(1, fleet.size), rng.uniform(0, 0.2))]
            if rng.random() < 0.25:
                timed_kills.append(timed_kill(fleet, rng.randint(0, fleet.size), rng.uniform(0, 6)))
            run_with_kills(stage, outcome, setup, interval, fleet, timed_kills, whole)
        yield outcome


def timed_kill(fleet: Fleet, rank: int, pause: float) -> TimedKill:
    """A kill of the actor of a rank, wherever it is by then."""
    return pause, lambda: kill(fleet.locations[rank]["pid"])


def kill_workers(stage: Stage, count: int) -> Iterator[Outcome]:
    """Runs that lose a worker actor."""
    return kill_actors(stage, count, server=False)


def kill_servers(stage: Stage, count: int) -> Iterator[Outcome]:
    """Runs that lose their server actor."""
    return kill_actors(stage, count, server=True)


def starts(output: Path, setup: Setup) -> int:
    """How many times a run was started or resumed."""
    log = log_of(output, setup)
    return log.count("Z begins") + log.count("+00:00 begins") + log.count(" continues from step")


def finished(output: Path, setup: Setup) -> bool:
    """Whether a run is finished."""
    return log_of(output, setup).endswith(" finished\n")


def killed_driver(stage: Stage, command: Command, runs: list[Result], output: Path, left: list[psutil.Process]) -> int:
    """Start a command, kill it in the middle of its runs, once or twice, and start it again until it ends.

    Args:
        stage: where.
        command: the command.
        runs: what it computes, undisturbed.
        output: where it computes them.
        left: the processes that it had when it was killed are added here.

    Returns:
        how many kills met a run that was under way.
    """

    def all_starts() -> int:
        return sum(starts(output, whole.setup) for whole in runs)

    def started(before: int) -> bool:
        return all_starts() > before or not command.running

    hits = 0
    command.start()
    for _ in range(stage.rng.choice((1, 1, 2))):
        wait_for(partial(started, all_starts()), "the start of a run")
        time.sleep(stage.rng.uniform(0, 0.8 * sum(whole.seconds for whole in runs)))
        under_way = not all(finished(output, whole.setup) for whole in runs)
        left.extend(command.descendants())
        hits += command.kill() and under_way
        command.start("--resume")
    command.finish()
    return hits


def kill_drivers(stage: Stage, count: int) -> Iterator[Outcome]:
    """Commands that are killed and repeated."""
    for index in range(count):
        kind = DRIVERS[index % len(DRIVERS)]
        yield (kill_sweep if kind == "sweep" else kill_run)(stage, kind)


def kill_run(stage: Stage, kind: str) -> Outcome:
    """A `byzray run` that is killed and repeated."""
    setup = stage.setup(None if kind == "in process" else stage.rng.choice((1, 3)))
    interval, folder = stage.interval(), stage.new_folder()
    with trying(stage, f"{kind}: {words(setup, interval)}") as outcome:
        whole = stage.whole(setup)
        (folder / "setup.yaml").write_text(setup.yaml())
        where = {"in process": ["--in-process"], "on actors": ["--address", stage.address], "own cluster": []}[kind]
        options = ["--output", "results", "--checkpoint-every", interval, "--deadline", f"{DEADLINE * slowness():.0f}"]
        command = Command(folder, "run", "setup.yaml", *options, *where)
        left: list[psutil.Process] = []

        outcome.losses = killed_driver(stage, command, [whole], folder / "results", left)
        outcome.ended = "resumed"
        outcome.identical = same(whole, folder / "results")
        # In the driver's own cluster Ray's agents check their raylet only about once a minute.
        remaining = psutil.wait_procs(left, timeout=PATIENCE * slowness())[1]
        if remaining:
            outcome.note = f"left behind: {sorted(one.name() for one in remaining)}"
            end(remaining)
    return outcome


def sweep_of(stage: Stage, count: int, workers_per_actor: int | None, folder: Path) -> list[Result]:
    """Write the file `mine.yaml` of a sweep of so many different runs; returns these undisturbed."""
    drawn: list[dict[str, Any]] = []
    while len(drawn) < count:
        variation = stage.variation()
        if variation not in drawn:
            drawn.append(variation)
    together = {key: [one[key] for one in drawn] for key in drawn[0]}
    base = stage.base(workers_per_actor)
    content = {"base": base, "together": [together], "reference": False}
    (folder / "mine.yaml").write_text(write_yaml(content))
    return [stage.whole(Setup.model_validate({**base, **nested(one)})) for one in drawn]


def sweep_command(stage: Stage, folder: Path) -> Command:
    """The sweep of :func:`sweep_of`, with checkpoints at random, two runs at a time or so."""
    options = ["--output", "results", "--cpus", "1.4", "--checkpoint-every", stage.interval()]
    return Command(folder, "sweep", "mine.yaml", *options, "--address", stage.address)


def kill_sweep(stage: Stage, kind: str) -> Outcome:
    """A `byzray sweep` of some runs that is killed and repeated."""
    folder = stage.new_folder()
    with trying(stage, f"{kind}: 3 runs") as outcome:
        runs = sweep_of(stage, 3, stage.rng.choice((None, 3)), folder)
        command = sweep_command(stage, folder)
        outcome.losses = killed_driver(stage, command, runs, folder / "results" / "runs", [])
        outcome.ended = "resumed"
        outcome.identical = all(same(whole, folder / "results" / "runs") for whole in runs)
    return outcome


def kill_trials(stage: Stage, count: int) -> Iterator[Outcome]:
    """Sweeps in which each run once loses the actor that computes it, or that drives its fleet."""
    for first in range(0, count, RUNS_PER_SWEEP):
        size = min(RUNS_PER_SWEEP, count - first)
        workers_per_actor = 3 if first // RUNS_PER_SWEEP % 2 else None
        yield from kill_trials_of_a_sweep(stage, size, workers_per_actor)


def kill_trials_of_a_sweep(stage: Stage, size: int, workers_per_actor: int | None) -> list[Outcome]:
    """One sweep; each of its runs has its own outcome."""
    folder, began = stage.new_folder(), time.monotonic()
    runs = sweep_of(stage, size, workers_per_actor, folder)
    output = folder / "results" / "runs"
    command = sweep_command(stage, folder)
    hits: Counter[str] = Counter()
    with trying(stage, "") as whole_sweep:
        command.start()
        try:
            kill_each_trial(stage, command, runs, output, hits)
            command.finish()
        finally:
            command.kill()
    outcomes = []
    for whole in runs:
        outcome = Outcome(words(whole.setup, command.arguments[command.arguments.index("--checkpoint-every") + 1]))
        outcome.note, outcome.seconds = whole_sweep.note, (time.monotonic() - began) / size
        outcome.losses = hits[RunDirectory.name(whole.setup)]
        if finished(output, whole.setup):
            outcome.ended = "itself"
            outcome.identical = same(whole, output)
        outcomes.append(outcome)
    return outcomes


def kill_each_trial(stage: Stage, command: Command, runs: list[Result], output: Path, hits: Counter[str]) -> None:
    """Kill the actor of each run once, some time after its start."""
    due: dict[str, float] = {}
    waiting = {RunDirectory.name(whole.setup): whole for whole in runs}
    while waiting and command.running:
        time.sleep(0.01)
        for name, whole in list(waiting.items()):
            if name not in due and starts(output, whole.setup):
                due[name] = time.monotonic() + stage.rng.uniform(0, 0.8 * whole.seconds)
            if time.monotonic() > due.get(name, float("inf")):
                del waiting[name]
                actor = holder(output / name / ".lock")
                if actor is not None and not finished(output, whole.setup):
                    hits[name] += kill(actor.pid)


def kill_raylets(stage: Stage, count: int) -> Iterator[Outcome]:
    """Runs that lose a node with some of their actors: these continue where there is room, or on a new node."""
    stage.forget_fleets()
    free = ray.available_resources()["CPU"]
    for index in range(count):
        setup, interval = stage.setup(3), stage.interval()
        with trying(stage, words(setup, interval)) as outcome:
            kill_node_of_run(stage, outcome, setup, interval, at_home=1 + index // 2 % 2, anew=bool(index % 2))
        wait_for(lambda: len(alive_nodes()) == 1 and ray.available_resources().get("CPU") == free, "an idle cluster")
        yield outcome


def kill_node_of_run(stage: Stage, outcome: Outcome, setup: Setup, interval: str, at_home: int, anew: bool) -> None:
    """A run on three actors with a CPU each, some of them on a node that dies.

    Args:
        stage, outcome, setup, interval: see :func:`run_with_kills`.
        at_home: for how many of them there is room on the node that stays; a placement group blocks the rest of it.
        anew: whether another node comes, as from a cluster's manager; else the placement group goes.
    """
    blocker = placement_group([{"CPU": float(int(ray.available_resources()["CPU"]) - at_home)}])
    outposts: list[Outpost] = []

    def found() -> None:
        outposts.append(Outpost(stage.address, 3 - at_home, stage.folder))

    def kill_node() -> None:
        outposts[0].kill()
        found() if anew else remove_placement_group(blocker)

    try:
        ray.get(blocker.ready(), timeout=PATIENCE)
        found()
        layout = Actors(workers_per_actor=3, cpus_per_actor=1.0)
        with Fleet("apart", split(5, 2), layout, supervision=Supervision(deadline=DEADLINE * slowness())) as fleet:
            away = [place["node"] != ray.get_runtime_context().get_node_id() for place in fleet.locations]
            server = ", the server too," if away[0] else ""
            room = "a new node" if anew else "room that is left"
            outcome.run = f"{sum(away)} of 3 actors{server} away, then {room}: {outcome.run}"
            whole = actors.simulate(setup, fleet=fleet, output=stage.folder / "whole")
            timed_kills = [(stage.rng.uniform(0, 0.2), kill_node)]
            # Early, as actors notice only after a while that their raylet is gone, and end.
            run_with_kills(stage, outcome, setup, interval, fleet, timed_kills, whole, until=0.3)
    finally:
        remove_placement_group(blocker)
        left = [process.name() for outpost in outposts for process in outpost.close()]
        outcome.note += f"left behind: {left}" if left else ""


TARGETS: dict[str, Callable[[Stage, int], Iterator[Outcome]]] = {
    "worker": kill_workers,
    "server": kill_servers,
    "driver": kill_drivers,
    "trial": kill_trials,
    "raylet": kill_raylets,
}

COLUMNS = ("runs", "hit", "losses", "by itself", "resumed", "identical", "lost", "wrong", "slowest", "time")


def row(outcomes: Sequence[Outcome], seconds: float) -> list[str]:
    """A row of the table."""
    ended = Counter(one.ended for one in outcomes)
    wrong = sum(one.ended != "lost" and not one.good for one in outcomes)
    counts = [
        len(outcomes),
        sum(one.losses > 0 for one in outcomes),
        sum(one.losses for one in outcomes),
        ended["itself"],
    ]
    counts += [ended["resumed"], sum(one.identical for one in outcomes), ended["lost"], wrong]
    slowest = max((one.seconds for one in outcomes), default=0.0)
    return [*map(str, counts), f"{slowest:.0f} s", f"{seconds / 60:.1f} min"]


def table(found: dict[str, tuple[list[Outcome], float]]) -> str:
    """All outcomes, by target."""
    lines = [["target", *COLUMNS], *([target, *row(*one)] for target, one in found.items())]
    lines.append(
        ["all", *row([one for outcomes, _ in found.values() for one in outcomes], sum(s for _, s in found.values()))]
    )
    return "\n".join("".join(f"{cell:>11}" for cell in line) for line in lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="in all, 100 by default")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn at random")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small tensors gain nothing from more
    # Ray notices a killed node after two seconds, not after seventeen.
    os.environ |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
    os.environ |= {"RAY_health_check_initial_delay_ms": "2000"}
    found = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for target in arguments.targets:
            count = round(arguments.runs * SHARES[target] / sum(SHARES[one] for one in arguments.targets))
            rng = random.Random(f"{arguments.seed} {target}")
            # There is no other way to stop Ray from printing deaths of actors.
            with (Path(folder) / "ray.txt").open("a") as unread, redirect_stdout(unread):
                found[target] = on_a_cluster(Path(folder) / target, rng, target, count)
    print(table(found))
    return 0 if all(one.good for outcomes, _ in found.values() for one in outcomes) else 1


def on_a_cluster(folder: Path, rng: random.Random, target: str, count: int) -> tuple[list[Outcome], float]:
    """The outcomes of one target, and how long they took; prints each one."""
    folder.mkdir()
    began, outcomes = time.monotonic(), []
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    ray.init(address="local", num_cpus=4, object_store_memory=200 * 2**20, **quiet)
    stage = Stage(folder, rng, STEPS, ray.get_runtime_context().gcs_address)
    try:
        for outcome in TARGETS[target](stage, count):
            outcomes.append(outcome)
            said = (
                f"{'ok' if outcome.good else 'BAD'}, {outcome.losses} losses, {outcome.ended}, {outcome.seconds:.1f} s"
            )
            print(f"{target} {len(outcomes)}: {said}: {outcome.run} {outcome.note}", file=sys.__stdout__, flush=True)
        stage.forget_fleets()
    finally:
        ray.shutdown()
    return outcomes, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
