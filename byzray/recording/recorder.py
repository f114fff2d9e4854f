"""Recorder: tables, checkpoints, status and log of one run."""

import math
import time
import traceback
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from byzray.divergence import Divergence
from byzray.evaluation import Accuracies, accuracy_columns
from byzray.files import StorageFault
from byzray.metrics import METRIC_COLUMNS
from byzray.recording.simulation import Simulation, StateLost
from byzray.recording.update import Update
from byzray.runs.checkpoints import Checkpoint, CheckpointInterval
from byzray.runs.directory import RunDirectory
from byzray.runs.result import FAULT_COLUMNS, Result
from byzray.runs.status import State
from byzray.runs.table import Table

# The interval at which tables are written, in seconds.
FLUSH_SECONDS = 1.0

# What replaced missing submissions, in the words of the table of faults.
SUBMISSIONS = {"recover": "recovered", "zero": "zero vector", "drop": "left out"}


class Recorder:
    """Records the results of a run in memory and, if it has a directory, on disk.

    Args:
        simulation: the run.
        directory: none: nothing is written.
        interval: how often to save a checkpoint.

    Attributes:
        diverged: where and why the parameters became non-finite, if they did.
        seconds: how long steps and evaluations took.
    """

    def __init__(self, simulation: Simulation, directory: RunDirectory | None, interval: CheckpointInterval) -> None:
        self.simulation = simulation
        self.setup = simulation.setup
        self.directory = directory
        self.interval = interval
        self.tables = self._make_tables()
        self.metrics, self.evaluations = self.tables["metrics.csv"], self.tables["evaluations.csv"]
        self.faults = self.tables.get("faults.csv")
        self.diverged: Divergence | None = None
        self.seconds = 0.0
        self._pace = 0.0  # seconds a step, of the last stretch
        self._flushed = self._saved = time.monotonic()
        self._saved_step = 0  # of the newest checkpoint
        self._cost = 0.0  # seconds that the last checkpoint took
        self._events: list[str] = []
        self._row: dict[str, float] = {}
        self._accuracy = self._best = math.nan
        self._complete = False  # whether the tables hold what the files do

    def _make_tables(self) -> dict[str, Table]:
        columns = {
            "metrics.csv": self.simulation.columns(),
            "evaluations.csv": ("step", *accuracy_columns(self.setup)),
        }
        if self.setup.faults is not None:
            columns["faults.csv"] = FAULT_COLUMNS
        folder = None if self.directory is None else self.directory.path
        return {name: Table(names, folder and folder / name) for name, names in columns.items()}

    def go_back(self, lost: bool = False) -> None:
        """Continue from the newest usable checkpoint, or from the start.

        Args:
            lost: whether the simulation has lost its state.
        """
        self._complete = False
        found = None if self.directory is None else self.directory.continued(self.tables, self._restore)
        if found is not None:
            checkpoint, kept = found
            self._saved_step = checkpoint.step
            self.seconds = max(self.seconds, kept.seconds)
            self.diverged = None if kept.diverged is None else Divergence(*kept.diverged)
        elif lost:
            self.simulation.begin_anew()
            self._saved_step = 0
            self.diverged = None
            for table in self.tables.values():
                table.clear()
        rows = self.metrics.frame()[-1:] if self.simulation.step_number else self.metrics.frame()[:0]
        self._row = {str(name): float(value) for row in rows.to_dict("records") for name, value in row.items()}
        accuracies = self.evaluations.frame()["accuracy"]
        self._accuracy = float(accuracies.iloc[-1]) if len(accuracies) else math.nan
        self._best = float(accuracies.max())
        self._log(f"continues from step {self.simulation.step_number}" if found else "begins")
        self._complete = True
        self.flush()
        self.set_status("running")

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.simulation.restore(checkpoint.state, checkpoint.step)

    def add_steps(self, step: int, rows: NDArray[np.float64], seconds: float) -> None:
        """Record the rows of metrics of steps from `step` on, which took so many seconds."""
        self.seconds += seconds
        self._pace = seconds / len(rows)
        self._row = dict(zip(self.metrics.columns, rows[-1].tolist(), strict=True))
        columns = dict(zip(self.metrics.columns, rows.T, strict=True))
        counts = {name: columns[name].astype(np.int64) for name in METRIC_COLUMNS[:2]}
        self.metrics.extend(pd.DataFrame({**columns, **counts}))
        self._add_faults(range(step, step + len(rows)))
        if self.diverged is None and self.simulation.diverged is not None:
            self.diverged = self.simulation.diverged
            self._log(f"diverged at step {self.diverged.step}: {self.diverged.reason}")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _add_faults(self, steps: range) -> None:
        faults = self.setup.faults
        if faults is None or self.faults is None:
            return
        became = SUBMISSIONS[faults.missing]
        rows = [(step, worker, kind, became) for step in steps for worker, kind in faults.at(step).items()]
        if rows:
            self.faults.extend(pd.DataFrame(rows, columns=list(FAULT_COLUMNS)))

    def lacks_accuracy(self, step: int) -> bool:
        """Whether none was measured at this step, as it may have been before an interruption."""
        return self.evaluations.last_step() != step

    def add_accuracies(self, step: int, accuracies: Accuracies, seconds: float) -> None:
        """Record the accuracies of an evaluation, which took so many seconds."""
        self.seconds += seconds
        self._accuracy = accuracy = accuracies[0]
        self._best = accuracy if not accuracy <= self._best else self._best
        self.evaluations.extend(pd.DataFrame([(step, *accuracies)], columns=self.evaluations.columns))

    def next_stop(self, step: int, stretch: float) -> int:
        """The next evaluation or checkpoint, or earlier: after about `stretch` seconds of steps.

        The ends of stretches do not affect results.
        """
        steps = 1 if not self._pace else max(1, int(stretch / self._pace))
        intervals = [interval for interval in (self.setup.evaluation_interval, self.interval.steps) if interval]
        ends = [(step // interval + 1) * interval for interval in intervals]
        return min(step + steps, self.setup.steps, *ends)

    def update(self, ended: bool) -> Update:
        """The progress of the run since the last update."""
        self.log_events()
        events, self._events = tuple(self._events), []
        return Update(
            setup=self.setup,
            step=self.simulation.step_number,
            loss=self._row.get("Average loss", math.nan),
            accuracy=self._accuracy,
            best=self._best,
            ended=ended,
            diverged=self.diverged is not None,
            events=events,
            row=self._row,
            steps_per_second=1 / self._pace if self._pace else math.nan,
            timings=self.simulation.take_timings(),
            replaced=tuple(self.simulation.take_replaced()),
        )

    def result(self, parameters: NDArray[np.float32]) -> Result:
        """The result, given the final parameters (D,)."""
        self.flush(durably=True)
        return Result(
            setup=self.setup,
            metrics=self.metrics.frame(),
            evaluations=self.evaluations.frame(),
            parameters=parameters,
            directory=None if self.directory is None else self.directory.path,
            faults=None if self.faults is None else self.faults.frame(),
            diverged=self.diverged,
            seconds=self.seconds,
        )

    def interrupted(self) -> None:
        """Save the state, so that the run can be continued."""
        try:
            self._save("interrupted")
        except StateLost as loss:  # the last checkpoint remains
            self._log(str(loss))
            self.flush(durably=True)
            self.set_status("interrupted")
        except BaseException as error:
            self.failed(error)
            raise
        self._log(f"interrupted at step {self.simulation.step_number}")

    def failed(self, error: BaseException) -> None:
        """Record the error. The step may be incomplete, so no checkpoint is saved."""
        self.log_events()
        self._log("".join(traceback.format_exception(error)).rstrip())
        with suppress(StorageFault):  # a full disk must not hide the error
            if self._complete:
                self.flush()
            self.set_status("failed", f"{type(error).__name__}: {error}")

    def lost(self, loss: StateLost) -> None:
        """The simulation lost its state: go back to the last checkpoint."""
        self.log_events()
        self._log(str(loss))
        self.go_back(lost=True)

    def flush(self, durably: bool = False) -> None:
        """Write rows that are only in memory."""
        for table in self.tables.values():
            table.flush(durably)
        self._flushed = time.monotonic()

    def save_if_due(self) -> None:
        """Save a checkpoint if one is due."""
        waited = time.monotonic() - self._saved
        if self.interval.due(self.simulation.step_number, waited, self._cost):
            self._save("running")

    def _save(self, state: State) -> None:
        """Save a checkpoint, unless there is one of this step."""
        if self.directory is None:
            return
        step = self.simulation.step_number
        began = time.monotonic()
        self.flush(durably=True)  # a checkpoint needs all rows before it
        if step > self._saved_step:
            record = {
                "files": {name: table.position() for name, table in self.tables.items()},
                "seconds": self.seconds,
                "diverged": self.diverged,
            }
            self.directory.checkpoints.save(Checkpoint(step, self.simulation.state(), record))
            self._saved, self._saved_step = time.monotonic(), step
            self._cost = self._saved - began
        self.set_status(state)

    def set_status(self, state: State, reason: str | None = None) -> None:
        """Write the status of the run."""
        if self.directory is not None:
            more: dict[str, Any] = {"reason": reason, "seconds": self.seconds, "diverged": self.diverged}
            if state == "interrupted":  # a scheduler may mark it as stopped later, which is final
                more["files"] = self.directory.digests()
            self.directory.set_status(state, self.simulation.step_number, **more)

    def log_events(self) -> None:
        """Log new events, and keep them for the next update."""
        for event in self.simulation.take_events():
            self._events.append(event)
            self._log(event)

    def _log(self, text: str) -> None:
        if self.directory is not None:
            self.directory.log(text)
