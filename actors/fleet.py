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

from actors.rendezvous import plan
from actors.server import ServerActor
from actors.supervision import (
    START_SECONDS,
    ActorLost,
    FleetError,
    Supervision,
    Timeouts,
    actor_error,
    is_timeout,
    root_cause,
)
from actors.worker import WorkerActor
from byzray.setups import Actors, Setup

# How long a fleet waits for resources, at its start or after a node was lost, in seconds.
PLACEMENT_SECONDS = 40.0

# How long a fleet collects the errors of the other actors after the first one, in seconds; less after a timeout, where
# one of them will not answer.
GRACE_SECONDS = 10.0
TIMEOUT_GRACE_SECONDS = 1.0

# How long Ray may take to answer whether a placement group is ready, in whole seconds.
PLACED_SECONDS = 5

# How long a fleet waits for lost actors that have resources, in seconds since the last one answered.
RETURN_SECONDS = 120.0

# How many times a fleet tries to connect its actors.
CONNECTIONS = 5

# How long an idle actor may take to answer, in seconds.
ANSWER_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Fleet:
    """A server actor and worker actors in a placement group, connected to each other.

    Starting a fleet takes seconds; it can then compute any number of runs, one at a time. Use it as a context manager,
    or call :meth:`close`.

    Args:
        label: prefix of the actors' names in the Ray dashboard: ``label: worker 3``.
        cohorts: the workers of each worker actor, for its name.
        layout: what each actor reserves.
        device: `cpu` reserves no GPU.
        group: a placement group with equal bundles, one for the server and one for each worker actor; by default the
            fleet creates one and removes it when it is closed.
        supervision: when actors count as lost.

    Attributes:
        locations: of the actors, the server's first, see :meth:`actors.member.Member.location`.
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
        self.timeout = Timeouts(supervision.deadline).call  # of calls
        self.connected = False
        self.locations: list[dict[str, Any]] = []
        self.roles = ["server", *(role_name(workers) for workers in cohorts)]
        self._owns_group = group is None
        mark = uuid.uuid4().hex[:8]  # fleets may share a label
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
                # Ray restarts actors that die, on another node if theirs is lost; the fleet counts how often.
                "max_restarts": -1,
            }

        threads = max(1, int(cpus))
        # Handles are Any: Ray creates their methods at run time.
        self.server: Any = ray.remote(ServerActor).options(**options(0)).remote(threads)
        self.workers: list[Any] = [
            ray.remote(WorkerActor).options(**options(index)).remote(threads) for index in range(1, count)
        ]
        try:
            self.reconnect(timeout=max(self.timeout, START_SECONDS))  # many actors take long to start on few CPUs
        except BaseException:
            self.close()
            raise

    @classmethod
    def for_setup(cls, setup: Setup, supervision: Supervision = Supervision()) -> "Fleet":
        """A fleet with the layout of a setup."""
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
            f"{_capacity()}; pack more workers into an actor (actors.workers_per_actor) or reserve less for each "
            "(actors.cpus_per_actor, actors.gpus_per_actor)"
        )

    @property
    def members(self) -> list[Any]:
        """The actors by rank: the server, then the worker actors."""
        return [self.server, *self.workers]

    def reconnect(self, timed_out: bool = False, timeout: float | None = None) -> dict[str, str]:
        """Wait until all actors answer, restart those that do not, and connect them to each other.

        Args:
            timed_out: whether one was lost because it did not respond: actors then have little time to answer.
            timeout: otherwise actors that do not answer for this many seconds are restarted; by default as for calls.

        Returns:
            A message for each actor that was replaced since the fleet was last connected, by role.

        Raises:
            FleetError: the cluster has no room for an actor, or it did not come back.
        """
        before, last = self.locations, None
        for _ in range(CONNECTIONS):
            locations = self._find_actors(ANSWER_SECONDS if timed_out else timeout or self.timeout)
            try:
                self._connect(locations)
            except ActorLost as loss:  # another one, meanwhile
                last = loss
                continue
            return {
                role: f"actor {role!r} was lost ({_process(old)}) and is back ({_process(new)})"
                for role, old, new in zip(self.roles, before, locations, strict=False)
                if _process(old) != _process(new)
            }
        raise FleetError(f"the actors of the fleet could not be connected in {CONNECTIONS} attempts: {last}") from last

    def _find_actors(self, timeout: float) -> list[dict[str, Any]]:
        """The locations of all actors, once all have answered.

        Args:
            timeout: running actors that do not answer for this many seconds after the last answer are restarted.
        """
        found: dict[int, dict[str, Any]] = {}
        calls = {member.location.remote(): rank for rank, member in enumerate(self.members)}
        restarting: dict[int, str] = {}  # with Ray's message
        answered = placed = time.monotonic()
        while calls:
            done, _ = ray.wait(list(calls), num_returns=1, timeout=1.0)
            has_room = self.group.wait(PLACED_SECONDS)
            now = time.monotonic()
            for reference in done:
                rank = calls.pop(reference)
                try:
                    found[rank] = ray.get(reference)
                    answered = now
                except RayActorError as error:
                    restarting[rank] = " ".join(str(error).split())
                    time.sleep(0.2)
                    calls[self.members[rank].location.remote()] = rank
            if has_room:
                placed = now
            else:
                answered = now  # some cannot run yet
            silent = [rank for rank in calls.values() if rank not in restarting]
            if now - placed > PLACEMENT_SECONDS:
                raise FleetError(
                    f"no room for {self._named(calls.values())} after {PLACEMENT_SECONDS:g} s: {_capacity()}"
                )
            if silent and now - answered > timeout:
                for rank in silent:
                    ray.kill(self.members[rank], no_restart=False)
                    restarting[rank] = "it did not respond and was restarted"
                answered = now
            if now - answered > max(timeout, RETURN_SECONDS):
                message = next(iter(restarting.values()), "")
                raise FleetError(
                    f"did not come back within {now - answered:.0f} s: {self._named(calls.values())}; "
                    f"{_capacity()}. {message}"
                )
        return [found[rank] for rank in range(len(self.members))]

    def _named(self, ranks: Iterable[int]) -> str:
        return ", ".join(self.roles[rank] for rank in sorted(ranks))

    def _connect(self, locations: list[dict[str, Any]]) -> None:
        rendezvous = plan(locations, self.timeout)
        port, path = self.call([self.server.listen.remote(rendezvous)], self.timeout)[0]
        connecting = [member.connect.remote(rendezvous, port, path, rank) for rank, member in enumerate(self.members)]
        self.call(connecting, self.timeout)
        self.locations = locations
        self.connected = True

    def layout_for(self, workers: int) -> Actors:
        """The layout of a run with `workers` training workers on this fleet.

        Raises:
            FleetError: they cannot be spread evenly over exactly the fleet's actors.
        """
        packed = math.ceil(workers / self.size)
        if math.ceil(workers / packed) != self.size:
            raise FleetError(
                f"a fleet of {self.size} worker actors cannot evenly hold {workers} workers; "
                f"expected a fleet of {math.ceil(workers / packed)}, with {packed} workers an actor"
            )
        return self.layout.model_copy(update={"workers_per_actor": packed})

    def call(self, references: Sequence[Any], timeout: float = math.inf, straggling: float = math.inf) -> list[Any]:
        """The results of calls to actors, in order.

        Args:
            references: of the calls.
            timeout: after this many seconds actors that have not answered count as lost.
            straggling: the same, counted from the first answer.

        Raises:
            ActorLost: an actor was lost.
            Exception: what an actor's own code raised.
        """
        waiting = list(references)
        failure: Exception | None = None
        deadline = time.monotonic() + timeout
        while waiting and time.monotonic() < deadline:
            # When one actor fails, transfers of the others fail as well, most of them at once. To report the cause and
            # not a consequence, collect the others' errors for a while.
            wait = min(1.0, deadline - time.monotonic()) if failure is None else 0.1
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, wait))
            if done and failure is None:
                deadline = min(deadline, time.monotonic() + straggling)
            try:
                ray.get(done)
            except RayError as error:
                self.connected = False
                failure = root_cause(failure, error)
                grace = TIMEOUT_GRACE_SECONDS if is_timeout(error) else GRACE_SECONDS
                deadline = min(deadline, time.monotonic() + grace)
        if failure is not None:
            raise actor_error(failure)
        if waiting:
            self.connected = False
            late = min(timeout, straggling)
            raise ActorLost(f"an actor of the fleet did not answer within {late:g} s", timed_out=True)
        return ray.get(list(references))

    def prepare(
        self,
        setup: Setup,
        data: Any,
        tags: dict[str, str],
        parameters: Any = None,
        faults_from: int = 0,
    ) -> list[range]:
        """Prepare all actors for a run; returns the workers of each.

        Args:
            setup: the setup of the run.
            data: the data set or, better, a reference to it in Ray's object store.
            tags: of the run's live metrics.
            parameters: the initial parameters, by default PyTorch's initialisation.
            faults_from: from this step on, crashes and hangs that the setup declares happen.

        Raises:
            FleetError: there are fewer workers than actors.
            ActorLost: an actor was lost.
        """
        trained = len(setup.trained)
        if trained < self.size:
            raise FleetError(f"a fleet of {self.size} worker actors cannot hold {trained} workers")
        if not self.connected:
            self.reconnect()
        cohorts = split(trained, self.size)
        description, paths = setup.describe(), list(sys.path)
        self.columns, *_ = self.call(
            [
                self.server.prepare.remote(description, paths, cohorts, data, parameters, tags),
                *(
                    actor.prepare.remote(description, paths, cohorts, data, faults_from, tags, role)
                    for actor, role in zip(self.workers, self.roles[1:], strict=True)
                ),
            ],
            self.timeout,
        )
        return cohorts

    def close(self) -> None:
        """Kill the actors and free their resources."""
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
    """The CPUs and GPUs that each of `count` actors reserves: the layout's, else an even share of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = layout.cpus_per_actor, layout.gpus_per_actor
    if cpus is None:
        cpus = largest_share([node.get("CPU", 0.0) for node in nodes], count)
    if gpus is None:
        devices = int(sum(node.get("GPU", 0.0) for node in nodes)) if device != "cpu" else 0
        gpus = largest_share([1.0] * devices, count)
    return cpus, gpus


def bundle(cpus: float, gpus: float) -> dict[str, float]:
    """The resources of one actor, as a placement group's bundle: without those that are 0."""
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def room(wanted: Mapping[str, float]) -> int:
    """How many actors that reserve `wanted` fit on the cluster's nodes if nothing else runs there."""
    return sum(_fitting(node["Resources"], wanted) for node in ray.nodes() if node["Alive"])


def _fitting(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many of them fit on a node; none spans two GPUs."""
    fitting = [int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()]
    if 0 < wanted.get("GPU", 0) < 1:
        fitting.append(int(node.get("GPU", 0)) * int(1 / wanted["GPU"] + 1e-9))
    return min(fitting)


def largest_share(units: Sequence[float], count: int) -> float:
    """The largest share, at most 1, that fits `count` times into units without spanning two of them; 0 without units.

    Units are the CPUs of each node, or single GPUs: 10 actors on 3 GPUs get a quarter each, not 0.3.
    """
    # At the optimum some unit is filled by a whole number of shares. Ray counts in ten-thousandths.
    candidates = {math.floor(min(1.0, unit / k) * 10_000) / 10_000 for unit in units for k in range(1, count + 1)}
    fitting = (share for share in candidates if share and sum(int(unit / share + 1e-9) for unit in units) >= count)
    return max(fitting, default=0.0)


def _capacity() -> str:
    there, free = _resources(ray.cluster_resources()), _resources(ray.available_resources())
    return f"the cluster has {there}, of which free {free}"


def _process(place: dict[str, Any]) -> str:
    return f"process {place['pid']} on {place['address']}"


def _resources(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
