"""What live metrics cost: the share of a run's time that goes into taking and publishing them.

    python benchmarks/live_metrics.py [--dataset digits] [--seconds 20] [--data DIR] [--json FILE]

A run on one thread of this process, published through Ray as in a sweep. Told is what the calls themselves take, which
is precise, and by how much steps are slower with metrics than without, in turns: all there is to it, but noisy.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from checkpoints import Clock, setup
from rich.console import Console

import actors
from actors import publishing
from actors.monitoring import Monitor
from byzray import Interrupted, Setup, Update
from byzray.data import load_data
from byzray.files import write_atomically
from byzray.recording.loop import record
from byzray.simulation import LocalSimulation
from byzray.timings import Stopwatch

TURNS = 6


def run(chosen: Setup, data: Any, seconds: float, metrics: bool) -> tuple[float, int]:
    """Compute for so many seconds; returns how many it were, and the steps."""
    monitor = Monitor(chosen, "benchmark")
    began = steps = 0.0

    def progress(update: Update) -> bool:
        nonlocal began, steps
        if metrics:
            monitor.show(update)
        began, steps = began or time.perf_counter(), update.step
        return time.perf_counter() - began > seconds

    try:
        record(chosen, lambda: LocalSimulation(chosen, data), fingerprints={}, progress=progress)
    except Interrupted:
        pass
    finally:
        monitor.end()
    return time.perf_counter() - began, int(steps)


@contextmanager
def without() -> Iterator[None]:
    """Nobody looks at the clock between the phases of a step."""
    lap = Stopwatch.lap
    Stopwatch.lap = lambda self, phase: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stopwatch.lap = lap  # type: ignore[method-assign]


def calls(chosen: Setup, data: Any, seconds: float) -> dict[str, float]:
    """What the calls take that are made for metrics."""
    count = Clock(Stopwatch.lap)
    shown, published = Clock(Monitor.show), 0.0
    publish, lap, show = publishing._publish, Stopwatch.lap, Monitor.show

    def timed(source: publishing.Source) -> None:
        nonlocal published
        began = time.thread_time()
        publish(source)
        published += time.thread_time() - began

    Stopwatch.lap = count  # type: ignore[method-assign,assignment]
    Monitor.show = shown  # type: ignore[method-assign,assignment]
    publishing._publish = timed
    try:
        took, steps = run(chosen, data, seconds, metrics=True)
    finally:
        Stopwatch.lap, Monitor.show, publishing._publish = lap, show, publish  # type: ignore[method-assign]
    # A lap is shorter than taking its time.
    watch = Stopwatch(torch.device("cpu"))
    began = time.perf_counter()
    for _ in range(100_000):
        watch.lap("gradient")
    laps = count.calls * (time.perf_counter() - began) / 100_000
    parts = {"stopwatch": laps / took, "counters": shown.seconds / took, "publishing": published / took}
    return {"step_ms": took / steps * 1e3, "laps_a_step": count.calls / steps, **parts, "share": sum(parts.values())}


def turns(chosen: Setup, data: Any, seconds: float) -> list[float]:
    """The time of a step with metrics, as a multiple of that without, by turns."""
    ratios = []
    for turn in range(TURNS):
        paces = {}
        for metrics in (turn % 2 == 0, turn % 2 == 1):
            if metrics:
                took, steps = run(chosen, data, seconds, metrics=True)
            else:
                with without():
                    took, steps = run(chosen, data, seconds, metrics=False)
            paces[metrics] = took / steps
        ratios.append(paces[True] / paces[False])
    return ratios


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=["mnist", "digits"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--data", type=Path, help="the folder that holds data sets")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = setup(given.dataset)
    data = load_data(chosen, given.data)
    actors.connect(dashboard=False, output=False)
    found: dict[str, Any] = {"dataset": given.dataset, **calls(chosen, data, given.seconds)}
    found["ratios"] = turns(chosen, data, given.seconds)
    parts = ", ".join(f"{part} {found[part]:.3%}" for part in ("stopwatch", "counters", "publishing"))
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{given.dataset}: a step {found['step_ms']:.2f} ms with {found['laps_a_step']:.0f} looks at the clock"
    )
    console.print(f"live metrics take {found['share']:.3%} of the time: {parts}")
    ratio = statistics.median(found["ratios"])
    console.print(
        f"steps with metrics / without, median of {TURNS}: {ratio:.3f}, from {min(found['ratios']):.3f} to", end=""
    )
    console.print(f" {max(found['ratios']):.3f}")
    if given.json:

        def write(path: Path) -> None:
            path.write_text(json.dumps(found, indent=2) + "\n")

        write_atomically(given.json, write)


if __name__ == "__main__":
    main()
