"""Progress of a running sweep, and its metrics."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from actors.publishing import Sample, Source
from byzray.console import duration
from byzray.setups import Setup
from sweeps.plan import Plan

# Steps/s are those of the last half minute or so.
PACE_SECONDS = 30.0


class Progress:
    """Counts and rates of a running sweep, from the reports of its trials.

    Args:
        plan: the plan.
        total: the number of runs, including those that a search will find.
        slots: how many runs are computed at the same time.

    Attributes:
        current: of each run that is being computed: its setup, step, last and best accuracy.
        why: why no further run starts, if runs wait.
        stuck: whether they cannot start on the cluster as it is.
    """

    def __init__(self, plan: Plan, total: int, slots: int) -> None:
        self.total = total
        self.slots = slots
        self.current: dict[str, tuple[Setup, int, float, float]] = {}
        self.why = ""
        self.stuck = False
        self.done = len(plan.runs) - len(plan.waiting)
        self.failing: set[str] = set()  # failed, will be retried
        self.failed_for_good = 0
        self.running = 0
        self.began = time.monotonic()
        self.paces = plan.paces()
        self.waiting: dict[str, tuple[Setup, int]] = {run.name: (run.setup, run.step) for run in plan.waiting}
        self.earlier = {run.name: run.seconds for run in plan.waiting}  # computed before this sweep began
        self.computing = 0.0  # seconds, of finished runs
        self.taken = 0  # steps
        self.history: deque[tuple[float, int]] = deque([(self.began, 0)])

    def start(self, name: str, setup: Setup) -> None:
        """A run starts; runs that a search found are new."""
        self.failing.discard(name)
        self.waiting.setdefault(name, (setup, 0))
        self.current[name] = setup, self.waiting[name][1], math.nan, math.nan

    def retry(self, name: str) -> None:
        """A run failed and will be retried."""
        self.current.pop(name, None)
        self.failing.add(name)

    def advance(self, result: Mapping[str, Any]) -> None:
        """Record a report of a run."""
        name, step = result["run"], result["step"]
        setup, before = self.waiting.get(name, (None, 0))
        if setup is None or result.get("reused"):
            return
        # A retried run may have gone back to its last checkpoint.
        self.taken += max(0, step - before)
        self.waiting[name] = (setup, step)
        if name in self.current:
            self.current[name] = setup, step, result["accuracy"], result["best_accuracy"]
        now = time.monotonic()
        self.history.append((now, self.taken))
        while len(self.history) > 2 and now - self.history[0][0] > PACE_SECONDS:
            self.history.popleft()
        if result.get("finished"):
            self.computing += result["seconds"] - self.earlier.get(name, 0.0)
            self.paces.add(setup, result["seconds"] / max(1, step))

    def end(self, name: str, failed: bool) -> None:
        """A run has ended."""
        self.current.pop(name, None)
        self.waiting.pop(name, None)
        self.failing.discard(name)
        self.failed_for_good += failed
        self.done += not failed

    @property
    def failed(self) -> int:
        """The number of runs whose last attempt failed."""
        return self.failed_for_good + len(self.failing)

    @property
    def steps_per_second(self) -> float:
        """The rate of all runs together."""
        (began, first), now = self.history[0], time.monotonic()
        return (self.taken - first) / (now - began) if now > began else 0.0

    @property
    def seconds_left(self) -> float:
        """An estimate from the paces of similar runs, else of all runs; NaN while none is known."""
        elapsed = time.monotonic() - self.began
        overall = elapsed * self.slots / self.taken if self.taken else math.nan
        work = 0.0
        for setup, step in self.waiting.values():
            pace = self.paces.of(setup)
            work += (setup.steps - step) * (overall if pace is None else pace)
        return work / max(1, min(self.slots, len(self.waiting)))

    def seconds_left_of(self, name: str) -> float:
        """An estimate for a run that is being computed, from the paces of similar runs; NaN without any."""
        setup, step, *_ = self.current[name]
        pace = self.paces.of(setup)
        return math.nan if pace is None else (setup.steps - step) * pace

    def __str__(self) -> str:
        return (
            f"{self.done}/{self.total} runs done, {self.running} running, {self.failed} failed, "
            f"{self.steps_per_second:.0f} steps/s, {duration(time.monotonic() - self.began)} elapsed, "
            f"{duration(self.seconds_left)} left"
        ) + f"; {self.why}" * bool(self.why)


class SweepMetrics(Source):
    """The metrics of a sweep: the number of runs in each state."""

    def __init__(self, sweep: str, progress: Progress) -> None:
        self.sweep = sweep
        self.progress = progress

    def samples(self) -> Iterator[Sample]:
        progress = self.progress
        waiting = progress.total - progress.done - progress.failed - progress.running
        states = {"waiting": waiting, "running": progress.running, "done": progress.done, "failed": progress.failed}
        for state, runs in states.items():
            yield Sample("runs", runs, {"sweep": self.sweep, "state": state})
