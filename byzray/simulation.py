"""A run in this process: one cohort of all workers, one server, a loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from byzray.cohort import Cohort
from byzray.data import data_root, load_data
from byzray.datasets import Data
from byzray.devices import keep_freed_memory, pick_device
from byzray.divergence import Divergence
from byzray.environment import Environment, environment, fingerprints
from byzray.evaluation import Accuracies
from byzray.graphs import StepGraphs, captures, plain_step
from byzray.recording.loop import record
from byzray.recording.progress import shown
from byzray.recording.simulation import Simulation
from byzray.recording.update import Progress
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.result import Result
from byzray.server import Server
from byzray.setups import Setup
from byzray.state import State
from byzray.timings import Timings


class LocalSimulation:
    """A run in this process.

    Args:
        setup: the setup.
        data: its data set.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.
    """

    def __init__(self, setup: Setup, data: Data, parameters: Tensor | None = None) -> None:
        keep_freed_memory()
        self.setup = setup
        self.device = pick_device(setup.device)
        self._data = data
        self._initial_D = parameters
        self.begin_anew()

    def begin_anew(self) -> None:
        self.server = Server(self.setup, self._data, self.device, self._initial_D)
        self.cohort = Cohort(self.setup, self.setup.trained, self._data, self.device)
        if self.device.type == "cpu":  # a GPU takes no time to speak of for the copy
            self.cohort.momentum.keep_in(self.server.trained_TD)
        self._step = StepGraphs(self.cohort, self.server).step if captures(self.cohort) else self._plain_step

    @property
    def step_number(self) -> int:
        return self.server.step_number

    def advance(self, stop: int) -> NDArray[np.float64]:
        while self.server.step_number < stop and not self.server.study.halted:
            self._step()
        return self.server.take_rows()

    def _plain_step(self) -> None:
        self.server.keep(plain_step(self.cohort, self.server))

    def evaluate(self) -> Accuracies:
        return self.server.evaluate(mean_buffers(self.cohort.state(), self.setup.honest))

    def parameters(self) -> NDArray[np.float32]:
        return self.server.theta_D.cpu().numpy().copy()

    def columns(self) -> Sequence[str]:
        return self.server.columns()

    def state(self) -> State:
        return {**self.server.state(), **self.cohort.state()}

    def restore(self, state: State, step: int) -> None:
        self.server.restore(state, step)
        self.cohort.restore(state)

    @property
    def diverged(self) -> Divergence | None:
        return self.server.study.diverged

    def take_events(self) -> list[str]:
        return self.server.take_warnings()

    def take_timings(self) -> Timings:
        of_server, of_cohort = self.server.watch.take(), self.cohort.watch.take()
        both = of_server.keys() | of_cohort.keys()
        return {("run", phase): of_server.get(phase, 0.0) + of_cohort.get(phase, 0.0) for phase in both}

    def take_replaced(self) -> list[str]:
        return []

    def environment(self) -> Environment:
        return environment(self.device)


def mean_buffers(state: State, honest: int) -> dict[str, Tensor]:
    """BatchNorm's statistics for an evaluation: the mean of those of the honest workers, who come first. Empty where
    workers keep none."""
    prefix = "buffer "
    return {
        name.removeprefix(prefix): stacked[:honest].double().mean(dim=0).to(stacked.dtype)
        for name, stacked in state.items()
        if name.startswith(prefix)
    }


def simulate(
    setup: Setup,
    seed: int | None = None,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    download: bool = False,
    resume: bool = False,
    checkpoints: CheckpointInterval = CheckpointInterval(),
    progress: Progress | None = None,
) -> Result:
    """Run a setup in this process.

    It computes with PyTorch's settings of its own, see :func:`byzray.process_state.own_settings`.

    Args:
        setup: the setup; its layout on actors is ignored.
        seed: replaces the setup's seed.
        output: a folder in which to make the run's directory; none: nothing is written.
        data: the folder that holds data sets, see :func:`byzray.data.data_root`.
        download: whether a missing data set may be downloaded.
        resume: whether to continue an interrupted run that lies in `output`.
        checkpoints: how often to save a state to continue from.
        progress: called after each stretch of steps; if it returns true, the run stops. By default a bar is shown on a
            terminal and in a notebook; events, such as a rule with unseeded random draws, are Python's warnings.

    Returns:
        metrics, evaluations and final parameters.

    Raises:
        SetupError: the setup cannot run here, or does not fit the data.
        byzray.datasets.MissingData: the data set is not there.
        RunExists: the run's directory holds an interrupted run, and `resume` is False, or is damaged.
        byzray.files.StorageFault: something cannot be written.
        byzray.mistakes.Interrupted: `progress` asked for a stop.
    """
    setup = setup.changed(actors=None, seed=setup.seed if seed is None else seed)

    def start() -> Simulation:
        return LocalSimulation(setup, load_data(setup, data, download))

    files = fingerprints(setup, data_root(data))
    options: dict[str, Any] = {"output": output, "resume": resume, "checkpoints": checkpoints}
    with shown(setup, progress) as show:
        return record(setup, start, progress=show, fingerprints=files, **options)
