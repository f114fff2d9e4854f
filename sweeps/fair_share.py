"""The order in which sweeps that share a cluster compute their runs.

Run by run, the owner with the smallest dominant share (Ghodsi et al., *Dominant Resource Fairness*, NSDI 2011) is next;
of owners with equal shares the one that had the least so far, share times time. Of an owner's sweeps, those with the
highest priority are next, and among them it is the same. The queue waits for room for whoever is next, so that a
run that needs many CPUs is not overtaken for ever by runs that need one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# What a run reserves: the resources of each of its actors, such as {"CPU": 1.0, "GPU": 0.25}.
Bundles = Sequence[Mapping[str, float]]

# A sweep that has not reported for so many seconds holds nothing any more.
LAPSE_SECONDS = 15.0

# A sweep that has not asked for a turn for so many seconds is not waited for.
ASKING_SECONDS = 10.0

# A sweep keeps what it computes on for so many seconds before others have their turn; to start an actor takes half.
QUANTUM_SECONDS = 5.0

# Sums of shares such as 0.1 differ from what they stand for by less than this.
ROUNDING = 1e-6


class Claim(NamedTuple):
    """What a sweep computes and waits for.

    Attributes:
        sweep: names the sweep: the place of its results.
        name: the sweep's name, for messages.
        owner: whose sweep it is.
        held: what each run that it computes reserves, by the number of its lease.
        wanted: what the next run reserves; None if none waits.
        waiting: how many runs wait.
        priority: among the sweeps of its owner; the highest is first.
        at_once: the largest number of runs at a time; None: no limit.
        renews: whether a run has just ended, so that the next one could have its actors.
        asks: whether it asks for a turn; else it only reports.
    """

    sweep: str
    name: str
    owner: str
    held: Mapping[int, Bundles]
    wanted: Bundles | None
    waiting: int = 1
    priority: int = 0
    at_once: int | None = None
    renews: bool = False
    asks: bool = True


class Answer(NamedTuple):
    """The answer to a claim.

    Attributes:
        granted: whether the sweep may start the run that it wants.
        why: why not, for the user; empty if none is wanted.
        stuck: whether the run can never start on the cluster as it is.
    """

    granted: bool
    why: str = ""
    stuck: bool = False


@dataclass
class _Known:
    """A sweep's last claim."""

    claim: Claim
    heard: float
    asked: float = float("-inf")
    granted: Bundles | None = None  # until the next report, which lists it if it was used
    since: float = float("-inf")  # when it was last granted one in competition with others
    answer: Answer = Answer(False)

    def held(self) -> list[Bundles]:
        return [*self.claim.held.values(), *([] if self.granted is None else [self.granted])]

    def may_begin(self) -> int:
        """How many more runs it may begin."""
        claim = self.claim
        limit = claim.waiting if claim.at_once is None else min(claim.waiting, claim.at_once - len(claim.held))
        return limit - (self.granted is not None)


@dataclass
class FairShare:
    """Decides which sweep may start the next run, from what all of them report again and again.

    Attributes:
        nodes: the resources of each node of the cluster.
    """

    nodes: Sequence[Mapping[str, float]] = ()
    _known: dict[str, _Known] = field(default_factory=dict)
    _had: dict[tuple[str, ...], float] = field(default_factory=dict)  # by owner, and by owner and sweep
    _counted: float = 0.0

    def report(self, claim: Claim, now: float) -> Answer:
        """A sweep reports what it holds and wants; the answer holds until its next report.

        Args:
            claim: the sweep's.
            now: the time in seconds, from any clock that never goes back.
        """
        self._count(now)
        known = self._known.setdefault(claim.sweep, _Known(claim, now))
        known.claim, known.heard, known.granted = claim, now, None
        self._known = {name: one for name, one in self._known.items() if now - one.heard < LAPSE_SECONDS}
        # Who comes anew starts with as much as the one that had least, instead of making up for the past.
        for key in ((claim.owner,), (claim.owner, claim.sweep)):
            others = [had for other, had in self._had.items() if other[:-1] == key[:-1]]
            self._had.setdefault(key, min(others, default=0.0))
        if not claim.asks:
            return Answer(False)
        known.asked = now
        known.answer = self._answer(known, now)
        if known.answer.granted:
            known.granted = claim.wanted
        return known.answer

    def leave(self, sweep: str) -> None:
        """A sweep has ended."""
        self._known.pop(sweep, None)

    def claims(self) -> list[tuple[Claim, Answer]]:
        """The last claim of each sweep, with the run that it was granted since, and its answer."""
        known = self._known.values()
        granted = [{} if one.granted is None else {0: one.granted} for one in known]
        held = [{**one.claim.held, **more} for one, more in zip(known, granted, strict=True)]
        return [(one.claim._replace(held=of), one.answer) for one, of in zip(known, held, strict=True)]

    def _count(self, now: float) -> None:
        """Add what sweeps and owners had since the last report, and forget those that have left."""
        passed, self._counted = now - self._counted, now
        of = {(known.claim.owner, known.claim.sweep): known for known in self._known.values()}
        self._had = {key: had for key, had in self._had.items() if key in of or any(one[0] == key[0] for one in of)}
        total = sum_of(self.nodes)
        for (owner, sweep), known in of.items():
            share = _dominant(sum_of(bundle for run in known.held() for bundle in run), total) * passed
            self._had[owner, sweep] += share
            self._had[owner,] += share

    def _answer(self, known: _Known, now: float) -> Answer:
        claim = known.claim
        if claim.wanted is None or not claim.waiting:
            return Answer(False)
        if claim.at_once is not None and len(claim.held) >= claim.at_once:
            return Answer(False, f"it may compute {claim.at_once} run{'s' * (claim.at_once != 1)} at a time")
        if not _Room(self.nodes).take(claim.wanted):
            return Answer(False, self._never(claim.wanted), stuck=True)
        room = _Room(self.nodes)
        placed = [room.take(held) for one in self._known.values() for held in one.held()]
        if claim.renews and now - known.since < QUANTUM_SECONDS and room.take(claim.wanted):
            return Answer(True)
        # A node may be lost, so that what is held has no place: then nothing is free.
        if not all(placed) or not self._is_next(known, room, now):
            return Answer(False, self._why(known, now))
        known.since = now
        return Answer(True)

    def _is_next(self, known: _Known, room: "_Room", now: float) -> bool:
        """Whether there is room for a run of a sweep, after those of others that go first."""
        total = sum_of(self.nodes)
        rivals = {name: one for name, one in self._known.items() if one is known or self._competes(one, now)}
        left = {name: one.may_begin() for name, one in rivals.items()}
        needs = {name: sum_of(one.claim.wanted or ()) for name, one in rivals.items()}
        held = {name: sum_of(bundle for run in one.held() for bundle in run) for name, one in self._known.items()}
        of_owner: dict[str, dict[str, float]] = {}
        for name, one in self._known.items():
            _add(of_owner.setdefault(one.claim.owner, {}), held[name])

        def order(name: str) -> tuple[float, float, int, float, float]:
            claim = rivals[name].claim
            return (
                round(_dominant(of_owner[claim.owner], total), 6),
                self._had[claim.owner,],
                -claim.priority,
                round(_dominant(held[name], total), 6),
                self._had[claim.owner, name],
            )

        while True:
            first = min((name for name in rivals if left[name] > 0), key=order)
            if not room.take(rivals[first].claim.wanted or ()):
                return False
            if rivals[first] is known:
                return True
            left[first] -= 1
            _add(held[first], needs[first])
            _add(of_owner[rivals[first].claim.owner], needs[first])

    def _competes(self, known: _Known, now: float) -> bool:
        """Whether a sweep would start a run if it was its turn: it asks, and a run has room on the cluster as it is."""
        wanted = known.claim.wanted
        asks = wanted is not None and now - known.asked < ASKING_SECONDS and known.may_begin() > 0
        return asks and _Room(self.nodes).take(wanted or ())

    def _never(self, wanted: Bundles) -> str:
        count = len(self.nodes)
        has = amounts(sum_of(self.nodes), sum_of(wanted))
        actors = len([*filter(None, wanted)])
        each = f" for {actors} actors" if actors > 1 else ""
        return (
            f"a run cannot be placed: it reserves {amounts(sum_of(wanted))}{each}, "
            f"and the cluster has {has} on {count} node{'s' * (count != 1)}"
        )

    def _why(self, known: _Known, now: float) -> str:
        """Why a sweep waits: who holds what it needs, and who is next."""
        assert known.claim.wanted is not None
        others = [one for one in self._known.values() if one is not known]
        holding = [one for one in others if one.held()]
        parts = [f"waiting for {amounts(sum_of(known.claim.wanted))}"]
        if holding:
            parts.append("held by " + " and ".join(_titled(one.claim, len(one.held())) for one in holding[:3]))
            if len(holding) > 3:
                parts[-1] += f" and {len(holding) - 3} more sweeps"
        elif known.held():
            parts.append("which its own runs hold")
        if ahead := [one for one in others if not one.held() and self._competes(one, now)]:
            parts.append(f"and it is the turn of sweep {ahead[0].claim.name} of {ahead[0].claim.owner}")
        return ", ".join(parts)


class _Room:
    """What is free on each node, if runs are placed one after another on the first node with room."""

    def __init__(self, nodes: Iterable[Mapping[str, float]]) -> None:
        self._free = [dict(node) for node in nodes]
        # No actor spans two GPUs with parts of them, so each is counted by itself.
        self._gpus = [[1.0] * int(node.get("GPU", 0)) for node in self._free]

    def take(self, bundles: Bundles) -> bool:
        """Reserve all bundles, or none if there is no room; returns whether there was."""
        before = [dict(node) for node in self._free], [list(gpus) for gpus in self._gpus]
        for bundle in bundles:
            if not any(self._place(bundle, node, gpus) for node, gpus in zip(self._free, self._gpus, strict=True)):
                self._free, self._gpus = before
                return False
        return True

    @staticmethod
    def _place(bundle: Mapping[str, float], node: dict[str, float], gpus: list[float]) -> bool:
        share = bundle.get("GPU", 0.0)
        others = {name: amount for name, amount in bundle.items() if name != "GPU"}
        if any(node.get(name, 0.0) < amount - ROUNDING for name, amount in others.items()):
            return False
        # One with the least room left, of those that have room for a part; as many whole ones as are wanted.
        each, count = (share, 1) if share < 1 else (1.0, int(share))
        fitting = sorted((free, index) for index, free in enumerate(gpus) if free >= each - ROUNDING)[:count]
        if share and len(fitting) < count:
            return False
        for free, index in fitting if share else ():
            gpus[index] = free - each
        for name, amount in others.items():
            node[name] -= amount
        return True


def amounts(of: Mapping[str, float], named: Iterable[str] | None = None) -> str:
    """Resources in words: ``2 CPUs and 0.25 GPUs``."""
    names = [name for name in (of if named is None else named) if named is not None or of[name]]
    return " and ".join(f"{of.get(name, 0.0):g} {name}{'s' * (of.get(name, 0.0) != 1)}" for name in names) or "nothing"


def _dominant(held: Mapping[str, float], total: Mapping[str, float]) -> float:
    """The dominant share: the largest part of any of the cluster's resources."""
    return max((amount / total[name] for name, amount in held.items() if total.get(name)), default=0.0)


def _add(to: dict[str, float], more: Mapping[str, float]) -> None:
    for name, amount in more.items():
        to[name] = to.get(name, 0.0) + amount


def sum_of(bundles: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The resources of several bundles together."""
    total: dict[str, float] = {}
    for bundle in bundles:
        _add(total, bundle)
    return total


def _titled(claim: Claim, runs: int) -> str:
    return f"sweep {claim.name} of {claim.owner} ({runs} run{'s' * (runs != 1)})"
