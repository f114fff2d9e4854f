"""Processes of a service that are killed, and what must hold afterwards."""

import contextlib
import random
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from running_service import PATIENCE, Running, digests

from byzray import simulate
from byzray.client import Sweep
from byzray.client.models import Submission
from sweeps.plan import make_plan
from sweeps.service.submissions import sweep_in
from sweeps.storage import Storage

# What the command lines of a service's processes hold.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "replica": ("ray::ServeReplica",),
    "proxy": ("ray::ProxyActor",),
    "controller": ("ray::ServeController",),
    "driver": ("sweeps.service.driver",),
    "trial": ("ray::RunTrainable", "ray::ImplicitFunc", "ray::ResourceTrainable"),
    "queue": ("ray::QueueActor",),
    "server": ("sweeps.service.server",),
    "raylet": ("raylet/raylet",),
    "gcs": ("gcs/gcs_server",),
    "everything": ("",),
}


def kill(service: Running, target: str) -> bool:
    """Send SIGKILL to the processes of a target; returns whether there was one. A dead service is started again."""
    words = TARGETS[target]
    found = [process for word in words for process in service.find(word)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)
    if target == "everything":
        service.start()
    return bool(found)


def undisturbed(yaml: str, folder: Path) -> dict[str, bytes]:
    """What the runs of a sweep compute in this process, without any service."""
    torch.set_num_threads(1)  # as trials do
    sweep, seeds = sweep_in(Submission(yaml=yaml), ())
    for run in make_plan(sweep, Storage(str(folder / "nothing")), folder, seeds=seeds).runs:
        simulate(run.setup, output=folder / "undisturbed")
    return digests(folder / "undisturbed")


def finished(service: Running, sweep: str) -> dict[str, int]:
    """The runs of a sweep that have finished, each with the time at which its status was written."""
    found = {}
    for path in (service.storage / "sweeps" / sweep / "runs").glob("*/status.json"):
        with contextlib.suppress(OSError):
            if '"finished"' in path.read_text():
                found[path.parent.name] = path.stat().st_mtime_ns
    return found


def disturbed(service: Running, yaml: str, name: str, target: str, numbers: random.Random) -> tuple[Sweep, float]:
    """Submit a sweep and kill a target at a random moment; returns the sweep at its end, and how long it took."""
    began = time.monotonic()
    sweep = service.client().submit(yaml=yaml, name=name)
    time.sleep(numbers.uniform(0.0, 14.0))
    while not any(service.find(word) for word in TARGETS[target]):  # its process may have yet to start
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.1)
    before = finished(service, sweep.id)
    assert kill(service, target), f"there was no {target} to kill"
    ended = service.wait_for(sweep.id, lambda found: found.state in ("finished", "failed"))
    after = finished(service, sweep.id)
    assert {run: after[run] for run in before} == before, "a finished run was computed again"
    return ended, time.monotonic() - began
