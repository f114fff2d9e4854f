"""Display of a running sweep: a live picture on a terminal or in a notebook, elsewhere lines."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext

from rich.console import Console, Group
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from byzray.console import plain_console
from byzray.recording.progress import Picture
from sweeps.observer import Observer
from sweeps.progress import Progress

# How many of the last runs are shown.
LAST_RUNS = 8

# Without a picture, a line with the overall progress is printed at most this often.
LINE_SECONDS = 15.0


class View(Observer):
    """Shows the progress of a sweep.

    Args:
        console: where to print; by default standard error.
        asking: a context manager that is entered when the sweep begins and left when it ends; its value is what
            :meth:`stop_asked` calls. By default no stop is asked for.
    """

    def __init__(
        self,
        console: Console | None = None,
        asking: Callable[[], AbstractContextManager[Callable[[], bool]]] = lambda: nullcontext(lambda: False),
    ) -> None:
        self._asking = asking
        self._entered = ExitStack()
        self.console = console or plain_console(stderr=True)
        self.last: deque[tuple[str, str]] = deque(maxlen=LAST_RUNS)
        self.shown = time.monotonic()
        self.picture = Picture(self.console, self._picture)

    def begin(self, title: str, progress: Progress) -> None:
        self.title, self.progress = title, progress
        self._stop_asked = self._entered.enter_context(self._asking())
        self.picture.start()

    def end(self) -> None:
        self.progress.running = 0  # Tune does not report all trials that it ends
        self.picture.stop()
        self._entered.close()

    def stop_asked(self) -> bool:
        return self._stop_asked()

    def run_ended(self, run: str, outcome: str) -> None:
        self.last.append((run, outcome))
        if not self.picture.shown:
            self.console.print(f"{run}: {outcome}", markup=False)

    def message(self, text: str) -> None:
        self.console.print(f"byzray: {text}", markup=False)

    def refresh(self) -> None:
        if self.picture.shown:
            self.picture.refresh()
        elif time.monotonic() - self.shown > LINE_SECONDS:
            self.shown = time.monotonic()
            self.console.print(str(self.progress), markup=False)

    def _picture(self) -> Group:
        progress = self.progress
        table = Table.grid(padding=(0, 2))
        for name, what in self.last:
            table.add_row(escape(name), escape(what))
        bar = Table.grid()
        bar.add_row(ProgressBar(progress.total, progress.done + progress.failed, width=60))
        return Group(f"[bold]{escape(self.title)}[/]", bar, str(progress), table)
