"""The actors of a simulation: placed, named, started once, used for run after run."""

import math
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.group import arrange
from actors.near import PeerLost
from actors.server import ServerActor
from actors.worker import WorkerActor
from byzray.setups import Actors, Setup

# How long a fleet waits for the cluster to have room for it, in seconds.
PLACEMENT_SECONDS = 60.0

# How long, after a first failure, a fleet listens for what the other actors have to say, in seconds.
GRACE_SECONDS = 10.0


class FleetError(Exception):
    """The fleet could not be placed, or one of its actors was lost."""


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
    """

    def __init__(
        self,
        label: str,
        cohorts: Sequence[range],
        layout: Actors | None = None,
        device: str = "auto",
        group: PlacementGroup | None = None,
    ) -> None:
        self.size = len(cohorts)
        self.layout = layout or Actors()
        self.joined = False
        self._owns_group = group is None
        count = self.size + 1
        if group is None:
            cpus, gpus = shares(self.layout, count, device)
            self.group = self._place(count, cpus, gpus)
        else:
            self.group = group
            cpus, gpus = (group.bundle_specs[0].get(resource, 0.0) for resource in ("CPU", "GPU"))
        namespace = f"byzray-{uuid.uuid4().hex[:8]}"  # two fleets may bear one label

        def options(index: int, role: str) -> dict[str, Any]:
            strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
            return {
                "name": f"{label}: {role}",
                "namespace": namespace,
                "num_cpus": cpus,
                "num_gpus": gpus,
                "scheduling_strategy": strategy,
            }

        threads = max(1, int(cpus))
        # Handles are Any: Ray makes their methods at run time.
        self.server: Any = ray.remote(ServerActor).options(**options(0, "server")).remote(threads)
        self.workers: list[Any] = [
            ray.remote(WorkerActor).options(**options(index, role_name(workers))).remote(threads)
            for index, workers in enumerate(cohorts, start=1)
        ]
        try:
            self.join()
        except BaseException:
            self.close()
            raise

    @classmethod
    def for_setup(cls, setup: Setup) -> "Fleet":
        """A fleet laid out as a setup says."""
        layout = setup.actors or Actors()
        count = math.ceil(setup.honest / layout.workers_per_actor)
        return cls(setup.label(), split(setup.honest, count), layout, setup.device)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, count: int, cpus: float, gpus: float) -> PlacementGroup:
        group = placement_group([bundle(cpus, gpus)] * count, strategy="PACK")
        try:
            ray.get(group.ready(), timeout=PLACEMENT_SECONDS)
        except GetTimeoutError:
            remove_placement_group(group)
            raise FleetError(
                f"no room for {count} actors of {cpus:g} CPUs and {gpus:g} GPUs each after {PLACEMENT_SECONDS:g} s: "
                f"the cluster has {_resources(ray.cluster_resources())}, "
                f"of which free {_resources(ray.available_resources())}; "
                "pack more workers into an actor (actors.workers_per_actor) or reserve less for each "
                "(actors.cpus_per_actor, actors.gpus_per_actor)"
            ) from None
        return group

    def join(self) -> None:
        """Connect the actors with each other, anew if one has left."""
        if self.joined:
            return
        members = [self.server, *self.workers]
        places = self.call([member.whereabouts.remote() for member in members])
        meeting = arrange(places)
        port, path = self.call([self.server.serve.remote(meeting)])[0]
        self.call([member.join.remote(meeting, port, path, rank) for rank, member in enumerate(members)])
        self.places = places
        self.joined = True

    def layout_for(self, honest: int) -> Actors:
        """The layout that describes a run of so many honest workers on this fleet.

        Raises:
            FleetError: no even spread uses all of the fleet's actors, and no more.
        """
        packed = math.ceil(honest / self.size)
        if math.ceil(honest / packed) != self.size:
            raise FleetError(
                f"a fleet of {self.size} worker actors cannot evenly hold {honest} honest workers; "
                f"expected a fleet of {math.ceil(honest / packed)}, with {packed} workers an actor"
            )
        return self.layout.model_copy(update={"workers_per_actor": packed})

    def call(self, references: Sequence[Any]) -> list[Any]:
        """The results of calls to actors, in order.

        Raises:
            FleetError: an actor was lost.
            Exception: what an actor raised, itself.
        """
        waiting = list(references)
        failure: Exception | None = None
        deadline = math.inf
        while waiting and time.monotonic() < deadline:
            # One failure makes the others' transfers fail as well, most at once; the one to report is that which is
            # not a consequence, so the others are heard too, for a while.
            done, waiting = ray.wait(waiting, num_returns=1, timeout=None if failure is None else 0.1)
            try:
                ray.get(done)
            except RayError as error:
                self.joined = False
                failure = _more_telling(failure, error)
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if failure is not None:
            raise _reason(failure)
        return ray.get(list(references))

    def prepare(self, setup: Setup, data: Any, parameters: Any = None) -> list[range]:
        """Get all actors ready for a run; returns which workers each holds.

        Args:
            setup: the setup of the run.
            data: the data set or, better, a reference to it in Ray's object store.
            parameters: the initial parameters, if not PyTorch's.

        Raises:
            FleetError: there are fewer honest workers than actors, or an actor was lost.
        """
        if setup.honest < self.size:
            raise FleetError(f"a fleet of {self.size} worker actors cannot hold {setup.honest} honest workers")
        self.join()
        cohorts = split(setup.honest, self.size)
        description, paths = setup.describe(), list(sys.path)
        self.columns, *_ = self.call(
            [
                self.server.prepare.remote(description, paths, cohorts, data, parameters),
                *(actor.prepare.remote(description, paths, cohorts, data) for actor in self.workers),
            ]
        )
        return cohorts

    def close(self) -> None:
        """End the actors and give their resources back."""
        for actor in [self.server, *self.workers]:
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


def largest_share(units: Sequence[float], count: int) -> float:
    """The largest share, at most 1, that fits `count` times into units none of which it may straddle; 0 without units.

    Units are the CPUs of each node, or single GPUs: 10 actors on 3 GPUs get a quarter each, not 0.3.
    """
    # Some unit is filled by a whole number of shares. Ray counts in ten-thousandths.
    candidates = {math.floor(min(1.0, unit / k) * 10_000) / 10_000 for unit in units for k in range(1, count + 1)}
    fitting = (share for share in candidates if share and sum(int(unit / share + 1e-9) for unit in units) >= count)
    return max(fitting, default=0.0)


def _resources(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _is_consequence(error: Exception) -> bool:
    """Whether an error is but the echo of a peer's: torch.distributed reports a closed connection as RuntimeError."""
    if not isinstance(error, RayTaskError):
        return False
    cause = error.cause
    return isinstance(cause, PeerLost) or (isinstance(cause, RuntimeError) and "onnection" in str(cause))


def _more_telling(known: Exception | None, new: Exception) -> Exception:
    return new if known is None or (_is_consequence(known) and not _is_consequence(new)) else known


def _reason(error: Exception) -> Exception:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    return FleetError(f"an actor of the fleet was lost: {error}")
