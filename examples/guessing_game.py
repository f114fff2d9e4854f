"""Eight numbers around mu: is mu positive? A game, then a plot of how often a vote of the eight is wrong.

The numbers are drawn from N(mu, sigma^2) with sigma = 1. In the later rounds some come from an adversary who knows the
answer, sees the honest numbers, and hides in their spread (the attack `little`). The plot simulates thousands of games:
with more and more adversaries, and with averaging over time after the vote (momentum at the server) or before it, at
each voter (momentum at the workers). Page: docs/guessing-game.md.

Shapes in names: N voters, H honest ones, F adversaries, G games, P points of a curve.
"""

import argparse
import math
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table
from torch import Tensor

from byzray.aggregators import Aggregator, Average, Median
from byzray.attacks import Little, View
from byzray.defence import Defence
from byzray.randomness import generator
from byzray.step import Step

VOTERS, ADVERSARIES = 8, 3
MEAN, MEDIAN, ATTACK = Average(), Median(), Little(factor=1.5)
MOMENTUM, STEPS = 0.9, 60  # what came before the last 60 steps would weigh 0.2 %
QUIETER = math.sqrt((1 + MOMENTUM) / (1 - MOMENTUM))  # by this the average of momentum divides the noise
# In one dimension deviation / norm is sigma / |mu|. From this |mu| / sigma on the median is proven to resist.
PROVEN = 1 / MEDIAN.bound(VOTERS, ADVERSARIES)
PLACES = ("one vote", "vote, then average", "average, then vote")
RATIOS_P = torch.logspace(math.log10(0.05), math.log10(5), 61, dtype=torch.float64)
TABLE_RATIOS_P = torch.tensor([0.1, 0.2, 0.5, 1, 2], dtype=torch.float64)

# Okabe and Ito's palette: by the number of adversaries, and by where the average over time is taken.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#D55E00")
PLACE_COLOURS = dict(zip(PLACES, ("#000000", "#D55E00", "#0072B2"), strict=True))


class Round(NamedTuple):
    """One question: the ratio |mu| / sigma, and how many of the numbers are the adversary's."""

    ratio: float
    f: int


class Played(NamedTuple):
    """Who was right in a round."""

    round: Round
    player: bool
    mean: bool
    median: bool


ROUNDS = [Round(ratio, 0) for ratio in (2, 1, 0.5, 0.25, 0.1)]
ROUNDS += [Round(ratio, f) for f in (2, 3) for ratio in (2, 1, 0.5)]


# The vote and the adversary, the same in the game and in the simulation.


def vote(rule: Aggregator, numbers_NG: Tensor, f: int) -> Tensor:
    """The rule's answer in every game, (G,).

    The package's median of an even number of values is the lower of the two in the middle, and would favour a minus.
    Together with the vote on the mirrored numbers it is the middle between the two. The mean stays what it is.
    """
    return (rule(numbers_NG, f) - rule(-numbers_NG, f)) / 2


def attacked(honest_HG: Tensor, f: int) -> Tensor:
    """The honest numbers, then those of f adversaries, for mu > 0: a game is a coordinate of the package's attack."""
    if not f:
        return honest_HG
    step, workers_H = Step(n=len(honest_HG) + f, f=f), tuple(range(len(honest_HG)))
    view = View(step, byzantine=f, defence=Defence([], MEDIAN).at(step, {}), workers_H=workers_H)
    return torch.cat((honest_HG, ATTACK(honest_HG, view)))


# The simulation.


def noise(seed: int, purpose: str, games: int, step: int = 0) -> Tensor:
    """What eight honest numbers are away from mu, in units of sigma, (N, G)."""
    return torch.from_numpy(generator(seed, f"guessing game, {purpose}", step).standard_normal((VOTERS, games)))


def error_rate(vote_G: Tensor, ratios_P: Tensor) -> Tensor:
    """The share of wrong answers at every ratio, (P,), given how far the votes are from mu.

    Mean, median and attack move along when all numbers are moved, so one set of games serves every ratio. They mirror
    along as well, so mu > 0 stands for both signs.
    """
    return (vote_G[:, None] + ratios_P <= 0).double().mean(dim=0)


def single_votes(games: int, seed: int) -> dict[tuple[str, int], Tensor]:
    """By rule and number of adversaries, how far a vote is from mu, (G,) each."""
    noise_NG = noise(seed, "single votes", games)
    return {
        (name, f): vote(rule, attacked(noise_NG[: VOTERS - f], f), f)
        for f in range(ADVERSARIES + 1)
        for name, rule in (("mean", MEAN), ("median", MEDIAN))
    }


def averaged_votes(games: int, seed: int) -> dict[str, Tensor]:
    """By where the average over time is taken, how far the median's vote is from mu, (G,) each.

    Three adversaries hide anew at every vote. The average is that of momentum, scaled to weights of sum 1.
    """
    honest = VOTERS - ADVERSARIES
    memory_HG, memory_G = torch.zeros(honest, games).double(), torch.zeros(games).double()
    for step in range(STEPS):
        noise_HG = noise(seed, "averaged votes", games, step)[:honest]
        vote_G = vote(MEDIAN, attacked(noise_HG, ADVERSARIES), ADVERSARIES)
        memory_G = MOMENTUM * memory_G + vote_G
        memory_HG = MOMENTUM * memory_HG + noise_HG
    scale = (1 - MOMENTUM) / (1 - MOMENTUM**STEPS)
    before_G = vote(MEDIAN, attacked(scale * memory_HG, ADVERSARIES), ADVERSARIES)
    return dict(zip(PLACES, (vote_G, scale * memory_G, before_G), strict=True))


# The game.


def deal(number: int, seed: int) -> tuple[Tensor, Tensor, bool]:
    """Honest numbers (H, 1), adversary's numbers (F, 1), and whether mu is positive."""
    ratio, f = ROUNDS[number]
    rng = generator(seed, "guessing game, round", number)
    sign = int(rng.choice((-1, 1)))
    honest_H1 = ratio + torch.from_numpy(rng.standard_normal((VOTERS - f, 1)))
    # A person would see at once that the adversary's numbers are equal (no rule looks at that), so here they differ.
    jitter_F1 = 0.25 * torch.from_numpy(rng.standard_normal((f, 1)))
    return sign * honest_H1, sign * (attacked(honest_H1, f)[VOTERS - f :] + jitter_F1), sign > 0


def axis(numbers_N1: Tensor) -> str:
    """The numbers as marks between -5 and 5; a digit where several fall together."""
    places = [round(7 * min(max(x, -5), 5)) + 35 for x in numbers_N1.flatten().tolist()]
    marks = {place: "●" if places.count(place) == 1 else str(places.count(place)) for place in places}
    return "".join(marks.get(place, "┼" if place == 35 else "─") for place in range(71))


def listed(numbers_N1: Tensor) -> str:
    """The numbers, with their signs."""
    return "  ".join(f"{x:+.2f}" for x in numbers_N1.flatten().tolist())


def ask(console: Console) -> bool:
    """The player's answer: is mu positive?"""
    while True:
        answer = console.input("  Is mu positive? \\[y/n] ").strip().lower()
        if answer in ("y", "yes", "+"):
            return True
        if answer in ("n", "no", "-"):
            return False
        console.print("  Please answer y (or +) for positive, n (or -) for negative; Ctrl-D ends the game.")


def play_round(console: Console, number: int, seed: int) -> Played:
    """Show the numbers, ask, reveal."""
    ratio, f = ROUNDS[number]
    honest_H1, hidden_F1, positive = deal(number, seed)
    numbers_N1 = torch.cat((honest_H1, hidden_F1))
    shuffled_N = torch.from_numpy(generator(seed, "guessing game, order", number).permutation(VOTERS))
    source = f"[red]{f} of the 8 are the adversary's[/]" if f else "8 honest numbers"
    console.print(f"\n[bold]Round {number + 1} of {len(ROUNDS)}[/]   |mu| / sigma = [bold]{ratio:g}[/]   {source}")
    console.print(f"  {listed(numbers_N1[shuffled_N])}\n  {axis(numbers_N1)}\n  -5{'0':>34}{'5':>35}")
    player = ask(console) == positive
    mean, median = (vote(rule, numbers_N1, f).item() for rule in (MEAN, MEDIAN))
    verdict = "[green]Right[/]" if player else "[red]Wrong[/]"
    console.print(f"  {verdict}: mu is {ratio if positive else -ratio:+g}. Mean {mean:+.2f}, median {median:+.2f}.")
    if f:
        console.print(f"  Honest:        {listed(honest_H1)}\n  [red]Adversary's:   {listed(hidden_F1)}[/]")
        console.print(f"  [red]{axis(hidden_F1)}[/]")
    return Played(ROUNDS[number], player, (mean > 0) == positive, (median > 0) == positive)


def play(console: Console, seed: int) -> list[Played]:
    """The rounds, until the last one or the player's end."""
    console.print(
        f"Eight numbers are drawn from N(mu, sigma^2), sigma = 1. Is mu positive? mu has either sign with equal "
        f"chance. On the axis a digit counts numbers that fall together.\n"
        f"Seed {seed}: --seed {seed} deals the same numbers again. Ctrl-D ends the game."
    )
    played: list[Played] = []
    try:
        for number, (_, f) in enumerate(ROUNDS):
            if f and not ROUNDS[number - 1].f:
                console.print(
                    "\nNow an adversary who knows the answer sees the honest numbers, and sends some of its own: 1.5 "
                    "standard deviations from the honest mean, on the wrong side, with a little jitter."
                )
            played.append(play_round(console, number, seed))
    except (EOFError, KeyboardInterrupt):
        console.print(f"\n\nStopped after {len(played)} of {len(ROUNDS)} rounds.")
    return played


# What is shown at the end.


def score(played: list[Played]) -> Table:
    """Right answers of the player, and of a computer that answers by the sign of the mean or the median."""
    table = Table(title="right answers")
    for column in ("numbers", "rounds", "you", "mean", "median"):
        table.add_column(column, justify="left" if column == "numbers" else "right")
    for f in sorted({one.round.f for one in played}):
        of_f = [one for one in played if one.round.f == f]
        right = [sum(answers) for answers in zip(*((one.player, one.mean, one.median) for one in of_f), strict=True)]
        table.add_row(f"{f} of 8 the adversary's" if f else "all honest", *map(str, (len(of_f), *right)))
    return table


def error_table(title: str, rows: dict[str, Tensor]) -> Table:
    """Error rates at some ratios."""
    table = Table(title=title)
    table.add_column("|mu| / sigma")
    for ratio in TABLE_RATIOS_P.tolist():
        table.add_column(f"{ratio:g}", justify="right")
    for name, vote_G in rows.items():
        table.add_row(name, *(f"{rate:.3f}" for rate in error_rate(vote_G, TABLE_RATIOS_P).tolist()))
    return table


def legend_below(axes: Axes, handles: Sequence[Artist]) -> None:
    """A legend of three rows under the panel: inside it would cover curves."""
    columns = math.ceil(len(handles) / 3)
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns, fontsize=8, frameon=False
    )


def draw_single(axes: Axes, votes: dict[tuple[str, int], Tensor], played: list[Played]) -> None:
    """Error rates of one vote, and the player's answers, right ones below and wrong ones above."""
    styles = {"median": "-", "mean": "--"}
    for (rule, f), vote_G in votes.items():
        axes.plot(RATIOS_P, error_rate(vote_G, RATIOS_P), color=COLOURS[f], ls=styles[rule])
    handles = [Line2D([], [], color=colour, label=f"f = {f}") for f, colour in enumerate(COLOURS)]
    handles += [Line2D([], [], color="grey", ls=style, label=rule) for rule, style in styles.items()]
    for (ratio, f), player, _, _ in played:
        # Outside of the curves, and apart from other answers at the same ratio.
        outside = 0.04 * (1 + f)
        axes.plot(ratio, -outside if player else 1 + outside, "o" if player else "X", color=COLOURS[f])
    if played:
        wrong = sum(not one.player for one in played)
        handles.append(Line2D([], [], color="grey", ls="", marker="X", label=f"you, wrong: {wrong}"))
        handles.append(Line2D([], [], color="grey", ls="", marker="o", label=f"you, right: {len(played) - wrong}"))
    axes.set(title="one vote of eight, f of them the adversary's", ylabel="error rate")
    legend_below(axes, handles)


def draw_averaged(axes: Axes, votes: dict[str, Tensor]) -> None:
    """Error rates with averaging over time, and the ratios from which on the median is proven to resist."""
    for place, vote_G in votes.items():
        axes.plot(RATIOS_P, error_rate(vote_G, RATIOS_P), color=PLACE_COLOURS[place], label=place)
    for place, ratio in (("one vote", PROVEN), ("average, then vote", PROVEN / QUIETER)):
        axes.axvline(ratio, color=PLACE_COLOURS[place], ls=":", lw=1.2, label=f"{place}: bound")
    axes.set_title(f"median, f = {ADVERSARIES}, averaged over time (momentum {MOMENTUM})")
    legend_below(axes, axes.get_legend_handles_labels()[0])


def save_figure(
    path: Path, single: dict[tuple[str, int], Tensor], averaged: dict[str, Tensor], played: list[Played]
) -> None:
    """Write the figure as PNG and as SVG."""
    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    draw_single(left, single, played)
    draw_averaged(right, averaged)
    margin = 0.2 if played else 0.04
    left.set(xscale="log", ylim=(-margin, 1 + margin), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    left.set_xticks(ticks := [0.05, 0.1, 0.2, 0.5, 1, 2, 5], labels=[f"{tick:g}" for tick in ticks])
    for axes in (left, right):
        axes.set_xlabel("signal-to-noise ratio |mu| / sigma of a number")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    # A fixed salt and no date: the same seed gives the same files.
    with matplotlib.rc_context({"svg.hashsalt": "byzray"}):
        figure.savefig(path, dpi=150)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def simulate(console: Console, path: Path, games: int, seed: int, played: list[Played]) -> None:
    """The plot, and some of its values as tables."""
    console.print(f"\nSimulating {games:,} games a point, seed {seed} ...")
    single, averaged = single_votes(games, seed), averaged_votes(games, seed)
    console.print(error_table("error rate of one vote", {f"{rule}, f = {f}": v for (rule, f), v in single.items()}))
    console.print(error_table(f"median, f = {ADVERSARIES}, averaged over time", averaged))
    console.print(
        f"Standard error at most {0.5 / math.sqrt(games):.4f}. Momentum {MOMENTUM} divides the noise by {QUIETER:.2f}. "
        f"The median is proven to resist from |mu| / sigma = {PROVEN:.2f} on, with averages at the voters from "
        f"{PROVEN / QUIETER:.2f} on."
    )
    save_figure(path, single, averaged, played)
    console.print(f"figure: {path}, {path.with_suffix('.svg')}", soft_wrap=True)


def arguments() -> argparse.Namespace:
    """The command line, checked before a game begins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot-only", action="store_true", help="do not play")
    parser.add_argument("--seed", type=int, help="of the game and of the plot (default: a new one)")
    parser.add_argument("--games", type=int, default=20_000, help="simulated games a point (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("guessing-game.png"), help="the plot (default: %(default)s)"
    )
    given = parser.parse_args()
    if given.games < 1:
        parser.error(f"argument --games: needs at least 1, got {given.games}")
    if given.output.suffix != ".png":
        parser.error(f"argument --output: needs a name that ends in .png, got {given.output}")
    if not os.access(given.output.parent, os.W_OK):
        parser.error(f"argument --output: {given.output.parent} is no folder that can be written to")
    if given.seed is None:
        given.seed = secrets.randbelow(10_000)
    return given


def main() -> None:
    """Play if there is somebody to play with, then plot."""
    given = arguments()
    console = Console(highlight=False)
    played: list[Played] = []
    if not given.plot_only and sys.stdin.isatty():
        played = play(console, given.seed)
    elif not given.plot_only:
        console.print("Standard input is no terminal: no game, only the plot.")
    if played:
        console.print()
        console.print(score(played))
    simulate(console, given.output, given.games, given.seed, played)


if __name__ == "__main__":
    main()
