"""A run on a fleet of actors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import ObjectRef
from torch import Tensor

from actors.cluster import connect
from actors.fleet import Fleet
from byzray.datasets import Data
from byzray.environment import Environment, fingerprints
from byzray.recording import Progress, State, record
from byzray.results import Result
from byzray.setups import Actors, Setup
from byzray.simulation import data_root, load_data, mean_buffers


class FleetSimulation:
    """A run on a fleet.

    Args:
        setup: the setup.
        data: its data set, put into Ray's object store here: once per node, whatever the number of actors; or a
            reference to it there.
        fleet: actors that no other run uses at the same time.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.
    """

    def __init__(self, setup: Setup, data: Data | ObjectRef, fleet: Fleet, parameters: Tensor | None = None) -> None:
        self.setup = setup
        self.fleet = fleet
        self.step_number = 0
        self._data = data if isinstance(data, ObjectRef) else ray.put(data)
        self.cohorts = fleet.prepare(setup, self._data, parameters)

    def advance(self, stop: int) -> NDArray[np.float64]:
        fleet = self.fleet
        calls = [fleet.server.run.remote(stop), *(actor.run.remote(self.step_number, stop) for actor in fleet.workers)]
        rows = fleet.call(calls)[0]
        self.step_number = stop
        return rows

    def evaluate(self) -> float:
        buffers = mean_buffers(self._worker_state()) if self.setup.model.training else {}
        return self.fleet.call([self.fleet.server.evaluate.remote(buffers)])[0]

    def parameters(self) -> NDArray[np.float32]:
        # A copy, as what Ray returns is read-only and keeps its place in the object store.
        return self.fleet.call([self.fleet.server.parameters.remote()])[0].copy()

    def columns(self) -> Sequence[str]:
        return self.fleet.columns

    def _worker_state(self) -> State:
        parts = self.fleet.call([actor.state.remote() for actor in self.fleet.workers])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def state(self) -> State:
        return {**self.fleet.call([self.fleet.server.state.remote()])[0], **self._worker_state()}

    def restore(self, state: State, step: int) -> None:
        of_workers = {name for name in state if name.startswith(("worker ", "buffer "))}
        of_server = {name: tensor for name, tensor in state.items() if name not in of_workers}
        calls: list[Any] = [self.fleet.server.restore.remote(of_server, step)]
        for actor, workers in zip(self.fleet.workers, self.cohorts, strict=True):
            # Cloned, as a slice of a tensor is pickled with all that it is a slice of.
            own = {name: state[name][workers.start : workers.stop].clone() for name in of_workers}
            calls.append(actor.restore.remote(own))
        self.fleet.call(calls)
        self.step_number = step

    def environment(self) -> Environment:
        found = self.fleet.call([self.fleet.server.environment.remote()])[0]
        return {**found, "actors": self.fleet.places}


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
    progress: Progress | None = None,
) -> Result:
    """Run a setup on Ray actors.

    Args:
        setup: the setup.
        seed: replaces the setup's seed.
        fleet: warm actors to use, on which the workers are spread evenly; by default a fleet is started for this run,
            and ended after it.
        address: of a running Ray cluster, see :func:`actors.connect`; none is started if the run is already there.
        output, data, download, resume, progress: as in :func:`byzray.simulate`.

    Returns:
        The same as :func:`byzray.simulate`.

    Raises:
        actors.FleetError: the cluster has no room, or an actor was lost.
        Exception: whatever :func:`byzray.simulate` raises.
    """
    layout = fleet.layout_for(setup.honest) if fleet is not None else setup.actors or Actors()
    setup = setup.changed(actors=layout.model_dump(), seed=setup.seed if seed is None else seed)
    own: list[Fleet] = []

    def start() -> FleetSimulation:
        loaded = load_data(setup, data, download)
        connect(address)
        if fleet is None:
            own.append(Fleet.for_setup(setup))
        return FleetSimulation(setup, loaded, fleet or own[0])

    try:
        files = fingerprints(setup, data_root(data))
        return record(setup, start, fingerprints=files, output=output, resume=resume, progress=progress)
    finally:
        for started in own:
            started.close()
