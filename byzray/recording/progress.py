"""Display of a run's progress: a live picture on a terminal or in a notebook, elsewhere lines."""

import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from byzray.console import duration, plain_console
from byzray.recording.update import Progress, Update
from byzray.setups import Setup

# Without a picture, the interval between two lines, in seconds.
LINE_SECONDS = 5.0

# In a notebook: the least interval between two redraws, in seconds, and the width in characters.
NOTEBOOK_SECONDS, NOTEBOOK_WIDTH = 0.5, 100


class Picture:
    """A few lines that are redrawn in place on a terminal or in a notebook; elsewhere nothing is drawn.

    Args:
        console: where to draw.
        lines: returns what to draw.

    Attributes:
        shown: whether anything is drawn.
    """

    def __init__(self, console: Console, lines: Callable[[], Group]) -> None:
        self.shown = console.is_jupyter or console.is_terminal
        self.lines = lines
        self._drawn = -math.inf
        self._cell: Any = None
        self._console = console
        self._live: Live | None = None

    def start(self) -> None:
        """Start drawing."""
        if self.shown and not self._console.is_jupyter:
            self._live = Live(console=self._console, get_renderable=self.lines, refresh_per_second=4, transient=True)
            self._live.start()
        elif self.shown:  # rich has pictures in notebooks, too, but needs ipywidgets for them
            from IPython.display import display

            self._cell = display({"text/plain": ""}, raw=True, display_id=True)

    def refresh(self) -> None:
        """Redraw a notebook's picture if the last redraw was long enough ago; on terminals rich does it."""
        if self._cell is None or time.monotonic() - self._drawn < NOTEBOOK_SECONDS:
            return
        self._drawn = time.monotonic()
        text = io.StringIO()
        Console(file=text, width=NOTEBOOK_WIDTH, force_jupyter=False).print(self.lines())
        self._cell.update({"text/plain": text.getvalue().rstrip()}, raw=True)

    def stop(self) -> None:
        """Remove the picture."""
        if self._live is not None:
            self._live.stop()
        elif self._cell is not None:
            self._cell.update({"text/plain": ""}, raw=True)


@contextmanager
def shown(setup: Setup, progress: Progress | None, depth: int = 0) -> Iterator[Progress]:
    """The progress function of a run that was called from Python: `progress`, or a bar and Python's warnings.

    Args:
        setup: of the run.
        progress: the caller's; None: events are warnings, and a bar is shown on a terminal and in a notebook, but not
            in the log of a script.
        depth: how many functions lie between the loop and what is yielded.
    """
    if progress is not None:
        yield progress
        return
    console = plain_console(stderr=True)
    with ExitStack() as stack:
        view = None
        if console.is_jupyter or console.is_terminal:
            view = stack.enter_context(View(setup, console))
            stack.enter_context(actor_log_shown(view.say))

        def show(update: Update) -> None:
            for event in update.events:
                warnings.warn(event, stacklevel=4 + depth)  # where the user called simulate
            if view is not None:
                view.show(update)

        yield show


@contextmanager
def actor_log_shown(say: Callable[[str], None]) -> Iterator[None]:
    """Show the log messages of actors, which report slow operations: the start of Ray and of actors."""

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
    """Displays the progress of one run; a context manager."""

    def __init__(self, setup: Setup, console: Console) -> None:
        self.setup = setup
        self.console = console
        self.update: Update | None = None
        self.stage = "starting"  # the current operation other than steps
        self.began = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first update came, and at which step
        self.shown = -math.inf
        self.picture = Picture(console, self._picture)

    def __enter__(self) -> "View":
        self.picture.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.picture.stop()

    def say(self, stage: str) -> None:
        """Show a slow operation that starts."""
        self.stage = stage
        if not self.picture.shown:
            self.console.print(f"byzray: {stage}", markup=False)

    def show(self, update: Update) -> None:
        """Show an update."""
        now = time.monotonic()
        self.first = self.first or (now, update.step)
        self.update, self.stage = update, ""
        taken = update.step > self.first[1]
        if not self.picture.shown and (update.ended or (taken and now - self.shown >= LINE_SECONDS)):
            self.shown = now
            self.console.print(f"{self._counted()}, {self._figures()}", markup=False)
        self.picture.refresh()
        if update.ended:
            self.say("saving the result and its figure")

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
        """Loss, accuracy and pace, where known."""
        assert self.update is not None
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
