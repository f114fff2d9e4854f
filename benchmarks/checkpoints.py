"""What checkpoints cost: the time of one, and the share of a run's time by default and at fixed intervals.

    python benchmarks/checkpoints.py [--dataset mnist] [--seconds 130] [--data DIR] [--json FILE]

The setup is that of the other benchmarks: 27 honest workers of 51, momentum at the workers, metrics on.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from byzray import Interrupted, Setup, Update
from byzray.data import load_data
from byzray.files import write_atomically
from byzray.recording.loop import record
from byzray.recording.recorder import Recorder
from byzray.runs.checkpoints import Checkpoint, CheckpointInterval, Checkpoints
from byzray.simulation import LocalSimulation

INTERVALS = {
    "default": CheckpointInterval(),
    "10 s": CheckpointInterval(seconds=10),
    "1 s": CheckpointInterval(seconds=1),
}


class Clock:
    """The time within some method, and how often it was called."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.seconds = 0.0
        self.calls = 0

    def __get__(self, owner: Any, kind: type) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return self.method(owner, *arguments, **more)
            finally:
                self.seconds += time.perf_counter() - began
                self.calls += 1

        return timed


def setup(dataset: str) -> Setup:
    """51 workers, 24 of them Byzantine, on a data set."""
    options: dict[str, Any] = {"dataset": dataset, "batch_size": 83, "evaluation_interval": 0, "steps": 10**7}
    if dataset == "mnist":
        options["model"] = "full"
    attacked = {"workers": 51, "byzantine": 24, "aggregator": "median", "attack": "little", "learning_rate": 0.02}
    return Setup.model_validate({**options, **attacked, "actors": None})


def share(chosen: Setup, data: Any, interval: CheckpointInterval, seconds: float) -> dict[str, float]:
    """The share of a run of so many seconds that saving took, tables and status included."""
    clock = Clock(Recorder._save)
    original, Recorder._save = Recorder._save, clock  # type: ignore[method-assign,assignment]
    began = time.perf_counter()

    def progress(update: Update) -> bool:
        return time.perf_counter() - began > seconds

    try:
        with tempfile.TemporaryDirectory() as folder:
            record(
                chosen,
                lambda: LocalSimulation(chosen, data),
                fingerprints={},
                output=folder,
                checkpoints=interval,
                progress=progress,
            )
    except Interrupted:
        pass
    finally:
        Recorder._save = original  # type: ignore[method-assign]
    took = time.perf_counter() - began
    return {"seconds": took, "checkpoints": clock.calls, "share": clock.seconds / took}


def one(chosen: Setup, data: Any) -> dict[str, float]:
    """The size and the least time of a checkpoint, and the time of a step."""
    simulation = LocalSimulation(chosen, data)
    simulation.advance(20)
    began = time.perf_counter()
    simulation.advance(60)
    step = (time.perf_counter() - began) / 60
    times = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        for number in range(10):
            began = time.perf_counter()
            checkpoints.save(Checkpoint(number, simulation.state(), {}))
            times.append(time.perf_counter() - began)
        size = checkpoints.paths()[0].stat().st_size
    return {"step_ms": step * 1e3, "checkpoint_ms": min(times) * 1e3, "megabytes": size / 1e6}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--seconds", type=float, default=130.0, help="of each run")
    parser.add_argument("--data", type=Path, help="the folder that holds data sets")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = setup(given.dataset)
    data = load_data(chosen, given.data)
    found: dict[str, Any] = {"dataset": given.dataset, **one(chosen, data)}
    table = Table("a checkpoint", "runs of", "checkpoints", "share of the time", title_justify="left")
    found["intervals"] = {}
    for name, interval in INTERVALS.items():
        seconds = given.seconds if name == "default" else 20.0
        measured = found["intervals"][name] = share(chosen, data, interval, seconds)
        table.add_row(name, f"{measured['seconds']:.0f} s", f"{measured['checkpoints']}", f"{measured['share']:.2%}")
    console = Console()
    console.print(
        f"{given.dataset}: a step {found['step_ms']:.1f} ms, "
        f"a checkpoint {found['megabytes']:.1f} MB in {found['checkpoint_ms']:.1f} ms"
    )
    console.print(table)
    if given.json:

        def write(path: Path) -> None:
            path.write_text(json.dumps(found, indent=2) + "\n")

        write_atomically(given.json, write)


if __name__ == "__main__":
    main()
