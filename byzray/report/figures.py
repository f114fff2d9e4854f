"""The figures of a report: curves and ratios of a panel under one attack, and the overview of best accuracies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from byzray.mistakes import visible
from byzray.report.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLACEMENT_COLOURS,
    Axes,
    Figure,
    LogLocator,
    fitted,
    legend,
    own_settings,
    plain,
    save,
    style_of,
    width_of,
)
from byzray.report.panels import PLACEMENTS, Grid, Panel, slug
from byzray.runs.directory import DONE

# Longer curves are drawn as means over blocks of steps; with fewer points in a report of many figures, which share a
# page that a browser must hold.
POINTS, POINTS_OF_MANY, MANY_PANELS = 300, 150, 8

# The loss is shown between these multiples of the first one. Above, a model is lost, and its line runs along the edge.
HIGHEST_LOSS, LOWEST_LOSS = 20.0, 1e-4

# A larger first loss says nothing about where the others lie.
HIGHEST_FIRST_LOSS = 1e100

# The overview is wrapped into rows of this many axes; with more axes than this in all, rates are drawn together.
OVERVIEW_COLUMNS, OVERVIEW_AXES = 4, 48

# What is alike in an axes of the overview, in the order of its axes: where, and how the runs were trained.
SIZE, TRAINING = ["dataset", "n", "f"], ["rate", "nesterov"]

# With more attacks than this the overview names them without their options.
MANY_ATTACKS = 16

# How wide an axes of ratios is, in inches.
RATIO_WIDTH = 3.0

# A larger ratio is left out: an axis cannot show it together with others.
HIGHEST_RATIO = 1e30

# Up to this many best accuracies a box shows each of them.
FEW = 60

Curves = dict[tuple[str, str, str], pd.DataFrame]


@dataclass(frozen=True)
class Comparison:
    """A panel under one attack.

    Attributes:
        name: for files.
        title: for people.
        curves: by placement, rule and quantity; columns step, mean, std, seeds.
        reference: the unattacked curves by quantity.
        bounds: the rules' variance-norm bounds.
        rules: all in panels of the report, which have the same style in each of its figures.
        diverged: the steps at which seeds diverged, by placement and rule.
    """

    name: str
    title: str
    curves: Curves
    reference: dict[str, pd.DataFrame]
    bounds: dict[str, float]
    rules: list[str]
    diverged: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @property
    def placements(self) -> list[str]:
        """Those that occur, in order."""
        return [placement for placement in PLACEMENTS if any(key[0] == placement for key in self.curves)]

    @property
    def rules_with_ratios(self) -> list[str]:
        """Those of which there is a line of submitted ratios: more than one point, as after a NaN nothing follows."""
        known = {rule for (_, rule, quantity), curve in self.curves.items() if quantity == "submitted" and _line(curve)}
        return [rule for rule in self.rules if rule in known]


def comparisons(grid: Grid, runs: pd.DataFrame, curves: pd.DataFrame) -> Iterator[tuple[Panel, str, Comparison]]:
    """Every panel under each of its attacks, with what is drawn of it."""
    by_setup: dict[str, dict[str, pd.DataFrame]] = {}
    points = POINTS if len(grid.panels) < MANY_PANELS else POINTS_OF_MANY
    for setup, of_setup in curves.groupby("setup", observed=True):
        by_setup[str(setup)] = {
            str(quantity): _thinned(curve[["step", "mean", "std", "seeds"]], points)
            for quantity, curve in of_setup.groupby("quantity", observed=True)
        }
    rules = sorted({facts["rule"] for facts in grid.facts.values() if facts["panel"]})
    lost = runs[runs["diverged_at"].notna()].groupby("setup")["diverged_at"].apply(list).to_dict()
    for panel in grid.panels:
        members = [grid.facts[key] for key in panel.setups]
        for attack in sorted({facts["attack"] for facts in members}):
            under = [facts for facts in members if facts["attack"] == attack]
            drawn = {
                (facts["placement"], facts["rule"], quantity): curve
                for facts in under
                for quantity, curve in by_setup.get(facts["setup"], {}).items()
            }
            yield (
                panel,
                attack,
                Comparison(
                    name=slug(f"{panel.name}-{attack}"),
                    title=f"{panel.title}, " + ("no attack" if attack == "none" else f"attack: {attack}"),
                    curves=drawn,
                    reference=by_setup.get(panel.reference, {}),
                    bounds={facts["rule"]: facts["bound"] for facts in under},
                    rules=rules,
                    diverged={
                        (facts["placement"], facts["rule"]): lost[facts["setup"]]
                        for facts in under
                        if facts["setup"] in lost
                    },
                ),
            )


def _thinned(curve: pd.DataFrame, points: int) -> pd.DataFrame:
    if len(curve) <= points:
        return curve.reset_index(drop=True)
    block = np.arange(len(curve)) // -(-len(curve) // points)
    return curve.groupby(block).mean()


def _line(curve: pd.DataFrame) -> bool:
    return int((curve["mean"] > 0).sum()) > 1


def draw(comparison: Comparison, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Draw what there is to draw.

    Returns:
        the files' names, without their ends, by kind of figure; and what could not be drawn, and why.
    """
    drawings: dict[str, Callable[[Comparison], Figure]] = {"curves": curves_figure, "ratios": ratios_figure}
    drawn, problems = {}, []
    for kind, figure in drawings.items():
        if comparison.curves if kind == "curves" else comparison.rules_with_ratios:
            name = f"{kind}-{comparison.name}"
            try:
                save(figure(comparison), folder, name)
            except Exception as error:  # the report goes on without it
                reason = " ".join(str(error).split())
                problems.append(visible(f"{name} cannot be drawn ({type(error).__name__}: {reason})"))
            else:
                drawn[kind] = name
    return drawn, problems


@own_settings()
def curves_figure(comparison: Comparison) -> Figure:
    """Test accuracy above, average loss below; a column for each placement, a line for each rule."""
    placements = comparison.placements
    figure = Figure(figsize=(0.9 + 4.1 * len(placements), 5.6), layout="constrained")
    axes = figure.subplots(2, len(placements), sharex=True, sharey="row", squeeze=False)
    for column, placement in zip(axes.T, placements, strict=True):
        for quantity, one in zip(("accuracy", "loss"), column, strict=True):
            _lines(one, comparison, placement, quantity)
        column[0].set_title(f"momentum: {PLACEMENTS[placement]}", fontsize=10)
        column[1].set_xlabel("step")
    axes[0, 0].set(ylabel="test accuracy", ylim=(0, 1.02))
    _log_scale(axes[1, 0])
    axes[1, 0].set(ylabel="average loss", ylim=_loss_range(comparison))
    legend(figure, columns=4, first=[plain(rule) for rule in comparison.rules])
    figure.suptitle(fitted(comparison.title, 10.5, figure.get_figwidth() - 0.2), fontsize=10.5)
    return figure


def _log_scale(axes: Axes) -> None:
    """With two marks between powers of ten: with all eight, a figure is mostly marks."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))


def _lines(axes: Axes, comparison: Comparison, placement: str, quantity: str) -> None:
    lowest, highest = _loss_range(comparison)
    # A little inside the axes, or the frame would hide the line.
    edge = highest * (lowest / highest) ** 0.012 if quantity == "loss" else np.inf
    for index, rule in enumerate(comparison.rules):
        curve = comparison.curves.get((placement, rule, quantity))
        if curve is None:
            continue
        colour, style = style_of(index)
        step, mean, std = (curve[name].to_numpy(dtype="float64") for name in ("step", "mean", "std"))
        shown = np.minimum(mean, edge)
        axes.plot(step, shown, color=colour, ls=style, lw=1.3, label=plain(rule))
        if (curve["seeds"] > 1).any():
            lower, upper = np.clip(mean - std, 1e-12, edge), np.minimum(mean + std, edge)
            axes.fill_between(step, lower, upper, color=colour, alpha=0.15, lw=0)
        for step_lost in comparison.diverged.get((placement, rule), []) if quantity == "loss" else []:
            before = np.flatnonzero(np.isfinite(shown) & (step <= step_lost))
            height = np.clip(shown[before[-1]], lowest, edge) if len(before) else edge
            axes.plot(step_lost, height, "x", color=colour, ms=7, mew=1.8, clip_on=False, label="a seed diverged")
    if quantity in comparison.reference:
        known = comparison.reference[quantity]
        axes.plot(known["step"], known["mean"], color=BLACK, ls=":", lw=1.4, label="no attack")
    axes.grid(alpha=0.3)


def _loss_range(comparison: Comparison) -> tuple[float, float]:
    curves = [curve for (_, _, quantity), curve in comparison.curves.items() if quantity == "loss"]
    curves += [comparison.reference["loss"]] if "loss" in comparison.reference else []
    values = np.concatenate([curve["mean"].to_numpy(dtype="float64") for curve in curves] or [np.ones(1)])
    first = np.array([curve["mean"].iloc[0] for curve in curves], dtype="float64")
    first = first[(first > 0) & (first < HIGHEST_FIRST_LOSS)]
    start = float(np.median(first)) if len(first) else 1.0
    shown = values[np.isfinite(values) & (values > start * LOWEST_LOSS) & (values < start * HIGHEST_LOSS)]
    if not len(shown):
        return 0.1 * start, 10 * start
    return 0.8 * float(shown.min()), 1.25 * float(shown.max())


@own_settings()
def ratios_figure(comparison: Comparison) -> Figure:
    """The squared variance-norm ratio, sampled and submitted, with the rule's squared bound; one rule each."""
    rules = comparison.rules_with_ratios
    columns = 2 if len(rules) == 4 else min(3, len(rules))
    rows = -(-len(rules) // columns)
    figure = Figure(figsize=(0.6 + RATIO_WIDTH * columns, 1.0 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for one, rule in zip(axes.flat, rules, strict=False):
        _ratio_lines(one, comparison, rule)
    for one in list(axes.flat)[len(rules) :]:
        one.set_visible(False)
    for index in range(columns):
        below = axes[(len(rules) - 1 - index) // columns, index]
        below.set_xlabel("step")
        below.tick_params(labelbottom=True)
    _log_scale(axes[0, 0])
    figure.supylabel("(deviation / norm)$^2$", fontsize=10)
    legend(figure, columns=2)
    title = f"{comparison.title}. Variance-norm ratio"
    figure.suptitle(fitted(title, 10.5, figure.get_figwidth() - 0.2), fontsize=10.5)
    return figure


def _ratio_lines(axes: Axes, comparison: Comparison, rule: str) -> None:
    lines = [
        ("update", "submitted", "submitted, standard momentum", GREY, ":", 0.8),
        ("server", "submitted", "submitted, momentum at the server", GREEN, "-.", 0.9),
        ("worker", "sampled", "sampled, momentum at the workers", ORANGE, "-", 0.7),
        ("worker", "submitted", "submitted, momentum at the workers", BLUE, "-", 1.3),
    ]
    for placement, quantity, label, colour, style, width in lines:
        curve = comparison.curves.get((placement, rule, quantity))
        if curve is not None:
            shown = curve["mean"].where(curve["mean"].between(0, HIGHEST_RATIO, "right"))
            axes.plot(curve["step"], shown, color=colour, ls=style, lw=width, label=label)
    bound = comparison.bounds.get(rule, np.nan)
    if np.isfinite(bound):
        axes.axhline(bound**2, color=BLACK, ls="--", lw=1, label="the rule's bound")
    title = rule if np.isfinite(bound) else f"{rule} (no known bound)"
    axes.set_title(fitted(title, 9, RATIO_WIDTH - 0.4), fontsize=9)
    axes.grid(alpha=0.3)


@own_settings()
def overview_figure(runs: pd.DataFrame) -> Figure | None:
    """Best accuracies of all attacked setups and seeds: a box for each attack and placement, by data set, n and f; and
    by learning rate and Nesterov, where these differ."""
    attacked = runs[(runs["attack"] != "none") & runs["state"].isin(DONE) & runs["best_accuracy"].notna()]
    if not len(attacked):
        return None
    if attacked["attack"].nunique() > MANY_ATTACKS:  # a search over their options
        attacked = attacked.assign(attack=attacked["attack"].str.partition(" (")[0])
    apart = _trained_apart(attacked)
    rows = _overview_rows(attacked, apart)
    columns = max(map(len, rows))
    titles = [_overview_title(here, apart) for row in rows for here in row]
    width, room = _overview_widths(attacked, titles, 0.6 if apart else 1.2)
    figure = Figure(figsize=(1.0 + columns * width, 0.7 + 2.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, sharey=True, squeeze=False)
    for row, shown in zip(axes, rows, strict=True):
        for one in row[len(shown) :]:
            one.set_visible(False)
        for one, here in zip(row, shown, strict=False):
            _boxes(one, here, room)
            if len(here[TRAINING].drop_duplicates()) == 1:  # the median over several rates would be that of none
                _unattacked_line(one, runs[runs["setup"].isin(here["reference_setup"]) & runs["state"].isin(DONE)])
            one.set_title(fitted(_overview_title(here, apart), 10, width - 0.2), fontsize=10)
        row[0].set(ylabel="best test accuracy", ylim=(0, 1.08))  # with room for the line's label
    return figure


def _trained_apart(attacked: pd.DataFrame) -> bool:
    """Whether learning rates, and with and without Nesterov, get axes of their own: there are several, not too many."""
    several = attacked.groupby("dataset")[TRAINING].nunique().gt(1).to_numpy().any()
    return bool(several) and attacked.groupby([*SIZE, *TRAINING]).ngroups <= OVERVIEW_AXES


def _overview_rows(attacked: pd.DataFrame, apart: bool) -> list[list[pd.DataFrame]]:
    """The runs of each axes, row by row: a row for each data set; if training is distinguished, for each size."""
    row, within = (SIZE, TRAINING) if apart else (SIZE[:1], SIZE[1:])
    rows = []
    for _, of_row in attacked.groupby(row):
        shown = [here for _, here in of_row.groupby(within)]
        if apart:
            shown.sort(key=lambda here: _first_rate(here["rate"].iloc[0]))
        most = OVERVIEW_COLUMNS if apart else len(shown)
        rows += [shown[start : start + most] for start in range(0, len(shown), most)]
    return rows


def _first_rate(rate: str) -> float:
    """0.02 of "0.02" and of "0.02 → 0.004"; the latter's axes come after, as sorting keeps the order of equals."""
    return float(rate.partition(" ")[0])


def _overview_widths(attacked: pd.DataFrame, titles: list[str], margin: float) -> tuple[float, float]:
    """How wide an axes is, and how wide the name of an attack may be, in inches: so that none runs into the next."""
    attacks, placements = attacked["attack"].unique(), attacked["placement"].nunique()
    longest_word = max(width_of(word, 9) for attack in attacks for word in attack.split())
    room = min(max(0.62 * placements, longest_word + 0.1), 2.0)
    title = max(width_of(line, 10) for title in titles for line in title.split("\n")) + 0.3
    return max(margin + room * len(attacks), min(title, 3.4)), room


def _overview_title(here: pd.DataFrame, apart: bool) -> str:
    one = here.iloc[0]
    title = f"{one['dataset']}, n = {one['n']}, f = {one['f']}"
    return title + (f"\nrate {one['rate']}" + ", Nesterov" * bool(one["nesterov"])) * apart


def _boxes(axes: Axes, runs: pd.DataFrame, room: float) -> None:
    """The boxes of an axes; `room`: for the name of an attack, in inches."""
    ticks, position, middles = [], 0.0, {}
    for attack in sorted(runs["attack"].unique()):
        began = position
        for placement in PLACEMENTS:
            values = runs.loc[(runs["attack"] == attack) & (runs["placement"] == placement), "best_accuracy"].to_numpy()
            if len(values):
                _box(axes, position, values, PLACEMENT_COLOURS[placement])
                ticks.append((position, {"update": "standard", "server": "server", "worker": "workers"}[placement]))
                position += 1
        middles[attack] = (began + position - 1) / 2
        position += 0.6
    axes.set_xticks([at for at, _ in ticks], [word for _, word in ticks], fontsize=8)
    for attack, middle in middles.items():
        axes.annotate(
            fitted(attack, 9, room), (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, -20),
            textcoords="offset points", ha="center", va="top", fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.grid(alpha=0.3, axis="y")


def _box(axes: Axes, position: float, values: np.ndarray, colour: str) -> None:
    few = len(values) <= FEW
    drawn = axes.boxplot(
        values, positions=[position], widths=0.62, patch_artist=True, showfliers=not few,
        medianprops={"color": BLACK, "lw": 1.6}, flierprops={"marker": ".", "ms": 3, "markeredgecolor": colour},
    )  # fmt: skip
    drawn["boxes"][0].set(facecolor=colour, alpha=0.4, edgecolor=colour)
    if few:
        # Spread evenly, not at random: the same data give the same figure.
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(position + spread, np.sort(values), ".", color=colour, ms=4, alpha=0.9)


def _unattacked_line(axes: Axes, runs: pd.DataFrame) -> None:
    known = runs["best_accuracy"].dropna()
    if len(known):
        axes.axhline(float(known.median()), color=BLACK, ls=":", lw=1.4)
        axes.text(
            0.99, float(known.median()), "no attack ", transform=axes.get_yaxis_transform(), fontsize=8,
            ha="right", va="bottom",
        )  # fmt: skip
