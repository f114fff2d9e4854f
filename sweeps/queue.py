"""The queue of a cluster's sweeps: an actor that all of their drivers ask before they start a run.

It keeps nothing: each driver reports again and again which runs it computes and whether more of them wait, see
:mod:`sweeps.fair_share`. So it may be lost at any moment, and Ray starts it again. This module is imported by the
actor, so it imports neither PyTorch nor Tune.
"""

import getpass
import itertools
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from sweeps.fair_share import Answer, Bundles, Claim, FairShare

# The actor's name; a version with another protocol needs another one.
NAME, NAMESPACE = "byzray-queue-1", "byzray"

# The nodes of the cluster are read again after so many seconds.
NODES_SECONDS = 2.0

# A restarted actor grants nothing for so many seconds, in which all drivers report what they hold.
RESTART_SECONDS = 3.0

# A driver reports at least as often as this, in seconds.
REPORT_SECONDS = 1.0

# A driver that gets no answer for so many seconds goes on as if there were none for now.
ANSWER_SECONDS = 10.0


@dataclass
class Turns:
    """How a sweep takes turns with others on its cluster. It may be changed while the sweep is computed.

    Attributes:
        owner: whose sweep it is; each owner has the same share of the cluster. By default the user of the process.
        priority: among the sweeps of its owner; the highest is first.
        at_once: the largest number of runs at a time; None: as many as there is room for.
    """

    owner: str = field(default_factory=getpass.getuser)
    priority: int = 0
    at_once: int | None = None


class QueueActor:
    """Answers the drivers of all sweeps on a cluster."""

    def __init__(self) -> None:
        self.shares = FairShare()
        self.read = float("-inf")
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self.opens = time.monotonic() + RESTART_SECONDS if restarted else 0.0

    def __repr__(self) -> str:
        return "queue of sweeps"

    def report(self, claim: Claim) -> Answer:
        """See :meth:`sweeps.fair_share.FairShare.report`."""
        now = time.monotonic()
        if now - self.read > NODES_SECONDS:
            self.read = now
            self.shares.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if now < self.opens:
            self.shares.report(claim._replace(asks=False), now)
            return Answer(False, "the queue was restarted")
        return self.shares.report(claim, now)

    def leave(self, sweep: str) -> None:
        """See :meth:`sweeps.fair_share.FairShare.leave`."""
        self.shares.leave(sweep)

    def claims(self) -> list[tuple[Claim, Answer]]:
        """See :meth:`sweeps.fair_share.FairShare.claims`."""
        return self.shares.claims()


def _actor() -> Any:
    """The cluster's queue, started if there is none."""
    options: dict[str, Any] = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(QueueActor).options(**options, num_cpus=0, max_restarts=-1).remote()


def claims() -> list[tuple[Claim, Answer]]:
    """What the sweeps on the cluster compute and wait for; none if no sweep asked for a turn yet."""
    with suppress(ValueError, RayError):  # there is no such actor, or it is being restarted
        return ray.get(ray.get_actor(NAME, NAMESPACE).claims.remote(), timeout=ANSWER_SECONDS)
    return []


class Leases:
    """The runs that a driver may compute. A thread reports them, so that they do not lapse. Close it at the end.

    Args:
        sweep: names the sweep on the cluster: the place of its results.
        name: the sweep's name, for messages.
        turns: how it takes turns.

    Attributes:
        answer: to the last report that asked for a turn.
    """

    def __init__(self, sweep: str, name: str, turns: Turns) -> None:
        self.sweep = sweep
        self.name = name
        self.turns = turns
        self.answer = Answer(False)
        self._actor = _actor()
        self._held: dict[int, Bundles] = {}
        self._wanted: tuple[Bundles | None, int] = (None, 0)
        self._numbers = itertools.count(1)
        self._counted, self._seconds = time.monotonic(), 0.0
        self._lock = threading.Lock()  # one report at a time
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
        self._thread.start()

    def take(self, wanted: Bundles, waiting: int, instead: int | None = None) -> int | None:
        """Ask for a turn.

        Args:
            wanted: what the run reserves.
            waiting: how many runs wait, this one included.
            instead: the lease of a run that has just ended, which is given back.

        Returns:
            the number of the lease; None if it is not this sweep's turn.
        """
        with self._lock:
            self._count()
            self._held.pop(instead or 0, None)
            self._wanted = wanted, waiting
            self.answer = self._report(renews=instead is not None)
            if not self.answer.granted:
                return None
            lease = next(self._numbers)
            self._held[lease] = wanted
            return lease

    def give_back(self, *leases: int) -> None:
        """Give leases back; until the next :meth:`take` nothing is wanted."""
        with self._lock:
            self._count()
            for lease in leases:
                self._held.pop(lease, None)
            self._wanted = None, 0
            self._report(asks=False)

    def close(self) -> None:
        """Give everything back."""
        self._closed.set()
        self._thread.join()
        with suppress(RayError):
            ray.get(self._actor.leave.remote(self.sweep), timeout=ANSWER_SECONDS)

    @property
    def seconds(self) -> float:
        """How long the leases were held, all of them together."""
        with self._lock:
            self._count()
            return self._seconds

    def _count(self) -> None:
        now = time.monotonic()
        self._seconds += (now - self._counted) * len(self._held)
        self._counted = now

    def _report(self, renews: bool = False, asks: bool = True) -> Answer:
        wanted, waiting = self._wanted
        turns = self.turns
        claim = Claim(
            sweep=self.sweep,
            name=self.name,
            owner=turns.owner,
            held=dict(self._held),
            wanted=wanted,
            waiting=waiting,
            priority=turns.priority,
            at_once=turns.at_once,
            renews=renews,
            asks=asks,
        )
        try:
            return ray.get(self._actor.report.remote(claim), timeout=ANSWER_SECONDS)
        except RayError as error:  # it is being restarted
            with suppress(RayError):
                self._actor = _actor()
            return Answer(False, f"the queue of the cluster does not answer ({type(error).__name__})")

    def _keep(self) -> None:
        while not self._closed.wait(REPORT_SECONDS):
            with self._lock:
                self._report(asks=False)
