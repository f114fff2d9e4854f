"""What all figures share: matplotlib as byzray uses it, colours, line styles, and the same files for the same data.

Whatever the user's environment says of matplotlib changes no figure and fails none. What draws takes matplotlib from
here.
"""

import importlib
import os
import re
import sys
import tempfile
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from byzray.files import write_atomically
from byzray.mistakes import visible


def _import_matplotlib() -> Any:
    """matplotlib, imported without the user's settings getting in the way; those that hold stay the user's."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    asked = os.environ.pop("MPLBACKEND", None)  # an unknown one is an error of the import
    try:
        try:
            matplotlib = importlib.import_module("matplotlib")
        except ImportError:
            raise
        except Exception:  # a matplotlibrc that cannot be read: without it then
            matplotlib = _import_without_settings()
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    if asked is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = asked
    return matplotlib


def _import_without_settings() -> Any:
    """matplotlib, imported where it finds its own matplotlibrc alone."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # parts of the attempt that failed
    before = os.environ.get("MATPLOTLIBRC")
    os.environ["MATPLOTLIBRC"] = str(Path(found.origin).parent / "mpl-data" / "matplotlibrc")
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):  # it looks into the working folder first
            return importlib.import_module("matplotlib")
    finally:
        del os.environ["MATPLOTLIBRC"]
        if before is not None:
            os.environ["MATPLOTLIBRC"] = before


matplotlib = _import_matplotlib()

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.font_manager import FontProperties  # noqa: E402
from matplotlib.textpath import TextToPath  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

__all__ = ["Axes", "Figure", "LogLocator", "fitted", "legend", "own_settings", "plain", "save", "style_of", "width_of"]

# In characters; none is wider than a figure with fewer.
LONGEST_WORD = 300

# Of a legend's label, without its text: the line, and the spaces around it, in inches.
LEGEND_SIZE, HANDLE_LENGTH = 9, 3.2
LABEL_EXTRA = (HANDLE_LENGTH + 0.8 + 2.0) * LEGEND_SIZE / 72

# Okabe and Ito's palette, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
BLACK, GREY = "#000000", "#777777"

# Every colour has its own line style, to be distinguishable in grey as well.
STYLES: list[tuple[str, Any]] = [
    (BLUE, "-"),
    (ORANGE, "--"),
    (GREEN, "-."),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (SKY, (0, (2, 1))),
    (AMBER, (0, (7, 2))),
]


def style_of(index: int) -> tuple[str, Any]:
    """The colour and line style of the line with this number, which no other of the first 36 has."""
    return STYLES[index % len(STYLES)][0], STYLES[(index + index // len(STYLES)) % len(STYLES)][1]


@contextmanager
def own_settings() -> Iterator[None]:
    """matplotlib's defaults, whatever its user has set; afterwards that holds again. A decorator, too."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # signs of a name that the font lacks are drawn as boxes
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "byzray"
        yield


def plain(text: str) -> str:
    """A name as a figure shows it: no formula, and no label that legends leave out."""
    text = visible(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@lru_cache(maxsize=10_000)
def width_of(text: str, size: float) -> float:
    """How wide a line of text is in a font of this size (points), in inches."""
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(width) / 72


def fitted(text: str, size: float, width: float) -> str:
    """`text` as a figure shows it, see :func:`plain`, in lines of at most so many inches; longer words are cut."""
    lines: list[str] = []
    for word in visible(text).replace("\n", " \n ").split(" "):
        if word == "\n" or not lines:
            lines.append("")
        if word == "\n":
            continue
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width_of(longer, size) > width:
            lines.append("")
            longer = word
        lines[-1] = _cut(longer, size, width)
    return "\n".join(map(plain, lines))


def _cut(word: str, size: float, width: float) -> str:
    if len(word) <= LONGEST_WORD and width_of(word, size) <= width:
        return word
    lengths = range(min(len(word), LONGEST_WORD))
    kept = bisect_right(lengths, width, key=lambda length: width_of(f"{word[:length]}…", size))
    return f"{word[: max(0, kept - 1)]}…"


def legend(figure: Figure, columns: int, first: Sequence[str] = ()) -> None:
    """A legend below the axes, every label once, in as many columns as fit; those in `first` come first."""
    width = figure.get_figwidth() - 0.3
    handles: dict[str, Any] = {}
    for one in figure.axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(handles, key=lambda label: label not in first)
    widths = [width_of(label, LEGEND_SIZE) + LABEL_EXTRA for label in order]
    # matplotlib fills column after column.
    fitting = [
        count
        for count in range(1, min(columns, len(order)) + 1)
        if sum(max(part) for part in np.array_split(widths, count)) <= width
    ]
    labels = [_cut(label, LEGEND_SIZE, width - LABEL_EXTRA) for label in order]
    figure.legend(
        [handles[label] for label in order], labels, loc="outside lower center", ncols=max(fitting, default=1),
        fontsize=LEGEND_SIZE, handlelength=HANDLE_LENGTH, frameon=False,
    )  # fmt: skip


PLACEMENT_COLOURS = {"update": ORANGE, "server": GREEN, "worker": BLUE}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write the figure as name.png and name.svg; the same data give the same files."""
    with own_settings():
        write_atomically(folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=150))
        write_atomically(folder / f"{name}.svg", lambda path: _save_svg(figure, path))


def _save_svg(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
    path.write_text(shortened(path.read_text(encoding="utf-8")), encoding="utf-8")


def shortened(svg: str) -> str:
    """The SVG with one decimal (of a point, 1/72 inch) in its paths, one a line: half the size where there are many."""

    def one_decimal(path: re.Match[str]) -> str:
        return re.sub(r"(\.\d)\d+", r"\1", path[0]).replace(" \n", " ")

    return re.sub(r'\bd="[^"]*"', one_decimal, svg)
