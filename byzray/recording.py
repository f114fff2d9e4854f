"""The loop around a run, wherever it computes: advance, evaluate, record, save, report progress."""

import math
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from byzray.checkpoints import Checkpoint
from byzray.cohort import State
from byzray.divergence import Divergence
from byzray.environment import Environment
from byzray.files import StorageFault
from byzray.metrics import METRIC_COLUMNS
from byzray.phases import Timings
from byzray.process_state import own_settings
from byzray.results import EVALUATION_COLUMNS, FAULT_COLUMNS, Result, RunDirectory, RunExists
from byzray.setups import Setup
from byzray.table import Table

# By default a run saves a state to continue from about this often, in seconds ...
CHECKPOINT_SECONDS = 60.0

# ... but not so often that saving takes more than this share of its time.
CHECKPOINT_SHARE = 0.01

# Progress is reported, a request to stop is heard, and tables are written about this often, in seconds.
STRETCH_SECONDS = 1.0

# What became of missing submissions, as the table of faults says it.
SUBMISSIONS = {"recover": "recovered", "zero": "zero vector", "drop": "left out"}


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
        """Take up a state.

        Raises:
            ValueError, LookupError: it is that of another setup.
        """

    def begin_anew(self) -> None:
        """Go back to the initial state."""

    @property
    def diverged(self) -> Divergence | None:
        """Where and why the parameters became non-finite since the start or the last restored state, if they did."""

    def take_events(self) -> list[str]:
        """What happened to the run since the last call that its user should know."""

    def take_timings(self) -> Timings:
        """Where the time went since the last call."""

    def take_replaced(self) -> list[str]:
        """The actors that were lost and replaced since the last call."""

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
        ended: whether this is the last.
        diverged: whether its parameters became non-finite.
        events: what happened since the last update: actors that were lost and replaced, say.
        row: the metrics of the last step, by the names of their columns; empty before the first.
        steps_per_second: of the last stretch of steps; NaN before the first.
        timings: where the time went since the last update.
        replaced: the actors that were lost and replaced since then, by what they are called.
    """

    setup: Setup
    step: int
    loss: float
    accuracy: float
    best: float
    ended: bool = False
    diverged: bool = False
    events: tuple[str, ...] = ()
    row: Mapping[str, float] = field(default_factory=dict)
    steps_per_second: float = math.nan
    timings: Timings = field(default_factory=dict)
    replaced: tuple[str, ...] = ()


# Called after each stretch of steps; a true return value asks the run to stop there, to be continued later.
Progress = Callable[[Update], bool | None]

Updates = Generator[Update, None, Result]


class Interrupted(Exception):
    """The run stopped because it was asked to."""


class StateLost(Exception):
    """The state of a simulation was lost; it can go on from one that is restored."""


@dataclass(frozen=True)
class CheckpointInterval:
    """How often a run saves a state to continue from.

    Attributes:
        steps: every so many steps.
        seconds: about so often; without either, about once a minute, but rarer where saving takes long.
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``100`` (steps) or ``30s`` (seconds).

        Raises:
            ValueError: it is neither.
        """
        number = text.removesuffix("s")
        try:
            interval = cls(seconds=float(number)) if number != text else cls(steps=int(number))
        except ValueError:
            interval = cls(steps=0)
        if not 0 < (interval.seconds or interval.steps or 0) < math.inf:
            raise ValueError("expected a number of steps, such as 100, or of seconds, such as 30s")
        return interval


def record(
    setup: Setup,
    start: Callable[[], Simulation],
    *,
    fingerprints: dict[str, str],
    output: str | Path | None = None,
    resume: bool = False,
    checkpoints: CheckpointInterval = CheckpointInterval(),
    progress: Progress | None = None,
) -> Result:
    """Run a setup to its end, in a directory of its own below `output` if that is given.

    Args:
        setup, start, fingerprints, output, resume, checkpoints: see :func:`recorded`.
        progress: see :data:`Progress`; without it, events are shown as Python's warnings.

    Raises:
        Interrupted: `progress` asked for it.
        Exception: whatever :func:`recorded` raises.
    """
    options: dict[str, Any] = {"output": output, "resume": resume, "checkpoints": checkpoints}
    updates = recorded(setup, start, fingerprints=fingerprints, **options)
    while True:
        try:
            with own_settings():  # not around `progress`, which is the caller's
                update = next(updates)
        except StopIteration as end:
            return end.value
        if progress is None:
            for event in update.events:
                warnings.warn(event, stacklevel=3)  # where the user called simulate
        try:
            stop = progress is not None and progress(update)
        except BaseException as error:
            updates.throw(error)  # so that the run's status tells of it
        if stop and not update.ended:
            interrupt(updates, update)


def interrupt(updates: Updates, last: Update) -> None:
    """Stop a run that :func:`recorded` computes: its state is saved, to be continued later.

    Raises:
        Interrupted: always.
    """
    with own_settings():
        updates.throw(Interrupted(f"stopped at step {last.step} of {last.setup.steps}"))


def recorded(
    setup: Setup,
    start: Callable[[], Simulation],
    *,
    fingerprints: dict[str, str],
    output: str | Path | None = None,
    resume: bool = False,
    checkpoints: CheckpointInterval = CheckpointInterval(),
    figure: bool = True,
) -> Updates:
    """Run a setup stretch by stretch: a generator that yields after each, and returns the result.

    Args:
        setup: the resolved setup.
        start: makes the simulation ready; not called if a finished run lies in the directory.
        fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.
        output: the folder in which the run gets a directory of its own; none: nothing is written.
        resume: whether to continue a run that was interrupted.
        checkpoints: how often to save a state to continue from.
        figure: whether the directory gets the figure of the run; if it cannot be drawn, the last update says so.

    Raises:
        byzray.results.RunExists: the directory holds an interrupted run and `resume` is False, or is damaged.
        byzray.files.StorageFault: something cannot be written.
        Interrupted: it was thrown in, see :func:`interrupt`.
    """
    if output is None:
        return (yield from _Recording(start(), None, checkpoints).run())
    with RunDirectory(Path(output), setup) as directory:
        result = directory.examine(resume, fingerprints)
        if result is None:
            simulation = start()
            directory.begin({**simulation.environment(), "files": fingerprints})
            result = yield from _Recording(simulation, directory, checkpoints).run()
            directory.finish(result)
        # From here on nothing decides over the run.
        if figure and (problem := directory.draw(result)) is not None:
            yield _last_update(result, problem)
        return result


def _last_update(result: Result, event: str) -> Update:
    """What happened after the end of a run."""
    rows = result.metrics[-1:].to_dict("records")
    row = {str(name): float(value) for one in rows for name, value in one.items()}
    accuracies = result.evaluations["accuracy"]
    return Update(
        setup=result.setup,
        step=len(result.metrics),
        loss=row.get("Average loss", math.nan),
        accuracy=float(accuracies.iloc[-1]) if len(accuracies) else math.nan,
        best=result.best_accuracy,
        ended=True,
        diverged=result.diverged is not None,
        events=(event,),
        row=row,
    )


class _Recording:
    def __init__(self, simulation: Simulation, directory: RunDirectory | None, checkpoints: CheckpointInterval) -> None:
        self.simulation = simulation
        self.directory = directory
        self.interval = checkpoints
        self.tables = self._make_tables()
        self.metrics, self.evaluations = self.tables["metrics.csv"], self.tables["evaluations.csv"]
        self.faults = self.tables.get("faults.csv")
        self.pace = 0.0  # seconds a step, of the last stretch
        self.flushed = time.monotonic()
        self.saved = self.flushed  # when a checkpoint was saved
        self.saved_step = 0  # of the newest checkpoint
        self.cost = 0.0  # seconds that the last checkpoint took
        self.seconds = 0.0
        self.events: list[str] = []
        self.diverged: Divergence | None = None
        self.row: dict[str, float] = {}
        self.accuracy = self.best = math.nan

    def _make_tables(self) -> dict[str, Table]:
        columns = {"metrics.csv": self.simulation.columns(), "evaluations.csv": EVALUATION_COLUMNS}
        if self.simulation.setup.faults is not None:
            columns["faults.csv"] = FAULT_COLUMNS
        folder = None if self.directory is None else self.directory.path
        return {name: Table(names, folder and folder / name) for name, names in columns.items()}

    def _go_back(self, lost: bool = False) -> None:
        """Go on from the newest checkpoint that can be used, or from the start; `lost`: the simulation has no state."""
        self.ready = False  # until then the files hold more than the tables
        found = None if self.directory is None else self.directory.continued(self.tables, self._restore)
        if found is not None:
            checkpoint, kept = found
            self.saved_step = checkpoint.step
            self.seconds = max(self.seconds, kept.seconds)
            self.diverged = None if kept.diverged is None else Divergence(*kept.diverged)
        elif lost:
            self.simulation.begin_anew()
            self.saved_step = 0
            self.diverged = None
            for table in self.tables.values():
                table.clear()
        rows = self.metrics.frame()[-1:] if self.simulation.step_number else self.metrics.frame()[:0]
        self.row = {str(name): float(value) for row in rows.to_dict("records") for name, value in row.items()}
        accuracies = self.evaluations.frame()["accuracy"]
        self.accuracy = float(accuracies.iloc[-1]) if len(accuracies) else math.nan
        self.best = float(accuracies.max())
        self._log(f"goes on from step {self.simulation.step_number}" if found else "begins")
        self.ready = True
        self._flush()

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.simulation.restore(checkpoint.state, checkpoint.step)

    def run(self) -> Updates:
        try:
            self._go_back()
            self._set_status("running")
            parameters = yield from self._supervised_stretches()
            self._flush(durably=True)
        except Interrupted:
            self._save_interrupted()
            raise
        except (GeneratorExit, SystemExit, RunExists):  # what is on disk is enough to go on, or stays as it is
            raise
        except BaseException as error:
            self._fail(error)
            raise
        return Result(
            setup=self.simulation.setup,
            metrics=self.metrics.frame(),
            evaluations=self.evaluations.frame(),
            parameters=parameters,
            directory=None if self.directory is None else self.directory.path,
            faults=None if self.faults is None else self.faults.frame(),
            diverged=self.diverged,
            seconds=self.seconds,
        )

    def _save_interrupted(self) -> None:
        try:
            self._save("interrupted")
        except StateLost as loss:  # there is the last checkpoint
            self._log(str(loss))
            self._flush(durably=True)
            self._set_status("interrupted")
        except BaseException as error:
            self._fail(error)
            raise
        self._log(f"interrupted at step {self.simulation.step_number}")

    def _fail(self, error: BaseException) -> None:
        """Record why. The state may be that of half a step, so the last checkpoint stays as it is."""
        self._log_events()
        self._log("".join(traceback.format_exception(error)).rstrip())
        with suppress(StorageFault):  # a full disk must not hide the error
            if self.ready:
                self._flush()
            self._set_status("failed", f"{type(error).__name__}: {error}")

    def _supervised_stretches(self) -> Generator[Update, None, NDArray[np.float32]]:
        """All stretches, and the parameters after them, whatever is lost on the way."""
        while True:
            try:
                yield from self._stretches()
                return self.simulation.parameters()
            except StateLost as loss:
                self._log_events()
                self._log(str(loss))
                self._go_back(lost=True)

    def _stretches(self) -> Iterator[Update]:
        simulation, setup = self.simulation, self.simulation.setup
        while True:
            began = time.monotonic()
            step = simulation.step_number
            ended = step == setup.steps or (self.diverged is not None and setup.divergence == "stop")
            due = setup.evaluation_interval and step % setup.evaluation_interval == 0
            # It may have been measured before the run was interrupted here.
            if (ended or due) and self.evaluations.last_step() != step:
                self._evaluate(step)
            self.seconds += time.monotonic() - began
            self._save_if_due()
            yield self._update(step, ended)
            if ended:
                return
            began = time.monotonic()
            rows = simulation.advance(self._next_stop(step))
            took = time.monotonic() - began
            self.pace = took / len(rows)
            self.seconds += took
            self._extend(step, rows)

    def _update(self, step: int, ended: bool) -> Update:
        self._log_events()
        events, self.events = tuple(self.events), []
        return Update(
            setup=self.simulation.setup,
            step=step,
            loss=self.row.get("Average loss", math.nan),
            accuracy=self.accuracy,
            best=self.best,
            ended=ended,
            diverged=self.diverged is not None,
            events=events,
            row=self.row,
            steps_per_second=1 / self.pace if self.pace else math.nan,
            timings=self.simulation.take_timings(),
            replaced=tuple(self.simulation.take_replaced()),
        )

    def _evaluate(self, step: int) -> None:
        self.accuracy = self.simulation.evaluate()
        self.best = self.accuracy if not self.accuracy <= self.best else self.best
        self.evaluations.extend(pd.DataFrame([(step, self.accuracy)], columns=self.evaluations.columns))

    def _next_stop(self, step: int) -> int:
        """The next evaluation or checkpoint, or earlier: after about a second of steps.

        Where a stretch ends shapes no result.
        """
        setup = self.simulation.setup
        stretch = 1 if not self.pace else max(1, int(STRETCH_SECONDS / self.pace))
        ends = [
            (step // interval + 1) * interval
            for interval in (setup.evaluation_interval, self.interval.steps)
            if interval
        ]
        return min(step + stretch, setup.steps, *ends)

    def _extend(self, step: int, rows: NDArray[np.float64]) -> None:
        self.row = dict(zip(self.metrics.columns, rows[-1].tolist(), strict=True))
        columns = dict(zip(self.metrics.columns, rows.T, strict=True))
        counts = {name: columns[name].astype(np.int64) for name in METRIC_COLUMNS[:2]}
        self.metrics.extend(pd.DataFrame({**columns, **counts}))
        self._tell_faults(range(step, step + len(rows)))
        if self.diverged is None and self.simulation.diverged is not None:
            self.diverged = self.simulation.diverged
            self._log(f"diverged at step {self.diverged.step}: {self.diverged.reason}")
        if time.monotonic() - self.flushed > STRETCH_SECONDS:
            self._flush()

    def _tell_faults(self, steps: range) -> None:
        faults = self.simulation.setup.faults
        if faults is None or self.faults is None:
            return
        became = SUBMISSIONS[faults.missing]
        rows = [(step, worker, kind, became) for step in steps for worker, kind in faults.at(step).items()]
        if rows:
            self.faults.extend(pd.DataFrame(rows, columns=list(FAULT_COLUMNS)))

    def _flush(self, durably: bool = False) -> None:
        for table in self.tables.values():
            table.flush(durably)
        self.flushed = time.monotonic()

    def _save_if_due(self) -> None:
        if self.interval.steps is not None:
            due = self.simulation.step_number % self.interval.steps == 0
        else:
            wait = self.interval.seconds or max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE)
            due = time.monotonic() - self.saved > wait
        if due:
            self._save("running")

    def _save(self, state: str) -> None:
        """Save a checkpoint, unless there is one of this step."""
        if self.directory is None:
            return
        step = self.simulation.step_number
        began = time.monotonic()
        self._flush(durably=True)  # a checkpoint needs all rows before it
        if step > self.saved_step:
            record = {
                "files": {name: table.position() for name, table in self.tables.items()},
                "seconds": self.seconds,
                "diverged": self.diverged,
            }
            self.directory.checkpoints.save(Checkpoint(step, self.simulation.state(), record))
            self.saved, self.saved_step = time.monotonic(), step
            self.cost = self.saved - began
        self._set_status(state)

    def _set_status(self, state: str, reason: str | None = None) -> None:
        if self.directory is not None:
            more: dict[str, Any] = {"reason": reason, "seconds": self.seconds, "diverged": self.diverged}
            if state == "interrupted":  # a scheduler may call it stopped, and then it counts
                more["files"] = self.directory.digests()
            self.directory.set_status(state, self.simulation.step_number, **more)

    def _log_events(self) -> None:
        """Log what happened, and keep it for the next update."""
        for event in self.simulation.take_events():
            self.events.append(event)
            self._log(event)

    def _log(self, text: str) -> None:
        if self.directory is not None:
            self.directory.log(text)
