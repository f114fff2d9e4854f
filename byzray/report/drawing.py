"""What all figures share: colours, line styles, and files that are the same for the same data."""

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from byzray.files import write_atomically

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
BLACK, GREY = "#000000", "#777777"

# Told apart in grey as well: every colour has a line style of its own.
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


PLACEMENT_COLOURS = {"update": ORANGE, "server": GREEN, "worker": BLUE}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write the figure as name.png and name.svg; the same data give the same files."""
    # A fixed salt and no date.
    with matplotlib.rc_context({"svg.hashsalt": "byzray"}):
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
