"""Shared parts of commands: consoles, options and parsers."""

import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from byzray.console import plain_console
from byzray.mistakes import SetupError, parsed, suggestion

if TYPE_CHECKING:
    from byzray.runs.checkpoints import CheckpointInterval
    from sweeps.storage import Storage

T = TypeVar("T")

out = plain_console(stderr=False)
err = plain_console(stderr=True)


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[Any], Any]:
    """A parser for a number within bounds."""
    named = "an integer" if kind is int else "a number"
    bounds = f" >= {least:g}" if most == math.inf else f" from {least:g} to {most:,.0f}"
    expected = named if least == -math.inf else named + bounds

    def parse(text: Any) -> Any:
        try:
            if least <= (value := kind(text)) <= most and value != math.inf:
                return value
        except ValueError:
            pass
        raise typer.BadParameter(f"got {str(text)!r}, expected {expected}")

    return parse


def one_of(names: Sequence[T]) -> Callable[[str], T]:
    """A parser for one of some words."""

    def parse(text: str) -> T:
        if text in names:
            return names[names.index(text)]
        meant = suggestion(text, [str(name) for name in names])
        hint = f"did you mean {meant!r}?" if meant else f"expected one of {', '.join(map(str, names))}"
        raise typer.BadParameter(f"got {text!r}, {hint}")

    return parse


DataRoot = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The folder that holds data sets.", show_default="$BYZRAY_DATA"),
]
Cpus = Annotated[
    float | None,
    typer.Option(parser=number(float, 1e-4), metavar="N", help="CPUs of a run.", show_default="1 for each actor"),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        parser=number(float, 0), metavar="N", help="GPUs of a run.", show_default="1/4 or more where there are any"
    ),
]
Retries = Annotated[int, typer.Option(parser=number(int, 0), metavar="N", help="How often a failed run is retried.")]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        metavar="N|Ns",
        help="Save a state to continue from every N steps, or N seconds.",
        show_default="about once a minute",
    ),
]
Restarts = Annotated[
    int,
    typer.Option(parser=number(int, 0), metavar="N", help="How often lost actors of a run are replaced."),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        parser=number(float, 1, 1e6),
        metavar="SECONDS",
        help="An actor that does not answer for this long counts as lost.",
        show_default="20 times the slowest step, at least 30",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, such as auto.", show_default="$RAY_ADDRESS, else one is started"),
]


def interval(text: str | None) -> "CheckpointInterval":
    """Parse --checkpoint-every."""
    from byzray.runs.checkpoints import CheckpointInterval

    return CheckpointInterval() if text is None else parsed("--checkpoint-every", text, CheckpointInterval.parse)


def import_from(folder: Path) -> None:
    """Also import the user's own classes from a folder.

    It is last in the search path, so that an `actors.py` or a `pandas.py` there hides no installed module.
    """
    if (name := str(folder.resolve())) not in sys.path:
        sys.path.append(name)


def import_from_folder_of(file: Path) -> None:
    """Also import the user's own classes from the folder of a file; of a link, from that of the file it leads to."""
    with suppress(OSError, RuntimeError, ValueError):  # a loop of links, a NUL: reading the file reports it
        import_from(file.resolve().parent)


def holds(path: Path, kind: type[BaseModel], but_not: type[BaseModel]) -> bool:
    """Whether the keys of a file belong to another kind of file."""
    from byzray.setups.files import read_content

    with suppress(SetupError):
        keys = read_content(path).keys()
        return bool(keys & kind.model_fields.keys()) and not keys & but_not.model_fields.keys()
    return False


def pull_results(storage: "Storage") -> None:
    """Fetch the runs of a remote storage."""
    # Runs may be at the top level or in `runs`; the files of Tune are not needed.
    storage.pull(*(name for name in storage.top() if name not in ("tune", "replaced")))


@contextmanager
def stopped_by_signals(doing: str) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM arrived. A second signal raises KeyboardInterrupt.

    Args:
        doing: the message for the user after the first signal.
    """
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            raise KeyboardInterrupt
        stopping = True
        err.print(f"byzray: {signal.Signals(number).name}: {doing}")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
