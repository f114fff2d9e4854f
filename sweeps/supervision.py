"""Trials that have been silent for too long, and the end of the processes that compute them."""

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

# Where trials leave word of which process computes them, in the storage.
PROCESSES = ".processes"

# Reports come about once a second, so late can one be that is not late.
REPORT_SECONDS = 2.0

# Until its first report a run may read data and build a network, whatever deadline the user has set, in seconds. Who
# asks for the sweep's end does not wait longer for a run that never reported either.
FIRST_SECONDS = 60.0

# A fleet notices itself what becomes of its actors; the one that looks after it may be silent meanwhile, in seconds,
# but less long while somebody waits for the sweep's end.
FLEET_SECONDS = 600.0
FLEET_STOPPING_SECONDS = 60.0


def leave_word(storage: Storage, trial: str) -> None:
    """In a trial's process: write down where that is, so that it can be ended from outside."""
    place = f"{PROCESSES}/{trial}.json"
    path = storage.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "born": born(os.getpid())}
    path.write_text(json.dumps(here))
    storage.push(place)


def forget_words(storage: Storage) -> None:
    """Remove what trials left word of."""
    shutil.rmtree(storage.folder / PROCESSES, ignore_errors=True)
    storage.remove(PROCESSES)


def born(pid: int) -> str:
    """When a process began, as the kernel counts; empty where that is not known. Process ids are reused."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def end_process(pid: int, birth: str) -> None:
    """Kill a process of this node, if it is still the one that began then."""
    if born(pid) == birth:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_trial(storage: Storage, trial: str) -> None:
    """Kill the process of a trial, wherever it is; Ray reports it to Tune, which treats it as one that died."""
    place = f"{PROCESSES}/{trial}.json"
    storage.pull(place)
    try:
        word: dict[str, Any] = json.loads((storage.folder / place).read_text())
        node, pid, birth = str(word["node"]), int(word["pid"]), str(word["born"])
    except (OSError, ValueError, LookupError, TypeError):  # it has not come so far
        return
    if node == ray.get_runtime_context().get_node_id():
        end_process(pid, birth)
        return
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": affinity, "name": f"end of trial {trial}"}
    ray.remote(end_process).options(**options).remote(pid, birth)


@dataclass
class _Trial:
    patience: Timeouts
    fleet: bool
    silence: float = 0.0
    reported: bool = False

    def limit(self, stopping: bool) -> float:
        """After how many seconds of silence it counts as hung."""
        limit = self.patience.step + REPORT_SECONDS
        if not self.reported:
            limit = FIRST_SECONDS if stopping else max(limit, FIRST_SECONDS)
        if self.fleet:
            limit += FLEET_STOPPING_SECONDS if stopping else FLEET_SECONDS
        return limit


class Supervisor:
    """Counts for how long trials have been silent, and ends those that hang.

    What is counted is the time in which the driver listens, a second at most between two looks: reports that wait to
    be read are no silence.

    Args:
        storage: of the sweep.
        deadline: the user's, see :class:`actors.supervision.Timeouts`.
    """

    def __init__(self, storage: Storage, deadline: float | None) -> None:
        self.storage = storage
        self.deadline = deadline
        self._trials: dict[str, _Trial] = {}
        self._patience: dict[str, Timeouts] = {}  # also of trials that will be tried again
        self._hung: dict[str, str] = {}
        self._looked = time.monotonic()

    def begins(self, trial: str, setup: Setup | None) -> None:
        """A trial begins, or begins again."""
        patience = self._patience.setdefault(trial, Timeouts(self.deadline))
        self._trials[trial] = _Trial(patience, fleet=setup is not None and setup.actors is not None)

    def reports(self, trial: str) -> None:
        """A trial has reported."""
        if (known := self._trials.get(trial)) is not None:
            known.patience.learn(known.silence)
            known.silence, known.reported = 0.0, True

    def ends(self, trial: str, for_good: bool = True) -> str:
        """A trial has ended; returns why it was ended, if it was for its silence."""
        self._trials.pop(trial, None)
        if for_good:
            self._patience.pop(trial, None)
        return self._hung.pop(trial, "")

    def look(self, stopping: bool) -> None:
        """End trials that have been silent for too long; `stopping`: the user waits for them."""
        now = time.monotonic()
        passed, self._looked = min(1.0, now - self._looked), now
        for trial, known in self._trials.items():
            known.silence += passed
            if known.silence > known.limit(stopping):
                self._hung[trial] = f"no sign of life for {known.silence:.0f} s, so its process was ended (--deadline)"
                known.patience.double()
                known.silence = 0.0  # if that did not help, it is tried again
                end_trial(self.storage, trial)
