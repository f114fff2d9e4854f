"""docs/benchmarks.md and its figure, from the figures that the benchmarks wrote.

    python benchmarks/page.py --results DIR [--docs docs]

A section whose file is missing in DIR is left out.
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from growth import AXES, QUANTITIES, cell, count
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from measured_limits import BATCH, GIGA, D, H, N
from peers import PUBLISHED
from rules import ENUMERATED, OURS, PROBE_SHAPE, PROBE_TOLERANCE, mistaken, wrong
from steps import medians

from byzray.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE

Figures = dict[str, Any]

PEER_STYLES = {PUBLISHED: (ORANGE, "o"), "byzfl": (GREEN, "s"), "krum": (PURPLE, "D"), "byzpy": (BLACK, "^")}

COMMANDS = """\
$ pip install --no-deps --target PEERS byzfl byzpy seaborn
$ pip install --no-deps --ignore-requires-python --target PEERS krum
$ python benchmarks/steps.py --published CHECKOUT --peers PEERS --json RESULTS/steps.json
$ python benchmarks/rules.py --published CHECKOUT --peers PEERS --json RESULTS/rules.json
$ python benchmarks/actor_steps.py --json RESULTS/actors.json
$ python benchmarks/sweep_overhead.py --runs 10 --dataset mnist --steps 300 --json RESULTS/sweeps.json
$ python benchmarks/growth.py --json RESULTS/growth.json
$ python benchmarks/growth_figure.py RESULTS/growth.json
$ python benchmarks/page.py --results RESULTS"""


def page(results: Path) -> str:
    """The whole page."""
    found = {name: json.loads((results / f"{name}.json").read_text()) for name in SECTIONS if _has(results, name)}
    if not found:
        raise SystemExit(f"{results}: expected figures of benchmarks, found none of {', '.join(SECTIONS)}")
    parts = [introduction(_environment(found))]
    parts += [section(found[name]) for name, section in SECTIONS.items() if name in found]
    return filled("\n\n".join(parts)) + "\n"


def _environment(found: dict[str, Figures]) -> Figures:
    """That of the figures, all of one machine; of PyTorch it may name several versions."""
    environments = [figures["environment"] for figures in found.values() if "environment" in figures]
    environments += [figures["workers"]["environment"] for figures in found.values() if "workers" in figures]
    machines = {one["device"] for one in environments}
    if len(machines) != 1:
        raise SystemExit(f"expected the figures of one machine, found {sorted(machines)}")
    versions = " and ".join(sorted({one["packages"]["torch"] for one in environments}))
    return environments[0] | {"packages": environments[0]["packages"] | {"torch": versions}}


def filled(text: str) -> str:
    """Markdown with its plain paragraphs broken into lines anew, as values of any length came into them."""
    paragraphs = text.split("\n\n")
    plain = [not paragraph.startswith(("#", "|", "-", "```", "!")) for paragraph in paragraphs]
    return "\n\n".join(
        textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False) if is_plain else paragraph
        for paragraph, is_plain in zip(paragraphs, plain, strict=True)
    )


def _has(results: Path, name: str) -> bool:
    return (results / f"{name}.json").is_file()


def introduction(environment: Figures) -> str:
    """What is measured, where, and by which commands."""
    packages = environment["packages"]
    return f"""\
# Benchmarks

byzray compared with other implementations of the same rules and pre-aggregators, and with the code that was published
with the paper. They take turns, so that other load on the machine affects all of them.

![Times of the rules relative to byzray, and steps a second against the limit](figures/benchmarks.png)

*Top: how many times byzray's CPU time others take for each rule, on one thread. Hollow: defined otherwise, so that the
result is another one. Bottom: steps a second of the paper's MNIST setups, and the limit of the machine.*

Measured on {environment["device"]}, Python {environment["python"]}, PyTorch {packages["torch"]},
numpy {packages["numpy"]}. CHECKOUT is a checkout of the published code, which is not part of this repository;
MNIST lies where byzray finds it.

```console
{COMMANDS}
```

This page and its figure are written by the last command."""


def steps_section(figures: Figures) -> str:
    """Steps a second, the limit, and the parts of our step."""
    return f"""\
## Steps

The paper's setup on MNIST: n = 51, f = 24, learning rate 0.5, `little` with the factor 1.5, momentum at the workers.
byzray and the published code write all metrics of every step, and measure the accuracy on 10,000 images every 5 steps.
Threads: {figures["limit"]["threads"]} in all; the published code has another process read images. CPU time is that of
all processes. byzfl runs its own loop (`benchmarks/loops.py`): the same job without metrics, clipping, regularisation
and files. Blades has such a loop, too, but its release asks for torchvision 0.15, that is PyTorch 2.0: it is not
measured.

{_steps_table(figures)}

By turns, medians of the runs (`{figures["options"]}`).

### The limit

{_limit_text(figures["limit"])}

### Where a step spends its time

Milliseconds a step of byzray.

{_parts_table(figures["rules"])}"""


def _steps_table(figures: Figures) -> str:
    limit = figures["limit"]["seconds a step"]
    rows = []
    for rule, found in figures["rules"].items():
        own = medians(found["byzray"])
        compared = ["-", "-", "-"]
        if found["published"]:
            other = medians(found["published"])
            compared = [f"{1 / other.wall:.2f}", ratio(other.wall / own.wall), ratio(other.cpu / own.cpu)]
        of_byzfl = ["-", "-"]
        if found.get("byzfl"):
            other = medians(found["byzfl"])
            of_byzfl = [f"{1 / other.wall:.2f}", ratio(other.wall / own.wall)]
        rows.append([rule, f"{1 / own.wall:.1f}", *compared, *of_byzfl, f"{limit / own.wall:.0%}"])
    columns = ["rule", "byzray, steps/s", "published code, steps/s", "times as fast", "times less CPU time"]
    return table([*columns, "byzfl, steps/s", "times as fast", "share of the limit"], rows)


def _limit_text(limit: Figures) -> str:
    operations, traffic, seconds = (limit[key] for key in ("operations a second", "bytes a second", "seconds a step"))
    rows = [
        [
            term["purpose"],
            f"`{term['formula']}`",
            f"{term['value'] / 1e6:.1f} {unit}",
            f"{1e3 * term['value'] / rate:.2f}",
        ]
        for unit, rate, terms in (
            ("Mflop", operations, limit["operations"]),
            ("MB", traffic, limit["bytes"]),
        )
        for term in terms
    ]
    rates = [
        [name, f"{rate / GIGA:.1f} {unit}"]
        for unit, found in (("Gflop/s", limit["products"]), ("GB/s", limit["copies"]))
        for name, rate in found.items()
    ]
    return f"""\
What a step cannot do without, at the best rates of this machine with as many threads: {operations / GIGA:.0f} Gflop/s
in the fastest float32 product, and {traffic / GIGA:.1f} GB/s, read and written, in a copy beyond the caches. With
n = {N}, h = {H}, b = {BATCH} and d = {D:,} that is {1e3 * seconds:.1f} ms a step, {1 / seconds:.0f} steps/s.

{table(["what", "formula", "count", "ms"], rows)}

{table(["measured", "rate"], rates)}

A rule's own work is not counted. Nor is anything overlapped; and what is only read, or stays in a large cache, could be
faster than a copy."""


def _parts_table(rules: Figures) -> str:
    parts = list(next(iter(rules.values()))["parts"])
    rows = [[part, *(f"{found['parts'][part]:.2f}" for found in rules.values())] for part in parts]
    return table(["part", *rules], rows)


def rules_section(figures: Figures) -> str:
    """Times of the rules and of their peers, who is faster, and who is wrong."""
    names = [OURS, *figures["versions"]]
    shapes = dict.fromkeys((case["n"], case["d"], case["f"]) for case in figures["rules"])
    times = "\n\n".join(
        f"n = {n}, d = {d:,}, f = {f}:\n\n{_times_table(_of_shape(figures, (n, d, f)), names)}" for n, d, f in shapes
    )
    n, d, f = PROBE_SHAPE
    return f"""\
## Rules

Milliseconds of CPU time on one thread, medians of calls by turns; in brackets, how many times byzray's. Of the n
submissions f are equal ones of `little`. A pre-aggregator is timed until its rows are formed. A star: defined
otherwise, see below. Compared: {_versions(figures)}

{times}

{_standing(figures)}

Defined otherwise:

{_definitions(figures)}

### At the edge

Near consensus (a mean of about 1,000 in every coordinate, noise of 0.001 in honest submissions and 0.03 in the others)
a distance computed from norms and products has no digit left. The error is the distance from the same rule in double
precision, in units of an honest submission's distance from the mean, and the largest of a pre-aggregator's rows;
n = {n}, d = {d:,}, f = {f}. "NaN": so is the aggregate if the f Byzantine submissions are.

{_probes_table(figures["probes"], names)}

{_all_mistaken(figures["probes"])}"""


def _of_shape(figures: Figures, shape: tuple[int, int, int]) -> list[Figures]:
    return [case for case in figures["rules"] if (case["n"], case["d"], case["f"]) == shape]


def _versions(figures: Figures) -> str:
    found = [f"{name} {version}" for name, version in figures["versions"].items()]
    absent = [f"{name} could not be imported ({reason})" for name, reason in figures["absent"].items()]
    return "; ".join([", ".join(found), *absent]) + "."


def _times_table(cases: list[Figures], names: Sequence[str]) -> str:
    rows = []
    for case in cases:
        own = median(case["contenders"][OURS]["seconds"])
        rows.append([case["rule"], *(_time(case["contenders"].get(name), own, name) for name in names)])
    return table(["rule", *names], rows)


def _time(outcome: Figures | None, own: float, name: str) -> str:
    if outcome is None or outcome["hindered"]:
        return "" if outcome is None else outcome["hindered"]
    middle = median(outcome["seconds"])
    if name == OURS:
        return milliseconds(middle)
    return f"{milliseconds(middle)} ({ratio(middle / own)}){'*' if outcome['definition'] else ''}"


def _standing(figures: Figures) -> str:
    summary = figures["summary"]
    sentences = []
    if summary["geometric mean to published"] is not None:
        mean = summary["geometric mean to published"]
        sentences.append(
            f"The published code takes {mean:.1f} times our time, the geometric mean of these cases "
            f"without {ENUMERATED}, where it tries all subsets."
        )
    faster = [
        f"{name}'s {case['rule']} at n = {case['n']} ({ratio(share)} of our time"
        f"{', defined otherwise' if case['contenders'][name]['definition'] else ''}"
        f"{', wrong near consensus' if mistaken(figures['probes'].get(case['rule'], {}).get(name)) else ''})"
        for case, name, share in ratios(figures)
        if share < 1
    ]
    sentences.append(f"Faster than byzray: {', '.join(faster)}." if faster else "No peer is faster than byzray.")
    differing = [
        f"{name}'s {case['rule']} at n = {case['n']} ({case['contenders'][name]['difference']:.1g} of the norm)"
        for case, name, _ in ratios(figures)
        if wrong(case["contenders"][name])
    ]
    if differing:
        sentences.append(f"Of another result than their own definition gives with us: {', '.join(differing)}.")
    if summary.get("times krum"):
        sentences.append(_of_krum(summary["times krum"]))
    return " ".join(sentences)


def _of_krum(found: list[Figures]) -> str:
    times: dict[str, list[str]] = {}
    for one in found:
        times.setdefault(one["rule"], []).append(ratio(one["times"]))
    sizes = " and ".join(dict.fromkeys(str(one["n"]) for one in found))
    each = ", ".join(f"{rule} {' and '.join(ratios)}" for rule, ratios in times.items())
    return f"In multiples of its krum's time, byzray's take at n = {sizes}: {each}."


def ratios(figures: Figures) -> Iterator[tuple[Figures, str, float]]:
    """Every case with every peer that was timed in it, and how many times our time it takes."""
    for case in figures["rules"]:
        own = median(case["contenders"][OURS]["seconds"])
        for name, outcome in case["contenders"].items():
            if name != OURS and outcome["seconds"]:
                yield case, name, median(outcome["seconds"]) / own


def _definitions(figures: Figures) -> str:
    found = {
        f"- {name}, {case['rule']}: {case['contenders'][name]['definition']}": None
        for case, name, _ in ratios(figures)
        if case["contenders"][name]["definition"]
    }
    return "\n".join(found)


def _probes_table(probes: Figures, names: Sequence[str]) -> str:
    rows = [[rule, *(_probe(found.get(name)) for name in names)] for rule, found in probes.items()]
    return table(["rule", *names], rows)


def _probe(found: Figures | None) -> str:
    if found is None:
        return ""
    error = "not compared" if found["error"] is None else f"{found['error']:.2g}"
    return f"{error}, NaN" if found["survives"] is False else error


def _all_mistaken(probes: Figures) -> str:
    found = [f"{rule} of {name}" for rule, outcomes in probes.items() for name in outcomes if mistaken(outcomes[name])]
    if not found:
        return f"No error is above {PROBE_TOLERANCE}: none selects other submissions."
    return f"Above {PROBE_TOLERANCE}, as where other submissions are selected: {', '.join(found)}."


def milliseconds(seconds: float) -> str:
    """With about three digits."""
    return f"{1e3 * seconds:.2f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def ratio(value: float) -> str:
    """With about two digits."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and all others to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def actors_section(figures: Figures) -> str:
    """What steps cost on actors."""
    layouts = figures["layouts"]
    names = list(next(iter(layouts.values())))
    rows = [[name, *(f"{found[name]:.2f}" for found in layouts.values())] for name in names]
    return f"""\
## Actors

A step of the same workers in one process, on the actors of a fleet, and on plainly written Ray actors: a `.remote()`
call for each actor and step, answered with numpy arrays (d = 79,510, without attack). What actors cost *beyond* is
their time less that in process; the ratio is that of the fleet to the plain ones. The second run's first step counts
from the call of `simulate` on a fleet that is already there.

{table(["actors x workers of each", *layouts], rows)}"""


def sweeps_section(figures: Figures) -> str:
    """How busy a sweep keeps its slots."""
    columns = ["slots computing", "seconds in all", "seconds a run computes", "further seconds a run costs"]
    row = [f"{figures['busy']:.1%}", *(f"{figures[name]:.2f}" for name in ("seconds", "computing", "further"))]
    return f"""\
## Sweeps

{figures["runs"]} runs of {figures["steps"]} steps on {figures["dataset"]}, one CPU each, on actors that compute run
after run. Slots count from the start of the first run's actor, which has yet to import PyTorch.

{table(columns, [row])}"""


def growth_section(figures: Figures) -> str:
    """How time and memory grow, with the exponents and what sets them."""
    parts = [
        """\
## Growth

![Time and memory of a step by workers, parameters and actors](figures/growth.png)

Every point is measured in a process of its own. Memory is the peak beyond what the process had before. Exponents are
slopes between logarithms over the upper half of each range. The machine did other work meanwhile, and unlike a ratio of
two sides that take turns, a single point is affected by it."""
    ]
    for name, unit in AXES.items():
        if name in figures:
            parts += [f"### By {unit}", _growth_table(name, figures[name]["curves"]), _set_by(figures[name]["curves"])]
    if "samples" in figures.get("steps", {}):
        parts += ["### By steps", _long_run(figures["steps"])]
    return "\n\n".join(parts)


def _growth_table(name: str, curves: list[Figures]) -> str:
    rows = []
    for one in curves:
        for quantity, unit in QUANTITIES[name].items():
            cells = [cell(point.get(quantity), unit) for point in one["points"]]
            power = one["exponents"][quantity]
            rows.append([f"{one['name']}, {unit}", *cells, "-" if power is None else f"{power:.2f}"])
    return table(["", *(count(point["at"]) for point in curves[0]["points"]), "exponent"], rows)


def _set_by(curves: list[Figures]) -> str:
    words = {"seconds": "time", "increase": "memory"}
    lines = {
        f"- {one['name']}: {'; '.join(f'{words.get(what, what)}: {reason}' for what, reason in one['set by'].items())}."
        for one in curves
    }
    failed = [
        f"- {one['name']} at {point['at']:,}: {point['failed']}."
        for one in curves
        for point in one["points"]
        if "failed" in point
    ]
    return "\n".join([*sorted(lines), *failed])


def _long_run(found: Figures) -> str:
    (begin, before), (end, after) = (found["samples"][index] for index in (len(found["samples"]) // 2, -1))
    return f"""\
{found["steps"]:,} steps of a small setup in one process: {before / 1e6:.1f} MB resident at step {begin:,},
{after / 1e6:.1f} at step {end:,}, {found["slope"]:+.0f} kB per 1,000 steps over the second half: {found["set by"]}."""


# Each benchmark's: the name of its file, and what makes a section of its content.
SECTIONS: dict[str, Callable[[Figures], str]] = {
    "steps": steps_section,
    "rules": rules_section,
    "actors": actors_section,
    "sweeps": sweeps_section,
    "growth": growth_section,
}


def draw(results: Path) -> Figure:
    """The figure of the page, with the panels whose figures there are."""
    rules = json.loads((results / "rules.json").read_text()) if _has(results, "rules") else None
    steps = json.loads((results / "steps.json").read_text()) if _has(results, "steps") else None
    shapes = list(dict.fromkeys((case["n"], case["d"], case["f"]) for case in rules["rules"])) if rules else []
    rows = list(dict.fromkeys(case["rule"] for case in rules["rules"])) if rules else []
    heights = ([1.1 + 0.3 * len(rows)] if rows else []) + ([2.6] if steps else [])
    figure = Figure(figsize=(10.4, sum(heights)), layout="constrained")
    bands = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if rules:
        axes = bands[0].subplots(1, len(shapes), sharex=True, sharey=True, squeeze=False)[0]
        for ax, shape in zip(axes, shapes, strict=True):
            draw_rules(ax, _of_shape(rules, shape), rows, list(rules["versions"]))
            ax.set_title("n = {}, d = {:,}, f = {}".format(*shape), fontsize=10)
        handles, labels = axes[0].get_legend_handles_labels()
        bands[0].legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    if steps:
        draw_steps(bands[-1].subplots(), steps)
    return figure


def draw_rules(ax: Axes, cases: list[Figures], rows: Sequence[str], names: Sequence[str]) -> None:
    """Times relative to ours, a row a rule; peers stand at different heights, so that none hides another."""
    ax.axvline(1, color=BLUE, linewidth=2, label=OURS)
    heights = {case["rule"]: rows.index(case["rule"]) for case in cases}
    for index, name in enumerate(names):
        colour, marker = PEER_STYLES[name]
        ax.plot([], [], marker, color=colour, label=name)
        offset = 0.22 * (index - (len(names) - 1) / 2)
        for case in cases:
            outcome = case["contenders"].get(name)
            if outcome is not None and outcome["seconds"]:
                share = median(outcome["seconds"]) / median(case["contenders"][OURS]["seconds"])
                face = "none" if outcome["definition"] else colour
                height = heights[case["rule"]] + offset
                ax.plot(share, height, marker, color=colour, markerfacecolor=face, markersize=5)
    for case in cases:
        hindered = {name: one["hindered"] for name, one in case["contenders"].items() if one["hindered"]}
        if hindered:
            reasons = " or ".join(dict.fromkeys(reason.partition(",")[0] for reason in hindered.values()))
            text = f"{', '.join(hindered)}: {reasons}"
            ax.text(1.3, heights[case["rule"]], text, va="center", fontsize=7, color=GREY)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,g}"))
    ax.set_yticks(range(len(rows)), [rule.replace(" searched against", " searched,") for rule in rows])
    ax.tick_params(labelsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks([row + 0.5 for row in range(len(rows) - 1)], minor=True)
    ax.grid(axis="y", which="minor", color="0.9")
    ax.tick_params(axis="y", which="minor", length=0)
    ax.set_axisbelow(True)
    ax.set_xlabel("CPU time, times byzray's", fontsize=9)


def draw_steps(ax: Axes, figures: Figures) -> None:
    """Steps a second by rule, of both, and the limit."""
    limit = 1 / figures["limit"]["seconds a step"]
    for row, found in enumerate(figures["rules"].values()):
        for offset, name, colour in ((-0.2, "byzray", BLUE), (0.2, "published", ORANGE)):
            if found[name]:
                speed = 1 / medians(found[name]).wall
                ax.barh(row + offset, speed, height=0.36, color=colour)
                text = f" {speed:.2g}" if speed < 10 else f" {speed:.0f}"
                ax.annotate(text, (speed, row + offset), va="center", fontsize=8)
    ax.axvline(limit, color=GREY, linestyle=":")
    ax.annotate(f"the limit, {limit:.0f} ", (limit, -0.75), ha="right", va="center", fontsize=8, color=GREY)
    ax.set_yticks(range(len(figures["rules"])), list(figures["rules"]))
    ax.tick_params(labelsize=8)
    ax.set_ylim(len(figures["rules"]) - 0.5, -1)
    ax.set_xlabel(f"steps/s (blue: {OURS}, orange: {PUBLISHED})", fontsize=9)


def main() -> None:
    """Write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the benchmarks' JSON files")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs", help="where to write")
    given = parser.parse_args()
    text = page(given.results)
    (given.docs / "figures").mkdir(parents=True, exist_ok=True)
    (given.docs / "benchmarks.md").write_text(text, encoding="utf-8")
    draw(given.results).savefig(given.docs / "figures" / "benchmarks.png", dpi=150)


if __name__ == "__main__":
    main()
