"""The actors of a simulation: placed, named, started once, used for run after run."""

import logging
import math
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.group import arrange
from actors.server import ServerActor
from actors.supervision import (
    START_SECONDS,
    ActorLost,
    FleetError,
    Patience,
    Supervision,
    is_silence,
    more_telling,
    reason,
)
from actors.worker import WorkerActor
from byzray.setups import Actors, Setup

# How long a fleet waits for room in the cluster, at first or after a node was lost, in seconds.
PLACEMENT_SECONDS = 40.0

# How long, after a first failure, a fleet listens for what the other actors have to say, in seconds; after a silence,
# which one of them will not break, not so long.
GRACE_SECONDS = 10.0
SILENCE_SECONDS = 1.0

# How long Ray may take to say whether a fleet has its place, in whole seconds.
PLACED_SECONDS = 5

# How long a fleet waits, since the last one came, for actors that were lost and have a place, in seconds.
RETURN_SECONDS = 120.0

# How often a fleet tries to connect its actors before it gives up.
CONNECTIONS = 5

# How long an actor that should be idle may take to answer, in seconds.
ANSWER_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Fleet:
    """One server actor and some worker actors, in a placement group, connected with each other.

    Starting a fleet takes seconds; it then serves any number of runs, one at a time. Use it as a context manager, or
    call :meth:`close`.

    Args:
        label: what the actors' names begin with in the Ray dashboard: ``label: worker 3``.
        cohorts: the workers that each actor is named after.
        layout: what each actor reserves.
        device: `cpu` reserves no GPU.
        group: a placement group with a bundle for the server and then one for each worker actor, all alike; by default
            one is made, and removed again with the fleet.
        supervision: when actors count as lost.

    Attributes:
        places: where the actors are, the server's first, see :meth:`actors.member.Member.whereabouts`.
    """

    def __init__(
        self,
        label: str,
        cohorts: Sequence[range],
        layout: Actors | None = None,
        device: str = "auto",
        group: PlacementGroup | None = None,
        supervision: Supervision = Supervision(),
    ) -> None:
        self.size = len(cohorts)
        count = self.size + 1
        self.layout = layout or Actors()
        self.supervision = supervision
        self.patience = Patience(supervision.deadline).call  # of calls
        self.joined = False
        self.places: list[dict[str, Any]] = []
        self.roles = ["server", *(role_name(workers) for workers in cohorts)]
        self._owns_group = group is None
        mark = uuid.uuid4().hex[:8]  # two fleets may have the same label
        logger.info("starting %d actors", count)
        if group is None:
            cpus, gpus = shares(self.layout, count, device)
            self.group = self._place(f"{label} ({mark})", count, cpus, gpus)
        else:
            self.group = group
            cpus, gpus = (group.bundle_specs[0].get(resource, 0.0) for resource in ("CPU", "GPU"))

        def options(index: int) -> dict[str, Any]:
            strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
            return {
                "name": f"{label}: {self.roles[index]}",
                "namespace": f"byzray-{mark}",
                "num_cpus": cpus,
                "num_gpus": gpus,
                "scheduling_strategy": strategy,
                # Ray starts those again that die, on another node if theirs is lost; the fleet counts how often.
                "max_restarts": -1,
            }

        threads = max(1, int(cpus))
        # Handles are Any: Ray makes their methods at run time.
        self.server: Any = ray.remote(ServerActor).options(**options(0)).remote(threads)
        self.workers: list[Any] = [
            ray.remote(WorkerActor).options(**options(index)).remote(threads) for index in range(1, count)
        ]
        try:
            self.revive(patience=max(self.patience, START_SECONDS))  # many actors take long to start on few CPUs
        except BaseException:
            self.close()
            raise

    @classmethod
    def for_setup(cls, setup: Setup, supervision: Supervision = Supervision()) -> "Fleet":
        """A fleet laid out as a setup says."""
        layout = setup.actors or Actors()
        trained = len(setup.trained)
        count = math.ceil(trained / layout.workers_per_actor)
        return cls(setup.label(), split(trained, count), layout, setup.device, supervision=supervision)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, name: str, count: int, cpus: float, gpus: float) -> PlacementGroup:
        wanted = bundle(cpus, gpus)
        waited = ""
        if room(wanted) >= count:
            group = placement_group([wanted] * count, strategy="PACK", name=name)
            try:
                ray.get(group.ready(), timeout=PLACEMENT_SECONDS)
                return group
            except GetTimeoutError:
                remove_placement_group(group)
                waited = f" after {PLACEMENT_SECONDS:g} s"
        raise FleetError(
            f"no room for {count} actors of {cpus:g} CPUs and {gpus:g} GPUs each{waited}: "
            f"{_room()}; pack more workers into an actor (actors.workers_per_actor) or reserve less for each "
            "(actors.cpus_per_actor, actors.gpus_per_actor)"
        )

    @property
    def members(self) -> list[Any]:
        """The actors by rank: the server, then the worker actors."""
        return [self.server, *self.workers]

    def revive(self, silent: bool = False, patience: float | None = None) -> dict[str, str]:
        """Wait until all actors answer, replaced where need be, and connect them with each other.

        Args:
            silent: whether actors that do not answer soon are to be replaced.
            patience: after so many seconds the others are; by default as long as any call may take.

        Returns:
            The actors that were replaced since the fleet was connected the last time, each with the story in words.

        Raises:
            FleetError: an actor has no place in the cluster, or did not come back.
        """
        before, last = self.places, None
        for _ in range(CONNECTIONS):
            places = self._whereabouts(ANSWER_SECONDS if silent else patience or self.patience)
            try:
                self._connect(places)
            except ActorLost as loss:  # in the meantime
                last = loss
                continue
            return {
                role: f"actor {role!r} was lost ({_process(old)}) and is back ({_process(new)})"
                for role, old, new in zip(self.roles, before, places, strict=False)
                if _process(old) != _process(new)
            }
        raise FleetError(f"the actors of the fleet could not be connected in {CONNECTIONS} attempts: {last}") from last

    def _whereabouts(self, patience: float) -> list[dict[str, Any]]:
        """Where the actors are, once all are there.

        Args:
            patience: actors that seem to run are started anew if they are silent so many seconds after the last answer.
        """
        found: dict[int, dict[str, Any]] = {}
        asked = {member.whereabouts.remote(): rank for rank, member in enumerate(self.members)}
        down: dict[int, str] = {}  # actors that are being started, and what Ray said of them
        heard = placed = time.monotonic()
        while asked:
            done, _ = ray.wait(list(asked), num_returns=1, timeout=1.0)
            there = self.group.wait(PLACED_SECONDS)
            now = time.monotonic()
            for reference in done:
                rank = asked.pop(reference)
                try:
                    found[rank] = ray.get(reference)
                    heard = now
                except RayActorError as error:
                    down[rank] = " ".join(str(error).split())
                    time.sleep(0.2)
                    asked[self.members[rank].whereabouts.remote()] = rank
            if there:
                placed = now
            else:
                heard = now  # some are nowhere yet where they could answer
            silent = [rank for rank in asked.values() if rank not in down]
            if now - placed > PLACEMENT_SECONDS:
                raise FleetError(f"no room for {self._named(asked.values())} after {PLACEMENT_SECONDS:g} s: {_room()}")
            if silent and now - heard > patience:
                for rank in silent:
                    ray.kill(self.members[rank], no_restart=False)
                    down[rank] = "it was silent, and is started anew"
                heard = now
            if now - heard > max(patience, RETURN_SECONDS):
                said = next(iter(down.values()), "")
                raise FleetError(
                    f"did not come back within {now - heard:.0f} s: {self._named(asked.values())}; {_room()}. {said}"
                )
        return [found[rank] for rank in range(len(self.members))]

    def _named(self, ranks: Iterable[int]) -> str:
        return ", ".join(self.roles[rank] for rank in sorted(ranks))

    def _connect(self, places: list[dict[str, Any]]) -> None:
        meeting = arrange(places, self.patience)
        port, path = self.call([self.server.serve.remote(meeting)], self.patience)[0]
        joining = [member.join.remote(meeting, port, path, rank) for rank, member in enumerate(self.members)]
        self.call(joining, self.patience)
        self.places = places
        self.joined = True

    def layout_for(self, workers: int) -> Actors:
        """The layout that describes a run of so many workers that train on this fleet.

        Raises:
            FleetError: no even spread uses all of the fleet's actors, and no more.
        """
        packed = math.ceil(workers / self.size)
        if math.ceil(workers / packed) != self.size:
            raise FleetError(
                f"a fleet of {self.size} worker actors cannot evenly hold {workers} workers; "
                f"expected a fleet of {math.ceil(workers / packed)}, with {packed} workers an actor"
            )
        return self.layout.model_copy(update={"workers_per_actor": packed})

    def call(self, references: Sequence[Any], patience: float = math.inf, straggling: float = math.inf) -> list[Any]:
        """The results of calls to actors, in order.

        Args:
            references: of the calls.
            patience: after so many seconds actors that have not answered count as lost.
            straggling: the same, from the first answer on.

        Raises:
            ActorLost: an actor was lost.
            Exception: what an actor raised, itself.
        """
        waiting = list(references)
        failure: Exception | None = None
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            # One failure makes the others' transfers fail as well, most at once; the one to report is that which is
            # not a consequence, so the others are heard too, for a while.
            wait = min(1.0, deadline - time.monotonic()) if failure is None else 0.1
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, wait))
            if done and failure is None:
                deadline = min(deadline, time.monotonic() + straggling)
            try:
                ray.get(done)
            except RayError as error:
                self.joined = False
                failure = more_telling(failure, error)
                grace = SILENCE_SECONDS if is_silence(error) else GRACE_SECONDS
                deadline = min(deadline, time.monotonic() + grace)
        if failure is not None:
            raise reason(failure)
        if waiting:
            self.joined = False
            late = min(patience, straggling)
            raise ActorLost(f"an actor of the fleet did not answer within {late:g} s", silent=True)
        return ray.get(list(references))

    def prepare(
        self,
        setup: Setup,
        data: Any,
        tags: dict[str, str],
        parameters: Any = None,
        healthy: int = 0,
    ) -> list[range]:
        """Get all actors ready for a run; returns which workers each holds.

        Args:
            setup: the setup of the run.
            data: the data set or, better, a reference to it in Ray's object store.
            tags: of the run's live metrics.
            parameters: the initial parameters, if not PyTorch's.
            healthy: before this step no actor fails by declaration.

        Raises:
            FleetError: there are fewer workers than actors.
            ActorLost: an actor was lost.
        """
        trained = len(setup.trained)
        if trained < self.size:
            raise FleetError(f"a fleet of {self.size} worker actors cannot hold {trained} workers")
        if not self.joined:
            self.revive()
        cohorts = split(trained, self.size)
        description, paths = setup.describe(), list(sys.path)
        self.columns, *_ = self.call(
            [
                self.server.prepare.remote(description, paths, cohorts, data, parameters, tags),
                *(
                    actor.prepare.remote(description, paths, cohorts, data, healthy, tags, role)
                    for actor, role in zip(self.workers, self.roles[1:], strict=True)
                ),
            ],
            self.patience,
        )
        return cohorts

    def close(self) -> None:
        """End the actors and give their resources back."""
        for actor in self.members:
            ray.kill(actor)
        if self._owns_group:
            remove_placement_group(self.group)


def split(workers: int, actors: int) -> list[range]:
    """Consecutive workers for each actor, as evenly as possible, the larger cohorts first."""
    size, larger = divmod(workers, actors)
    cohorts, start = [], 0
    for actor in range(actors):
        stop = start + size + (actor < larger)
        cohorts.append(range(start, stop))
        start = stop
    return cohorts


def role_name(workers: range) -> str:
    """``worker 3``, or ``workers 0-13``."""
    return f"worker {workers.start}" if len(workers) == 1 else f"workers {workers.start}-{workers.stop - 1}"


def shares(layout: Actors, count: int, device: str) -> tuple[float, float]:
    """The CPUs and GPUs that each of `count` actors reserves: as the layout says, else an even share of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = layout.cpus_per_actor, layout.gpus_per_actor
    if cpus is None:
        cpus = largest_share([node.get("CPU", 0.0) for node in nodes], count)
    if gpus is None:
        devices = int(sum(node.get("GPU", 0.0) for node in nodes)) if device != "cpu" else 0
        gpus = largest_share([1.0] * devices, count)
    return cpus, gpus


def bundle(cpus: float, gpus: float) -> dict[str, float]:
    """The resources of one actor, as placement groups want them: none of which there is nothing."""
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def room(wanted: Mapping[str, float]) -> int:
    """How many actors that reserve this the nodes of the cluster hold while nothing else is there."""
    return sum(_fitting(node["Resources"], wanted) for node in ray.nodes() if node["Alive"])


def _fitting(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many of them a node holds; none straddles two GPUs."""
    fitting = [int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()]
    if 0 < wanted.get("GPU", 0) < 1:
        fitting.append(int(node.get("GPU", 0)) * int(1 / wanted["GPU"] + 1e-9))
    return min(fitting)


def largest_share(units: Sequence[float], count: int) -> float:
    """The largest share, at most 1, that fits `count` times into units none of which it may straddle; 0 without units.

    Units are the CPUs of each node, or single GPUs: 10 actors on 3 GPUs get a quarter each, not 0.3.
    """
    # Some unit is filled by a whole number of shares. Ray counts in ten-thousandths.
    candidates = {math.floor(min(1.0, unit / k) * 10_000) / 10_000 for unit in units for k in range(1, count + 1)}
    fitting = (share for share in candidates if share and sum(int(unit / share + 1e-9) for unit in units) >= count)
    return max(fitting, default=0.0)


def _room() -> str:
    there, free = _resources(ray.cluster_resources()), _resources(ray.available_resources())
    return f"the cluster has {there}, of which free {free}"


def _process(place: dict[str, Any]) -> str:
    return f"process {place['pid']} on {place['address']}"


def _resources(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
