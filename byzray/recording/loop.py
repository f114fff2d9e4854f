"""The loop around a run in one process or on actors: advance, evaluate, record, save, report progress."""

import math
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.mistakes import Interrupted
from byzray.process_state import own_settings
from byzray.recording.figure import draw_if_missing
from byzray.recording.recorder import Recorder
from byzray.recording.simulation import Simulation, StateLost
from byzray.recording.update import Progress, Update, Updates
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.directory import RunDirectory, RunExists
from byzray.runs.result import Result
from byzray.setups import Setup

# Progress is reported, and a request to stop is noticed, about this often, in seconds.
STRETCH_SECONDS = 1.0


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
        start: prepares the simulation; not called if the directory holds the finished run.
        fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.
        output: the folder in which the run gets a directory of its own; none: nothing is written.
        resume: whether to continue a run that was interrupted.
        checkpoints: how often to save a state to continue from.
        figure: whether the directory gets the figure of the run; if it cannot be drawn, the last update says so.

    Raises:
        byzray.runs.directory.RunExists: the directory holds an interrupted run and `resume` is False, or is damaged.
        byzray.files.StorageFault: something cannot be written.
        Interrupted: :func:`interrupt` was called.
    """
    if output is None:
        simulation = start()
        return (yield from _run(simulation, Recorder(simulation, None, checkpoints)))
    with RunDirectory(Path(output), setup) as directory:
        result = directory.examine(resume, fingerprints)
        if result is None:
            simulation = start()
            directory.begin({**simulation.environment(), "files": fingerprints})
            result = yield from _run(simulation, Recorder(simulation, directory, checkpoints))
            directory.finish(result)
        # The run is finished, whatever happens from here on.
        if figure and (problem := draw_if_missing(result, directory)) is not None:
            yield _last_update(result, problem)
        return result


def _run(simulation: Simulation, recorder: Recorder) -> Updates:
    """Run from the current step to the end; on any error the results so far are saved."""
    try:
        recorder.go_back()
        while True:
            try:
                parameters = yield from _to_the_end(simulation, recorder)
                return recorder.result(parameters)
            except StateLost as loss:
                recorder.lost(loss)
    except Interrupted:
        recorder.interrupted()
        raise
    except (GeneratorExit, SystemExit, RunExists):  # the files allow continuing, or must not change
        raise
    except BaseException as error:
        recorder.failed(error)
        raise


def _to_the_end(simulation: Simulation, recorder: Recorder) -> Generator[Update, None, NDArray[np.float32]]:
    """Compute stretch after stretch; returns the parameters."""
    setup = simulation.setup
    while True:
        step = simulation.step_number
        ended = step == setup.steps or (recorder.diverged is not None and setup.divergence == "stop")
        due = setup.evaluation_interval and step % setup.evaluation_interval == 0
        if (ended or due) and recorder.lacks_accuracy(step):
            began = time.monotonic()
            accuracies = simulation.evaluate()
            recorder.add_accuracies(step, accuracies, time.monotonic() - began)
        recorder.save_if_due()
        yield recorder.update(ended)
        if ended:
            return simulation.parameters()
        began = time.monotonic()
        rows = simulation.advance(recorder.next_stop(step, STRETCH_SECONDS))
        recorder.add_steps(step, rows, time.monotonic() - began)


def record(
    setup: Setup,
    start: Callable[[], Simulation],
    *,
    progress: Progress,
    fingerprints: dict[str, str],
    output: str | Path | None = None,
    resume: bool = False,
    checkpoints: CheckpointInterval = CheckpointInterval(),
) -> Result:
    """Run a setup to its end, in a directory of its own below `output` if that is given.

    Args:
        setup, start, fingerprints, output, resume, checkpoints: see :func:`recorded`.
        progress: called after each stretch of steps.

    Raises:
        Interrupted: `progress` asked for it.
        Exception: whatever :func:`recorded` raises.
    """
    updates = recorded(setup, start, fingerprints=fingerprints, output=output, resume=resume, checkpoints=checkpoints)
    while True:
        try:
            with own_settings():  # not around `progress`, which is the caller's
                update = next(updates)
        except StopIteration as end:
            return end.value
        try:
            stop = progress(update)
        except BaseException as error:
            updates.throw(error)  # so that the run's status says so
        if stop and not update.ended:
            interrupt(updates, update)


def interrupt(updates: Updates, last: Update) -> None:
    """Stop a run that :func:`recorded` computes: its state is saved, to be continued later.

    Raises:
        Interrupted: always.
    """
    with own_settings():
        updates.throw(Interrupted(f"stopped at step {last.step} of {last.setup.steps}"))


def _last_update(result: Result, event: str) -> Update:
    """An update with an event after the end of a run."""
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
