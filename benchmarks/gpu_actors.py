"""Actors on one NVIDIA GPU: the device, process and memory of each, steps a second, and an actor that is killed.

For one worker an actor, and for workers packed into actors, on MNIST (or random images of its shape):

- each actor's GPU and share of it as Ray assigned them, its process, and that process's memory as nvidia-smi shows it;
- steps a second;
- whether a run whose actor is killed between two steps ends with the same parameters, bit by bit.

    python benchmarks/gpu_actors.py [--data DIR] [--json FILE]
    python benchmarks/gpu_actors.py --device cpu    # tries the script itself, without a GPU
"""

import argparse
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gpu import described, provide
from rich.console import Console
from rich.table import Table

import actors
from actors.simulation import FleetSimulation
from byzray import Setup
from byzray.data import data_root, load_data

STEPS = 60
KILLED_AFTER = 20
LAYOUTS = {"one worker an actor": (11, 2, 1), "packed": (51, 12, 13)}
"""n, f and workers an actor."""


def setup(layout: str, device: str) -> Setup:
    """The paper's MNIST setup, of this size."""
    n, f, packed = LAYOUTS[layout]
    return Setup.model_validate(
        {
            "dataset": "mnist",
            "model": "full",
            "batch_size": 83,
            "steps": STEPS,
            "learning_rate": 0.5,
            "clip": 2.0,
            "l2": 1e-8,
            "workers": n,
            "byzantine": f,
            "aggregator": "multi-krum",
            "attack": "empire",
            "study": {"past": 25},
            "actors": {"workers_per_actor": packed},
            "device": device,
        }
    )


def memory_by_process() -> dict[int, str]:
    """The GPU memory of each process, as nvidia-smi shows it; empty where it shows none."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except OSError:
        return {}
    return {int(pid): used.strip() for pid, _, used in (line.partition(",") for line in lines) if pid.isdigit()}


def measure(layout: str, device: str, data: Path) -> dict[str, Any]:
    """One layout: who is where, how fast, and what a kill changes."""
    wanted = setup(layout, device)
    loaded = load_data(wanted, data)
    with actors.Fleet.for_setup(wanted) as fleet:
        share = fleet.group.bundle_specs[0].get("GPU", 0.0)
        undisturbed = FleetSimulation(wanted, loaded, fleet)
        undisturbed.advance(KILLED_AFTER)
        began = time.perf_counter()
        undisturbed.advance(STEPS)
        pace = (STEPS - KILLED_AFTER) / (time.perf_counter() - began)
        expected_D = undisturbed.parameters()
        used = memory_by_process()
        found = [
            {"actor": role, "pid": place["pid"], "gpus": place["gpus"], "memory": used.get(place["pid"], "not shown")}
            for role, place in zip(fleet.roles, fleet.locations, strict=True)
        ]
        disturbed = FleetSimulation(wanted, loaded, fleet)
        disturbed.advance(KILLED_AFTER)
        os.kill(fleet.locations[1]["pid"], signal.SIGKILL)
        disturbed.advance(STEPS)
        same = np.array_equal(disturbed.parameters(), expected_D)
        return {
            "actors": found,
            "share of a GPU": share,
            "steps/s": pace,
            "killed": fleet.roles[1],
            "replaced": disturbed.restarts,
            "identical": same,
        }


def show(figures: dict[str, Any], console: Console) -> None:
    """All layouts, actor by actor."""
    for layout, found in figures.items():
        n, f, _ = LAYOUTS[layout]
        title = f"{layout}: n = {n}, f = {f}, {found['share of a GPU']:g} GPU an actor, {found['steps/s']:.4g} steps/s"
        table = Table("actor", "process", "GPU, from Ray", "memory, from nvidia-smi", title=title, title_justify="left")
        for one in found["actors"]:
            table.add_row(one["actor"], f"{one['pid']}", ", ".join(one["gpus"]) or "none", one["memory"])
        console.print(table)
        verdict = "identical" if found["identical"] else "NOT identical"
        console.print(
            f"{found['killed']} killed after step {KILLED_AFTER}, actors replaced {found['replaced']} time(s): "
            f"final parameters {verdict}",
            highlight=False,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_root(), help="folder that holds MNIST, if any")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only to try the script")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    actors.connect(dashboard=False, output=False)
    with TemporaryDirectory() as folder:
        provide(given.data, Path(folder))
        figures = {layout: measure(layout, given.device, Path(folder)) for layout in LAYOUTS}
    show(figures, Console())
    if given.json is not None:
        whole = {"environment": described(given.device), "layouts": figures}
        given.json.write_text(json.dumps(whole, indent=2) + "\n")
    if not all(found["identical"] for found in figures.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
