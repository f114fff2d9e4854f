"""A run on a fleet of actors."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import ObjectRef
from torch import Tensor

from actors.cluster import connect
from actors.fleet import GRACE_SECONDS, Fleet
from actors.monitoring import Monitor, run_tags
from actors.server import Snapshot, Stretch
from actors.supervision import ActorLost, FleetError, Supervision, Timeouts
from byzray.data import data_root, load_data
from byzray.datasets import Data
from byzray.divergence import Divergence
from byzray.environment import Environment, fingerprints
from byzray.evaluation import Accuracies
from byzray.mistakes import SetupError
from byzray.recording.loop import record
from byzray.recording.progress import shown
from byzray.recording.simulation import StateLost
from byzray.recording.update import Progress, Update
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.result import Result
from byzray.setups import Actors, Setup
from byzray.simulation import mean_buffers
from byzray.state import State
from byzray.timings import Timings

T = TypeVar("T")


class FleetSimulation:
    """A run on a fleet. Actors that are lost are replaced, and no bit of the run changes.

    Workers get their momentum back from the server, and the current step is repeated. If the server is lost,
    :class:`byzray.recording.simulation.StateLost` is raised once the fleet is complete again: the run can continue from
    a checkpoint.

    Args:
        setup: the setup.
        data: its data set, put into Ray's object store here, or a reference to it there: each node fetches it once,
            whatever the number of actors.
        fleet: actors that no other run uses at the same time.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.
        sweep: that the run is part of.

    Attributes:
        restarts: how often actors that were lost were replaced, other than those that the setup has crash or hang.
    """

    def __init__(
        self,
        setup: Setup,
        data: Data | ObjectRef,
        fleet: Fleet,
        parameters: Tensor | None = None,
        sweep: str = "",
    ) -> None:
        self.setup = setup
        self.fleet = fleet
        self.step_number = 0
        self.diverged: Divergence | None = None
        self.restarts = 0
        self.timeouts = Timeouts(fleet.supervision.deadline)
        self._events: list[str] = []
        self._reported = 0  # how many of the events
        self._replaced: list[str] = []
        self._timings: Timings = defaultdict(float)
        self._tags = run_tags(setup, sweep)
        self._parameters = parameters
        self._environment: Environment = {}
        self._faults_from = 0
        self._data = data if isinstance(data, ObjectRef) else ray.put(data)
        self.begin_anew()

    def begin_anew(self) -> None:
        self._begin(lambda: self._prepare(self._faults_from))

    def _begin(self, work: Callable[[], None]) -> None:
        """Do work that needs no earlier state; repeat it as long as an actor is lost meanwhile."""
        while True:
            try:
                return work()
            except ActorLost as loss:
                self._count(loss)
                self._replace(loss)

    def _prepare(self, faults_from: int) -> None:
        self._faults_from = faults_from  # first, as an actor may be lost below
        self.cohorts = self.fleet.prepare(self.setup, self._data, self._tags, self._parameters, faults_from)
        self._environment = self._environment or self._call([self.fleet.server.environment.remote()])[0]
        self.step_number = 0
        self.diverged = None

    def advance(self, stop: int) -> NDArray[np.float64]:
        parts: list[NDArray[np.float64]] = []
        while True:
            try:
                parts.append(self._run(stop))
            except ActorLost as loss:
                parts.append(self._recover(loss))
            if self.step_number == stop or (self.diverged is not None and self.setup.divergence == "stop"):
                return np.concatenate(parts)

    def _run(self, stop: int) -> NDArray[np.float64]:
        fleet, start, timeout = self.fleet, self.step_number, self.timeouts.step
        label = self.setup.label()  # names the tasks in dashboards, as a fleet computes many runs
        calls = [fleet.server.run.options(name=f"{label}: server").remote(stop, timeout)]
        for actor, role in zip(fleet.workers, fleet.roles[1:], strict=True):
            calls.append(actor.run.options(name=f"{label}: {role}").remote(start, stop, timeout))
        # The actors time each other out; this one is for the case that none of them responds.
        stretch, *spent = fleet.call(calls, self.timeouts.stretch(stop - start) + GRACE_SECONDS, straggling=timeout)
        self._account(stretch.spent, spent)
        return self._taken(stretch)

    def _account(self, of_server: dict[str, float], of_workers: list[dict[str, float]]) -> None:
        """Add the seconds of each phase.

        The server's wait counts as gradient as long as the slowest worker actor computed, and as transfer beyond that.
        """
        waited = of_server.pop("wait", 0.0)
        gradient = min(waited, max(spent.get("gradient", 0.0) for spent in of_workers))
        of_server["gradient"] = gradient
        of_server["transfer"] = of_server.get("transfer", 0.0) + waited - gradient
        for role, spent in zip(self.fleet.roles, [of_server, *of_workers], strict=True):
            for phase, seconds in spent.items():
                self._timings[role, phase] += seconds

    def _taken(self, stretch: Stretch) -> NDArray[np.float64]:
        if stretch.step > self.step_number:
            self.timeouts.learn(stretch.slowest)
        self.step_number = stretch.step
        self.diverged = self.diverged or stretch.diverged
        # A server that is prepared again repeats its warnings.
        self._events += [warning for warning in stretch.warnings if warning not in self._events]
        return stretch.rows

    def _recover(self, loss: ActorLost) -> NDArray[np.float64]:
        """Replace lost actors, and restore all workers to the server's current step.

        Returns:
            the rows of the steps taken since the last stretch.

        Raises:
            StateLost: the server was lost.
            FleetError: actors were lost too often.
        """
        snapshot: Snapshot | None = None
        counted = False
        start, diverged = self.step_number, self.diverged
        while True:
            try:
                self._replace(loss)
                snapshot = snapshot or self._call([self.fleet.server.snapshot.remote()])[0]
                if snapshot is None:
                    if not counted:
                        self._count(loss)
                    raise StateLost("the server was lost, and the state with it")
                step = snapshot.stretch.step
                if not (counted or self._declared(step)):
                    self._count(loss)
                counted = True
                self._prepare(faults_from=max(self._faults_from, step + 1))
                self._restore(snapshot.state, step)
                self.diverged = diverged
                rows = self._taken(snapshot.stretch)
                return rows[rows[:, 0] >= start]
            except ActorLost as another:
                self._count(another)
                counted, loss = True, another

    def _replace(self, loss: ActorLost) -> None:
        self._events.append(f"after step {self.step_number}: {loss}")
        if loss.timed_out:
            self.timeouts.double()
        replaced = self.fleet.reconnect(loss.timed_out, self.timeouts.step)
        self._events += replaced.values()
        self._replaced += replaced

    def _declared(self, step: int) -> bool:
        """Whether the setup declares a crash or a hang at this step that has not happened yet."""
        faults = self.setup.faults
        if faults is None or step < self._faults_from:
            return False
        return not {"crash", "hang"}.isdisjoint(faults.at(step).values())

    def _count(self, loss: ActorLost) -> None:
        self.restarts += 1
        limit = self.fleet.supervision.restarts
        if self.restarts > limit:
            raise FleetError("\n".join([f"actors were lost more than {limit} times", *self._events])) from loss

    def _retrying(self, work: Callable[[], T]) -> T:
        """The result of calls to actors; after a recovery they are repeated."""
        while True:
            try:
                return work()
            except ActorLost as loss:
                self._recover(loss)

    def take_events(self) -> list[str]:
        new = self._events[self._reported :]
        self._reported = len(self._events)
        return new

    def take_timings(self) -> Timings:
        taken, self._timings = dict(self._timings), defaultdict(float)
        return taken

    def take_replaced(self) -> list[str]:
        taken, self._replaced = self._replaced, []
        return taken

    def evaluate(self) -> Accuracies:
        return self._retrying(self._evaluate)

    def _evaluate(self) -> Accuracies:
        buffers = mean_buffers(self._worker_state(), self.setup.honest) if self.setup.model.training else {}
        began = time.monotonic()
        [accuracies] = self.fleet.call([self.fleet.server.evaluate.remote(buffers)], self.timeouts.evaluation)
        self.timeouts.learn_evaluation(time.monotonic() - began)
        return accuracies

    def parameters(self) -> NDArray[np.float32]:
        # A copy: what Ray returns is read-only and occupies the object store.
        return self._retrying(lambda: self._call([self.fleet.server.parameters.remote()])[0].copy())

    def columns(self) -> Sequence[str]:
        return self.fleet.columns

    def _call(self, references: Sequence[Any]) -> list[Any]:
        return self.fleet.call(references, self.timeouts.call)

    def _worker_state(self) -> State:
        parts = self._call([actor.state.remote() for actor in self.fleet.workers])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def state(self) -> State:
        return self._retrying(lambda: {**self._call([self.fleet.server.state.remote()])[0], **self._worker_state()})

    def restore(self, state: State, step: int) -> None:
        def start_there() -> None:
            self._prepare(self._faults_from)
            self._restore(state, step)

        self._begin(start_there)

    def _restore(self, state: State, step: int) -> None:
        of_workers = {name: tensor for name, tensor in state.items() if name.startswith(("worker ", "buffer "))}
        of_server = {name: tensor for name, tensor in state.items() if name not in of_workers}
        calls: list[Any] = [self.fleet.server.restore.remote(of_server, of_workers, step)]
        for actor, workers in zip(self.fleet.workers, self.cohorts, strict=True):
            # Cloned: a slice is pickled with its whole storage.
            own = {name: tensor[workers.start : workers.stop].clone() for name, tensor in of_workers.items()}
            calls.append(actor.restore.remote(own))
        self._call(calls)
        self.step_number = step

    def environment(self) -> Environment:
        return {**self._environment, "actors": self.fleet.locations}


def expect_importable(setup: Setup) -> None:
    """Check that actors can import the user's own classes.

    Raises:
        SetupError: a class is defined in the script that is run, in a notebook, or in a function.
    """
    mistakes = [
        f"{field}: got {option.written()!r}, expected a class in a module, which every actor can import: "
        "move it to a file next to this one"
        for field, options in setup.options().items()
        for option in options
        if option.written().startswith("__main__:") or "<locals>" in option.written()
    ]
    if mistakes:
        raise SetupError(setup.label(), mistakes)


def simulate(
    setup: Setup,
    seed: int | None = None,
    *,
    fleet: Fleet | None = None,
    address: str | None = None,
    output: str | Path | None = None,
    data: str | Path | None = None,
    download: bool = False,
    resume: bool = False,
    checkpoints: CheckpointInterval = CheckpointInterval(),
    supervision: Supervision = Supervision(),
    progress: Progress | None = None,
) -> Result:
    """Run a setup on Ray actors.

    Args:
        setup: the setup.
        seed: replaces the setup's seed.
        fleet: warm actors, over which the workers are spread evenly; by default a fleet is started for this run and
            closed after it.
        address: of a running Ray cluster, see :func:`actors.connect`; not used if the finished run is in `output`.
        supervision: when actors count as lost, and how often they are replaced; a given fleet has its own.
        output, data, download, resume, checkpoints, progress: as in :func:`byzray.simulate`.

    Returns:
        The same as :func:`byzray.simulate`.

    Raises:
        SetupError: actors cannot import a class of the user's.
        actors.FleetError: the cluster has no room, or actors were lost too often.
        Exception: what :func:`byzray.simulate` raises.
    """
    layout = fleet.layout_for(len(setup.trained)) if fleet is not None else setup.actors or Actors()
    setup = setup.changed(actors=layout.model_dump(), seed=setup.seed if seed is None else seed)
    expect_importable(setup)
    own: list[Fleet] = []
    monitors: list[Monitor] = []

    def start() -> FleetSimulation:
        loaded = load_data(setup, data, download)
        connect(address)
        if fleet is None:
            own.append(Fleet.for_setup(setup, supervision))
        monitors.append(Monitor(setup))
        return FleetSimulation(setup, loaded, fleet or own[0])

    files = fingerprints(setup, data_root(data))
    options: dict[str, Any] = {"output": output, "resume": resume, "checkpoints": checkpoints}
    try:
        with shown(setup, progress, depth=1) as show:

            def report(update: Update) -> bool | None:
                for monitor in monitors:  # none if the run was finished before
                    monitor.show(update)
                return show(update)

            return record(setup, start, progress=report, fingerprints=files, **options)
    finally:
        for monitor in monitors:
            monitor.end()
        for started in own:
            started.close()
