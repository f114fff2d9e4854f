"""The figure of `growth.py`: time above, memory below, by workers, parameters and actors.

    python benchmarks/growth_figure.py FILE [--docs docs]

FILE is what `growth.py --json FILE` wrote. Panels of sections that it does not hold stay away.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from byzray.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, STYLES, style_of

Figures = dict[str, Any]

MB = 1e6
LABEL_POINTS = 7.5  # size of the labels, in points
NOISE = 1.0  # MB; less than that depends on what an allocator happened to hold back


class Line(NamedTuple):
    """A curve as it is drawn: its label, its looks, and its points."""

    label: str
    looks: Figures
    x: list[float]
    y: list[float]


def looks_of(index: int) -> Figures:
    """Colour, line style and marker of the line with this number."""
    colour, style = style_of(index)
    marker, face = ("o", colour) if index < len(STYLES) else ("D", "white")
    return {"color": colour, "linestyle": style, "marker": marker, "markerfacecolor": face}


def lines(curves: list[Figures], quantity: str, scale: float, least: float = 0.0) -> list[Line]:
    """The curves of a quantity; a label ends with the exponent of its growth. Points below `least` stay away."""
    found = []
    for index, one in enumerate(curves):
        points = [(point["at"], scale * point[quantity]) for point in one["points"] if quantity in point]
        points = [(x, y) for x, y in points if y > least]
        if points:
            x, y = (list(values) for values in zip(*points, strict=True))
            found.append(Line(_label(one["name"], one["exponents"][quantity]), looks_of(index), x, y))
    return found


def _label(name: str, exponent: float | None) -> str:
    return name if exponent is None else f"{name}  {exponent:.1f}".replace("-0.0", "0.0")


def of_actors(curve: Figures, named: Iterable[tuple[str, str, str]], scale: float) -> list[Line]:
    """The quantities of the one curve that actors have, each under a name and in a colour of its own."""
    found = []
    for quantity, name, colour in named:
        for line in lines([curve], quantity, scale):
            label = _label(name, curve["exponents"][quantity])
            looks = {"color": colour, "linestyle": "-", "marker": "o", "markerfacecolor": colour}
            found.append(line._replace(label=label, looks=looks))
    return found


def plot(ax: Axes, drawn: Sequence[Line], title: str, x_label: str, y_label: str) -> None:
    """One panel, logarithmic."""
    for line in drawn:
        ax.plot(line.x, line.y, **line.looks, markersize=3.5, linewidth=1.4)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel(x_label, fontsize=9)
    ax.set_ylabel(y_label, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.minorticks_off()
    if drawn:
        tick(ax, drawn)


def tick(ax: Axes, drawn: Sequence[Line]) -> None:
    """Limits in which every line lies, over at least a decade; ticks where points are, and at plain numbers."""
    values = [y for line in drawn for y in line.y]
    low, high = np.log10(min(values)), np.log10(max(values))
    spare = max(0.06 * (high - low), (1 - (high - low)) / 2)
    ax.set_ylim(10 ** (low - spare), 10 ** (high + spare))
    plain = FuncFormatter(lambda value, position: f"{value:,g}")
    if high - low < 2:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(plain)
    measured = sorted({x for line in drawn for x in line.x})
    if measured[-1] < 10_000:
        ax.set_xticks(measured, [f"{x:,g}" for x in measured])


def label_ends(figure: Figure, ax: Axes, drawn: Sequence[Line]) -> None:
    """Write the labels right of the axes, in the order of the lines' ends and apart from each other."""
    height = figure.get_size_inches()[1] * 72 * ax.get_position().height
    to_share = ax.transAxes.inverted()
    ordered = sorted(drawn, key=lambda line: line.y[-1])
    ends = [to_share.transform(ax.transData.transform((line.x[-1], line.y[-1]))) for line in ordered]
    heights = spread([share for _, share in ends], 1.3 * LABEL_POINTS / height)
    for line, (x, y), at in zip(ordered, ends, heights, strict=True):
        colour = line.looks["color"]
        leader = {"color": colour, "linewidth": 0.5, "transform": ax.transAxes, "clip_on": False}
        ax.plot([x + 0.02, 1.09], [y, at], **leader, scalex=False, scaley=False)
        ax.text(1.1, at, line.label, transform=ax.transAxes, fontsize=LABEL_POINTS, color=colour, va="center")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending positions at least `gap` apart, near those wanted, and at most 1: groups that touch are centred."""
    groups: list[list[float]] = []
    for value in wanted:
        groups.append([value])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            last = groups.pop()
            groups[-1] += last
    found = [_bottom(group, gap) + gap * index for group in groups for index in range(len(group))]
    most = 1.0
    for index in reversed(range(len(found))):
        found[index] = min(found[index], most)
        most = found[index] - gap
    return found


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def columns(figures: Figures) -> list[tuple[str, str, list[Line], str, list[Line], str]]:
    """For each section: title, label of x, the lines of time and the label of their axis, and the same of memory."""
    found = []
    if "workers" in figures:
        curves = figures["workers"]["curves"]
        time, memory = lines(curves, "seconds", 1e3), lines(curves, "increase", 1 / MB, NOISE)
        found.append(("a step in one process", "workers n", time, "ms a step", memory, "memory, MB"))
    if "dimension" in figures:
        section = figures["dimension"]
        time = lines(section["curves"], "seconds", 1e3)
        memory = lines(section["curves"], "increase", 1 / MB, NOISE)
        title = f"a rule alone, n = {section['n']}, f = {section['f']}"
        found.append((title, "parameters d", time, "ms a call", memory, "memory beyond the input, MB"))
    if "actors" in figures:
        one = figures["actors"]["curves"][0]
        time = of_actors(one, [("start", "start of the fleet", ORANGE), ("seconds", "a step", BLUE)], 1)
        named = [("all", "all", BLACK), ("server", "the server", GREEN), ("worker", "a worker actor", BLUE)]
        memory = of_actors(one, named, 1 / MB)
        found.append(("actors of one worker each", "worker actors", time, "seconds", memory, "memory of their own, MB"))
    return found


def draw(figures: Figures) -> Figure:
    """The figure."""
    panels = columns(figures)
    figure = Figure(figsize=(4.6 * len(panels), 6.6))
    axes = figure.subplots(2, len(panels), squeeze=False)
    figure.subplots_adjust(left=0.055, right=0.895, bottom=0.11, top=0.95, wspace=0.95, hspace=0.25)
    for (title, x_label, time, time_label, memory, memory_label), (upper, lower) in zip(panels, axes.T, strict=True):
        plot(upper, time, title, x_label, time_label)
        plot(lower, memory, "", x_label, memory_label)
        label_ends(figure, upper, time)
        label_ends(figure, lower, memory)
    note = "Next to each name: the exponent of its growth over the upper half of the range."
    figure.text(0.055, 0.02, note, fontsize=8, color=GREY)
    return figure


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what growth.py wrote")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs", help="where to write")
    given = parser.parse_args()
    figures = json.loads(given.file.read_text())
    if not columns(figures):
        raise SystemExit(
            f"{given.file}: expected workers, dimension or actors, found {', '.join(figures) or 'nothing'}"
        )
    (given.docs / "figures").mkdir(parents=True, exist_ok=True)
    draw(figures).savefig(given.docs / "figures" / "growth.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
