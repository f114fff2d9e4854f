"""The loop around a run, wherever it computes: advance, evaluate, record, save, report progress."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from byzray.environment import Environment
from byzray.metrics import METRIC_COLUMNS
from byzray.results import EVALUATION_COLUMNS, Result, RunDirectory, Table
from byzray.setups import Setup

# How often a run saves the state to continue from, in seconds.
CHECKPOINT_SECONDS = 60.0

# Progress is reported, and a request to stop is heard, about this often, in seconds.
STRETCH_SECONDS = 1.0

State = dict[str, Tensor]


class Simulation(Protocol):
    """A run that can be advanced: in this process, or on a fleet of actors."""

    setup: Setup

    @property
    def step_number(self) -> int:
        """How many steps have been taken."""

    def advance(self, stop: int) -> NDArray[np.float64]:
        """Take the steps up to `stop`, exclusive; returns their rows of metrics."""

    def evaluate(self) -> float:
        """The accuracy at this step."""

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,) at this step."""

    def columns(self) -> Sequence[str]:
        """The names of the columns of the rows."""

    def state(self) -> State:
        """All that the next step depends on."""

    def restore(self, state: State, step: int) -> None:
        """Take up a state."""

    def environment(self) -> Environment:
        """Where it runs."""


@dataclass(frozen=True)
class Update:
    """How far a run is.

    Attributes:
        setup: which run it is.
        step: the number of steps taken.
        loss: the average loss of the last step; NaN before the first.
        accuracy: the last one measured.
    """

    setup: Setup
    step: int
    loss: float
    accuracy: float


# Called after each stretch of steps; a true return value asks the run to stop there, to be continued later.
Progress = Callable[[Update], bool | None]


class Interrupted(Exception):
    """The run stopped because it was asked to."""


def record(
    setup: Setup,
    start: Callable[[], Simulation],
    *,
    fingerprints: dict[str, str],
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Run a setup, in a directory of its own below `output` if that is given.

    Args:
        setup: the resolved setup.
        start: makes the simulation ready; not called if a finished run lies in the directory.
        fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.
        output: the folder for run directories.
        resume: whether to continue a run that was interrupted.
        progress: see :data:`Progress`.

    Raises:
        byzray.results.RunExists: the directory holds an interrupted run and `resume` is False.
        Interrupted: `progress` asked for it.
    """
    if output is None:
        return _Recording(start(), None, fingerprints, progress).run()
    with RunDirectory(Path(output), setup) as directory:
        known = directory.examine(resume, fingerprints)
        if known is not None:
            return known
        return _Recording(start(), directory, fingerprints, progress).run()


class _Recording:
    def __init__(
        self,
        simulation: Simulation,
        directory: RunDirectory | None,
        fingerprints: dict[str, str],
        progress: Progress | None,
    ) -> None:
        self.simulation = simulation
        self.directory = directory
        self.progress = progress
        self.loss = self.accuracy = float("nan")
        self.pace = 0.0  # seconds a step, of the last stretch
        self.saved = time.monotonic()
        if directory is None:
            self.metrics, self.evaluations = Table(simulation.columns()), Table(EVALUATION_COLUMNS)
            return
        directory.begin({**simulation.environment(), "files": fingerprints})
        checkpoint = directory.checkpoint()
        if checkpoint is not None:
            simulation.restore(*checkpoint)
        self.metrics, self.evaluations = directory.tables(simulation.columns(), simulation.step_number)
        directory.set_status("running", simulation.step_number)

    def run(self) -> Result:
        try:
            self._loop()
        except Interrupted:
            self._save("interrupted")
            raise
        except BaseException as error:
            if self.directory is not None:
                # The state may be that of half a step, so the last checkpoint stays as it is.
                self.directory.set_status("failed", self.simulation.step_number, f"{type(error).__name__}: {error}")
            raise
        result = Result(
            setup=self.simulation.setup,
            metrics=self.metrics.frame(),
            evaluations=self.evaluations.frame(),
            parameters=self.simulation.parameters(),
            directory=None if self.directory is None else self.directory.path,
        )
        if self.directory is not None:
            self.directory.finish(result)
        return result

    def _loop(self) -> None:
        simulation, setup = self.simulation, self.simulation.setup
        while True:
            step = simulation.step_number
            if step == setup.steps or (setup.evaluation_interval and step % setup.evaluation_interval == 0):
                self.accuracy = simulation.evaluate()
                self.evaluations.extend(pd.DataFrame([(step, self.accuracy)], columns=self.evaluations.columns))
            self._report()
            if step == setup.steps:
                return
            began = time.monotonic()
            rows = simulation.advance(self._next_stop(step))
            self.pace = (time.monotonic() - began) / len(rows)
            self._extend(rows)

    def _next_stop(self, step: int) -> int:
        """The next evaluation, or earlier: after about a second of steps. Where a stretch ends shapes no result."""
        setup = self.simulation.setup
        interval = setup.evaluation_interval or setup.steps
        evaluation = (step // interval + 1) * interval
        stretch = 1 if not self.pace else max(1, int(STRETCH_SECONDS / self.pace))
        return min(step + stretch, evaluation, setup.steps)

    def _extend(self, rows: NDArray[np.float64]) -> None:
        self.loss = float(rows[-1, 2])
        frame = pd.DataFrame(rows, columns=self.metrics.columns)
        self.metrics.extend(frame.astype(dict.fromkeys(METRIC_COLUMNS[:2], "int64")))
        if self.directory is not None and time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self._save("running")

    def _report(self) -> None:
        update = Update(self.simulation.setup, self.simulation.step_number, self.loss, self.accuracy)
        if self.progress is not None and self.progress(update) and update.step < update.setup.steps:
            raise Interrupted(f"stopped at step {update.step} of {update.setup.steps}")

    def _save(self, state: str) -> None:
        if self.directory is None:
            return
        step = self.simulation.step_number
        self.directory.save_checkpoint(self.simulation.state(), step)
        self.directory.set_status(state, step)
        self.saved = time.monotonic()
