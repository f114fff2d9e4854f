"""Live metrics, through Ray's metrics API.

Ray exports them to Prometheus with the prefix `ray_`, and counters with the suffix `_total`. Steps set no gauges: a
thread sets all gauges of its process once a second, because Ray drops those that are not set again, even while a step
takes long or an actor hangs. Unknown values are not exported.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple, Self

import ray
from ray.util.metrics import Counter, Gauge

RUN_TAGS = ("sweep", "run", "setup", "seed")

# How often gauges are set, in seconds.
PUBLISHING_SECONDS = 1.0

# Gauges by name without the prefix `byzray_`: description and tags.
GAUGES = {
    "running": ("1 while the run is computed, 0 when it ended", RUN_TAGS),
    "diverged": ("1 once the parameters became non-finite", RUN_TAGS),
    "step": ("Steps taken", RUN_TAGS),
    "steps": ("Steps that the run will take", RUN_TAGS),
    "steps_per_second": ("Steps per second, over the last second or so", RUN_TAGS),
    "loss": ("Average loss of the honest workers at the last step", RUN_TAGS),
    "accuracy": ("Test accuracy at the last evaluation", RUN_TAGS),
    "best_accuracy": ("Highest test accuracy so far", RUN_TAGS),
    "variance_norm_ratio": ("Deviation / norm of the honest gradients at the last step", (*RUN_TAGS, "of")),
    "variance_norm_bound": ("Largest deviation / norm under which the rule is proven to work", RUN_TAGS),
    "acceptance_ratio": ("Share of the submissions selected by the rule that are Byzantine", RUN_TAGS),
    "actor_step": ("The step that each actor of a fleet is at", (*RUN_TAGS, "actor")),
    "runs": ("Runs of a sweep by state: waiting, running, done, failed", ("sweep", "state")),
}
COUNTERS = {
    "phase_seconds": ("Seconds spent in each phase of steps", (*RUN_TAGS, "phase", "actor")),
    "restarts": ("Actors that were lost and replaced", (*RUN_TAGS, "actor")),
}


class Sample(NamedTuple):
    """A gauge's value.

    Attributes:
        name: of the gauge, see :data:`GAUGES`.
        value: NaN or infinite if unknown.
        tags: values of all tags of the gauge.
    """

    name: str
    value: float
    tags: dict[str, str]


@cache  # one per name and process
def _gauge(name: str) -> Gauge:
    what, tags = GAUGES[name]
    return Gauge(f"byzray_{name}", f"{what}.", tags)


@cache
def counter(name: str) -> Counter:
    what, tags = COUNTERS[name]
    return Counter(f"byzray_{name}", f"{what}.", tags)


class Source(ABC):
    """A source of gauges, which are published from :meth:`begin` to :meth:`end`; a context manager."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The current values; called by another thread."""

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Start publishing."""
        _thread().sources[id(self)] = self

    def end(self) -> None:
        """Publish once more, then stop."""
        if _thread().sources.pop(id(self), None) is not None:
            _publish(self)


class _PublishingThread(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="byzray metrics", daemon=True)
        self.sources: dict[int, Source] = {}

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(PUBLISHING_SECONDS):
            for source in list(self.sources.values()):
                _publish(source)


@cache  # one per process
def _thread() -> _PublishingThread:
    thread = _PublishingThread()
    thread.start()
    return thread


def _publish(source: Source) -> None:
    if not ray.is_initialized():
        return
    for name, value, tags in source.samples():
        if math.isfinite(value):
            _gauge(name).set(value, tags)


class MetricsPublisher(Source):
    """Publishes the step that an actor is at: one that hangs falls behind the others of its fleet.

    Args:
        tags: of the run's metrics.
        role: the actor's role in its fleet, such as ``worker 3``.

    Attributes:
        step: the current step.
    """

    def __init__(self, tags: dict[str, str], role: str) -> None:
        self.tags = {**tags, "actor": role}
        self.step = 0

    def samples(self) -> Iterator[Sample]:
        yield Sample("actor_step", self.step, self.tags)
