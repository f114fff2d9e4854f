"""The loop around a run, wherever it computes: advance, evaluate, record, save, report progress."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
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

# Progress is reported, a request to stop is heard, and tables are written about this often, in seconds.
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
        accuracy: the last one measured; NaN before the first.
        best: the highest one measured.
    """

    setup: Setup
    step: int
    loss: float
    accuracy: float
    best: float


# Called after each stretch of steps; a true return value asks the run to stop there, to be continued later.
Progress = Callable[[Update], bool | None]

Updates = Generator[Update, None, Result]


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
    """Run a setup to its end, in a directory of its own below `output` if that is given.

    Args:
        setup, start, fingerprints, output, resume: see :func:`recorded`.
        progress: see :data:`Progress`.

    Raises:
        Interrupted: `progress` asked for it.
        Exception: whatever :func:`recorded` raises.
    """
    updates = recorded(setup, start, fingerprints=fingerprints, output=output, resume=resume)
    while True:
        try:
            update = next(updates)
        except StopIteration as end:
            return end.value
        try:
            stop = progress is not None and progress(update)
        except BaseException as error:
            updates.throw(error)  # so that the run's status tells of it
        if stop and update.step < setup.steps:
            interrupt(updates, update)


def interrupt(updates: Updates, last: Update) -> None:
    """Stop a run that :func:`recorded` computes: its state is saved, to be continued later.

    Raises:
        Interrupted: always.
    """
    updates.throw(Interrupted(f"stopped at step {last.step} of {last.setup.steps}"))


def recorded(
    setup: Setup,
    start: Callable[[], Simulation],
    *,
    fingerprints: dict[str, str],
    output: str | Path | None = None,
    resume: bool = False,
    figure: bool = True,
) -> Updates:
    """Run a setup stretch by stretch: a generator that yields after each, and returns the result.

    Args:
        setup: the resolved setup.
        start: makes the simulation ready; not called if a finished run lies in the directory.
        fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.
        output: the folder in which the run gets a directory of its own; none: nothing is written.
        resume: whether to continue a run that was interrupted.
        figure: whether the directory gets the figure of the run.

    Raises:
        byzray.results.RunExists: the directory holds an interrupted run and `resume` is False.
        Interrupted: it was thrown in, see :func:`interrupt`.
    """
    if output is None:
        return (yield from _Recording(start(), None, fingerprints).run())
    with RunDirectory(Path(output), setup) as directory:
        known = directory.examine(resume, fingerprints)
        if known is not None:
            return known
        result = yield from _Recording(start(), directory, fingerprints).run()
        directory.finish(result, figure)
        return result


class _Recording:
    def __init__(self, simulation: Simulation, directory: RunDirectory | None, fingerprints: dict[str, str]) -> None:
        self.simulation = simulation
        self.directory = directory
        self.loss = self.accuracy = self.best = float("nan")
        self.pace = 0.0  # seconds a step, of the last stretch
        self.saved = self.flushed = time.monotonic()
        self.seconds = 0.0
        if directory is None:
            self.metrics, self.evaluations = Table(simulation.columns()), Table(EVALUATION_COLUMNS)
            return
        earlier = directory.status
        directory.begin({**simulation.environment(), "files": fingerprints})
        checkpoint = directory.checkpoint()
        if checkpoint is not None:
            simulation.restore(*checkpoint)
            self.seconds = earlier.get("seconds", 0.0)
        self.metrics, self.evaluations = directory.tables(simulation.columns(), simulation.step_number)
        self.best = float(self.evaluations.frame()["accuracy"].max())
        self._set_status("running")

    def run(self) -> Updates:
        try:
            yield from self._stretches()
        except Interrupted:
            self._save("interrupted")
            raise
        except (GeneratorExit, SystemExit):  # the process ends; what is on disk is enough to go on
            raise
        except BaseException as error:
            # The state may be that of half a step, so the last checkpoint stays as it is.
            with suppress(OSError):  # a full disk must not hide the error
                self._flush()
            self._set_status("failed", f"{type(error).__name__}: {error}")
            raise
        self._flush()
        return Result(
            setup=self.simulation.setup,
            metrics=self.metrics.frame(),
            evaluations=self.evaluations.frame(),
            parameters=self.simulation.parameters(),
            directory=None if self.directory is None else self.directory.path,
            seconds=self.seconds,
        )

    def _stretches(self) -> Iterator[Update]:
        simulation, setup = self.simulation, self.simulation.setup
        while True:
            began = time.monotonic()
            step = simulation.step_number
            if step == setup.steps or (setup.evaluation_interval and step % setup.evaluation_interval == 0):
                self._evaluate(step)
            self.seconds += time.monotonic() - began
            yield Update(setup, step, self.loss, self.accuracy, self.best)
            if step == setup.steps:
                return
            began = time.monotonic()
            rows = simulation.advance(self._next_stop(step))
            took = time.monotonic() - began
            self.pace = took / len(rows)
            self.seconds += took
            self._extend(rows)

    def _evaluate(self, step: int) -> None:
        self.accuracy = self.simulation.evaluate()
        self.best = self.accuracy if not self.accuracy <= self.best else self.best
        self.evaluations.extend(pd.DataFrame([(step, self.accuracy)], columns=self.evaluations.columns))

    def _next_stop(self, step: int) -> int:
        """The next evaluation, or earlier: after about a second of steps. Where a stretch ends shapes no result."""
        setup = self.simulation.setup
        interval = setup.evaluation_interval or setup.steps
        evaluation = (step // interval + 1) * interval
        stretch = 1 if not self.pace else max(1, int(STRETCH_SECONDS / self.pace))
        return min(step + stretch, evaluation, setup.steps)

    def _extend(self, rows: NDArray[np.float64]) -> None:
        self.loss = float(rows[-1, 2])
        columns = dict(zip(self.metrics.columns, rows.T, strict=True))
        counts = {name: columns[name].astype(np.int64) for name in METRIC_COLUMNS[:2]}
        self.metrics.extend(pd.DataFrame({**columns, **counts}))
        now = time.monotonic()
        if now - self.flushed > STRETCH_SECONDS:
            self._flush()
        if self.directory is not None and now - self.saved > CHECKPOINT_SECONDS:
            self._save("running")

    def _flush(self) -> None:
        self.metrics.flush()
        self.evaluations.flush()
        self.flushed = time.monotonic()

    def _save(self, state: str) -> None:
        if self.directory is None:
            return
        self._flush()  # a checkpoint needs all rows before it
        self.directory.save_checkpoint(self.simulation.state(), self.simulation.step_number)
        self._set_status(state)
        self.saved = time.monotonic()

    def _set_status(self, state: str, reason: str | None = None) -> None:
        if self.directory is not None:
            self.directory.set_status(state, self.simulation.step_number, reason, self.seconds)
