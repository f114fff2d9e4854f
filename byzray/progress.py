"""What `byzray run` shows while it runs: on a terminal a picture that changes, elsewhere lines."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from byzray.setups import Setup

# Where the output is no terminal, a line on a run comes at most this often, in seconds.
LINE_SECONDS = 5.0


@contextmanager
def shown_progress(setup: Setup, console: Console) -> Iterator[Callable[[Any], bool]]:
    """Yields a function to report progress to. It asks for a stop after SIGINT or SIGTERM."""
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:  # the second one does not wait for the end of the stretch
            raise KeyboardInterrupt
        stopping = True
        console.print(f"byzray: {signal.Signals(number).name}: stopping after this stretch of steps")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with View(setup, console) as view, said_by_actors(view.say):

            def report(update: Any) -> bool:
                for event in update.events:
                    console.print(f"[yellow]byzray:[/] {escape(event)}")
                view.show(update)
                return stopping

            yield report
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def said_by_actors(say: Callable[[str], None]) -> Iterator[None]:
    """Shows what takes its time before the first step: the start of Ray, and of actors."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("actors"), Handler()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


class View:
    """How far one run is; a context manager."""

    def __init__(self, setup: Setup, console: Console) -> None:
        self.setup = setup
        self.console = console
        self.update: Any = None
        self.stage = "starting"  # what is under way, if no steps are
        self.began = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first update came, and at which step
        self.shown = -math.inf
        self.live = Live(console=console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> "View":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, stage: str) -> None:
        """Something that takes its time begins."""
        self.stage = stage
        if not self.console.is_terminal:
            self.console.print(f"byzray: {stage}", markup=False)

    def show(self, update: Any) -> None:
        """Some steps were taken."""
        now = time.monotonic()
        self.first = self.first or (now, update.step)
        self.update, self.stage = update, ""
        taken = update.step > self.first[1]
        if not self.console.is_terminal and (update.ended or (taken and now - self.shown >= LINE_SECONDS)):
            self.shown = now
            self.console.print(f"{self._counted()}, {self._figures()}", markup=False)
        if update.ended:
            self.say("saving the result, and drawing its figure")

    def _picture(self) -> Group:
        steps, step = self.setup.steps, 0 if self.update is None else self.update.step
        bar = Table.grid()  # which ends the line
        bar.add_row(ProgressBar(max(1, steps), step if steps else 1, width=60))
        lines = (self._counted(), self.stage or self._figures())
        above, below = (Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
        return Group(above, bar, below)

    def _counted(self) -> str:
        return f"{self.setup.label()}: step {0 if self.update is None else self.update.step}/{self.setup.steps}"

    def _figures(self) -> str:
        """Those that are known: there is no loss before the first step, and no pace."""
        assert self.first is not None
        update, (began, first) = self.update, self.first
        parts = [f"loss {update.loss:#.4g}"] if update.row else []
        parts += [f"accuracy {update.accuracy:.4f}"] if math.isfinite(update.accuracy) else []
        now = time.monotonic()
        if update.step > first and now > began:
            pace = (update.step - first) / (now - began)
            parts.append(f"{pace:.0f} steps/s" if pace >= 10 else f"{pace:.2g} steps/s")
            left = (self.setup.steps - update.step) / pace
            parts.append(f"{duration(now - self.began)} elapsed, {duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes, seconds; days where there are many."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h" if days else f"{hour}:{minute:02}:{second:02}"
