"""The live metrics of a run, published by the process that records it."""

import math
import threading
from collections import defaultdict
from collections.abc import Iterator

from actors.publishing import Sample, Source, counter
from byzray.recording.update import Update
from byzray.runs.directory import RunDirectory
from byzray.setups import Setup
from byzray.timings import Timings

# Names of variance-norm ratios, and of their columns.
RATIOS = {"sampled": "Sampled", "submitted": "Honest"}


def run_tags(setup: Setup, sweep: str) -> dict[str, str]:
    """The tags of a run's metrics: sweep (empty for a single run), run directory, rule and attack, seed."""
    return {"sweep": sweep, "run": RunDirectory.name(setup), "setup": setup.matchup(), "seed": str(setup.seed)}


class Monitor(Source):
    """The metrics of a run.

    Args:
        setup: the setup, with its seed.
        sweep: the sweep of which the run is part.
    """

    def __init__(self, setup: Setup, sweep: str = "") -> None:
        self.setup = setup
        self.tags = run_tags(setup, sweep)
        self.bound = setup.defence.bound(setup.workers, setup.tolerated)
        self.last: Update | None = None
        self.running = True
        self.lock = threading.Lock()
        self.spent: Timings = defaultdict(float)  # since the last publication

    def show(self, update: Update) -> None:
        """Publish this state of the run from now on."""
        if self.last is None:
            self.begin()
        self.last = update
        with self.lock:
            for which, seconds in update.timings.items():
                self.spent[which] += seconds
        for actor in update.replaced:
            counter("restarts").inc(1, {**self.tags, "actor": actor})

    def end(self) -> None:
        self.running = False
        super().end()

    def samples(self) -> Iterator[Sample]:
        update = self.last
        if update is None:
            return
        with self.lock:
            spent, self.spent = self.spent, defaultdict(float)
        for (actor, phase), seconds in spent.items():
            counter("phase_seconds").inc(seconds, {**self.tags, "phase": phase, "actor": actor})
        values = {
            "running": float(self.running),
            "diverged": float(update.diverged),
            "step": update.step,
            "steps": self.setup.steps,
            "steps_per_second": update.steps_per_second,
            "loss": update.loss,
            "accuracy": update.accuracy,
            "best_accuracy": update.best,
            "variance_norm_bound": self.bound,
            "acceptance_ratio": update.row.get("Attack acceptation ratio", math.nan),
        }
        for name, value in values.items():
            yield Sample(name, value, self.tags)
        for of, name in RATIOS.items():
            deviation = update.row.get(f"{name} gradient deviation", math.nan)
            norm = update.row.get(f"{name} gradient norm", math.nan)
            yield Sample("variance_norm_ratio", deviation / norm if norm else math.nan, {**self.tags, "of": of})
