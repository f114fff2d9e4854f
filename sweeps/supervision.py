"""Detection of trials that hang, and how their processes are killed."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.supervision import Timeouts
from byzray.setups import Setup
from sweeps.storage import Storage

# The folder of the storage in which trials register their processes.
PROCESSES = ".processes"

# Trials report about once a second; a report counts as late only after this many seconds.
REPORT_SECONDS = 2.0

# Until its first report a run may read data and build a network; so many seconds are allowed even if the user's
# deadline is shorter. While the sweep is being stopped, a run that never reported gets no more than this.
FIRST_SECONDS = 60.0

# A fleet detects lost actors itself, and the trial that supervises it may be silent for so many seconds meanwhile;
# for fewer while the sweep is being stopped.
FLEET_SECONDS = 600.0
FLEET_STOPPING_SECONDS = 60.0


def register_process(storage: Storage, trial: str) -> None:
    """Record node and process id of a trial, so that the driver can kill it. Called in the trial's process."""
    place = f"{PROCESSES}/{trial}.json"
    path = storage.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "started": start_time(os.getpid())}
    path.write_text(json.dumps(here))
    storage.push(place)


def unregister_processes(storage: Storage) -> None:
    """Remove the records of all trials' processes."""
    shutil.rmtree(storage.folder / PROCESSES, ignore_errors=True)
    storage.remove(PROCESSES)


def start_time(pid: int) -> str:
    """The start time of a process in the kernel's units, as process ids are reused; empty where it is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def end_process(pid: int, started: str) -> None:
    """Kill a process of this node, if it is still the one with that start time."""
    if start_time(pid) == started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_trial(storage: Storage, trial: str) -> None:
    """Kill the process of a trial, on any node; Ray reports it to Tune, which treats it as a process that died."""
    place = f"{PROCESSES}/{trial}.json"
    storage.pull(place)
    try:
        known: dict[str, Any] = json.loads((storage.folder / place).read_text())
        node, pid, started = str(known["node"]), int(known["pid"]), str(known["started"])
    except (OSError, ValueError, LookupError, TypeError):  # it has not registered yet
        return
    if node == ray.get_runtime_context().get_node_id():
        end_process(pid, started)
        return
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": affinity, "name": f"end of trial {trial}"}
    ray.remote(end_process).options(**options).remote(pid, started)


@dataclass
class _Trial:
    timeouts: Timeouts
    fleet: bool
    silence: float = 0.0
    reported: bool = False

    def limit(self, stopping: bool) -> float:
        """The seconds of silence after which the trial counts as hung."""
        limit = self.timeouts.step + REPORT_SECONDS
        if not self.reported:
            limit = FIRST_SECONDS if stopping else max(limit, FIRST_SECONDS)
        if self.fleet:
            limit += FLEET_STOPPING_SECONDS if stopping else FLEET_SECONDS
        return limit


class Supervisor:
    """Measures how long trials have been silent, and kills those that hang.

    Only time in which the driver reads reports counts, at most a second between two checks: a report that waits to be
    read is not silence.

    Args:
        storage: of the sweep.
        deadline: the user's, see :class:`actors.supervision.Timeouts`.
    """

    def __init__(self, storage: Storage, deadline: float | None) -> None:
        self.storage = storage
        self.deadline = deadline
        self._trials: dict[str, _Trial] = {}
        self._timeouts: dict[str, Timeouts] = {}  # also of trials that will be retried
        self._hung: dict[str, str] = {}
        self._checked = time.monotonic()

    def begins(self, trial: str, setup: Setup | None) -> None:
        """A trial starts, or is retried."""
        timeouts = self._timeouts.setdefault(trial, Timeouts(self.deadline))
        self._trials[trial] = _Trial(timeouts, fleet=setup is not None and setup.actors is not None)

    def reports(self, trial: str) -> None:
        """A trial has reported."""
        if (known := self._trials.get(trial)) is not None:
            known.timeouts.learn(known.silence)
            known.silence, known.reported = 0.0, True

    def ends(self, trial: str, for_good: bool = True) -> str:
        """A trial has ended; returns the reason if it was killed because it hung, else an empty text."""
        self._trials.pop(trial, None)
        if for_good:
            self._timeouts.pop(trial, None)
        return self._hung.pop(trial, "")

    def check(self, stopping: bool) -> None:
        """Kill trials that have been silent for too long; `stopping`: the sweep is being stopped."""
        now = time.monotonic()
        passed, self._checked = min(1.0, now - self._checked), now
        for trial, known in self._trials.items():
            known.silence += passed
            if known.silence > known.limit(stopping):
                self._hung[trial] = f"no report for {known.silence:.0f} s, so its process was killed (see --deadline)"
                known.timeouts.double()
                known.silence = 0.0  # if the process survived, it is killed again
                end_trial(self.storage, trial)
