"""byzray run."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from byzray.commands._setup import Overrides, SetupFile, read_setup
from byzray.commands._shared import (
    Address,
    CheckpointEvery,
    DataRoot,
    Deadline,
    Restarts,
    err,
    interval,
    number,
    out,
    stopped_by_signals,
)


def run(
    setup_file: SetupFile,
    overrides: Overrides = None,
    seed: Annotated[
        int | None, typer.Option(parser=number(int, -math.inf), metavar="N", help="Replaces the setup's seed.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the run's directory.")] = Path("results"),
    in_process: Annotated[bool, typer.Option("--in-process", help="Compute in this process, without Ray.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    checkpoint_every: CheckpointEvery = None,
    restarts: Restarts = 20,
    deadline: Deadline = None,
    data: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")] = False,
    address: Address = None,
) -> None:
    """Run one setup, on Ray actors by default."""
    from byzray.recording.progress import View, actor_log_shown
    from byzray.recording.update import Update

    more: dict[str, Any] = {} if seed is None else {"seed": seed}
    setup = read_setup(setup_file, overrides, **more, **({"actors": None} if in_process else {}))
    began = time.monotonic()
    stopping = stopped_by_signals("stopping after the current steps")
    with stopping as stop_asked, View(setup, err) as view, actor_log_shown(view.say):

        def progress(update: Update) -> bool:
            for event in update.events:
                err.print(f"[yellow]byzray:[/] {escape(event)}")
            view.show(update)
            return stop_asked()

        options: dict[str, Any] = {"output": output, "data": data, "download": download, "resume": resume}
        options["checkpoints"] = interval(checkpoint_every)
        if setup.actors is None:
            from byzray.simulation import simulate

            result = simulate(setup, progress=progress, **options)
        else:
            import actors

            supervision = actors.Supervision(restarts, deadline)
            result = actors.simulate(setup, progress=progress, address=address, supervision=supervision, **options)
    last = result.evaluations.iloc[-1]
    took = "computed earlier, not run again" if result.reused else f"{time.monotonic() - began:.1f} s"
    out.print(
        f"{setup.label()}: best accuracy {result.best_accuracy:.4f}, "
        f"{last['accuracy']:.4f} at step {int(last['step'])}, {took}"
    )
    if result.diverged is not None:
        out.print(f"diverged at step {result.diverged.step}: {result.diverged.reason}")
    out.print(str(result.directory))
