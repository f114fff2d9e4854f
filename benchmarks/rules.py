"""Rules, pre-aggregators and two searched attacks, next to their peers: time on one thread, agreement, and the edge.

All are called by turns on the same submissions, of which f are those of `little`. What counts is CPU time, which other
work on the machine disturbs least. What a peer answers is compared with our rule of the same definition; and near
consensus, where distances lose their digits if they are not taken with care, with that rule in double precision.
Pre-aggregators count as rules: timed until their rows are formed, and as wrong as the worst of these.

    python benchmarks/rules.py --published CHECKOUT --peers DIR [--json FILE] [--quick]

Shapes in names: N submissions, of which H honest, D parameters.
"""

import argparse
import json
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import torch
from peers import ATTACKS, PUBLISHED, RULES, Entry, Peer, attacked, load, ours, refuses
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from byzray.aggregators import Average
from byzray.attacks import Little
from byzray.environment import environment
from byzray.preaggregators import PREAGGREGATORS

OURS = "byzray"
SHAPES = ((25, 100_000, 5), (51, 79_510, 12))  # n, d, f
REPEATS = 9
LIMIT_SECONDS = 60  # a call that takes longer is stopped
SLOW_SECONDS = 2.0  # a call that takes longer is not repeated
ENUMERATED = "minimum-diameter"  # the rule for which peers try all subsets
MOST_SUBSETS = 100_000  # of which they are given so many
# What is to take at most some times our krum's time.
OF_KRUM = ("geometric-median", "monna", *PREAGGREGATORS.classes)

# A difference this large, relative to the norm, is none of rounding.
TOLERANCE = 1e-6

# Near consensus: a common mean and a little noise, more of it in the f Byzantine submissions.
PROBE_SHAPE = (51, 10_000, 12)
MEAN, NOISE, BYZANTINE_NOISE = 1e3, 1e-3, 3e-2
PROBED = tuple(
    rule for rule in RULES if rule not in (*ATTACKS, "average") and not refuses(rule, PROBE_SHAPE[0], PROBE_SHAPE[2])
)
# An error of so many times an honest submission's distance from the mean is none of rounding.
PROBE_TOLERANCE = 0.25


class Contender(NamedTuple):
    """byzray or a peer, with its implementation of one rule."""

    name: str
    entry: Entry

    def call(self, rows_ND: Tensor, f: int) -> tuple[float, Tensor]:
        """The CPU time of a call, and its result.

        Making its form of the submissions does not count. It is made for every call, as some write into it; that a copy
        lies in the caches then is to their advantage.
        """
        given = self.entry.form(rows_ND)
        began = time.process_time()
        result = self.entry.call(given, f)
        seconds = time.process_time() - began
        return seconds, torch.stack(result) if isinstance(result, list) else torch.as_tensor(result)

    def infeasible(self, rule: str, n: int, f: int) -> str | None:
        """Why it is not tried; None if it is."""
        subsets = math.comb(n, f)
        if rule != ENUMERATED or self.name == OURS or subsets <= MOST_SUBSETS:
            return None
        return f"infeasible, C({n},{f}) = {subsets:.2g}"


def contenders(rule: str, peers: list[Peer]) -> list[Contender]:
    """byzray, and those peers that have the rule."""
    call = ours()[rule]
    own = Contender(OURS, Entry(call, lambda n, f: call))
    return [own, *(Contender(peer.name, peer.entries[rule]) for peer in peers if rule in peer.entries)]


def submissions(n: int, d: int, f: int) -> Tensor:
    """Honest submissions with a common mean, and f equal ones of `little` with the factor 1.5."""
    generator = torch.Generator().manual_seed(1)
    mean_D = 0.3 * torch.randn(d, generator=generator)
    honest_HD = mean_D + torch.randn(n - f, d, generator=generator)
    attack_FD = attacked(Little(), honest_HD, f, Average())
    return torch.cat((honest_HD, attack_FD))


def near_consensus(n: int, d: int, f: int) -> Tensor:
    """Submissions that agree in all but their last digits, the f last ones less so."""
    generator = torch.Generator().manual_seed(2)
    mean_D = MEAN * torch.randn(d, generator=generator)
    noise_N1 = torch.tensor([NOISE] * (n - f) + [BYZANTINE_NOISE] * f)[:, None]
    return mean_D + noise_N1 * torch.randn(n, d, generator=generator)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so much wall time (a timer of CPU time would make its clock coarse)."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"over {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def compare(rule: str, peers: list[Peer], shape: tuple[int, int, int], repeats: int) -> dict[str, dict[str, Any]]:
    """For every contender the seconds of its calls, its difference from ours, and what hindered it."""
    n, _, f = shape
    rows_ND = submissions(*shape)
    found: dict[str, dict[str, Any]] = {}
    repeated: list[Contender] = []
    for contender in contenders(rule, peers):
        outcome: dict[str, Any] = {"seconds": [], "difference": None, "definition": contender.entry.differs}
        found[contender.name] = outcome
        outcome["hindered"] = contender.infeasible(rule, n, f)
        if outcome["hindered"]:
            continue
        if contender.name == OURS:
            contender.call(rows_ND, f)  # which compiles, in a new installation
        try:
            with limited(LIMIT_SECONDS):
                seconds, result = contender.call(rows_ND, f)
        except Exception as error:  # whatever a peer raises is its result
            if contender.name == OURS:
                raise
            outcome["hindered"] = str(error) or type(error).__name__
            continue
        outcome["difference"] = difference(result, contender.entry, rows_ND, f)
        if seconds > SLOW_SECONDS:
            outcome["seconds"].append(seconds)
        else:
            repeated.append(contender)
    for _ in range(repeats):
        for contender in repeated:
            outcome = found[contender.name]
            if outcome["hindered"]:
                continue
            try:
                with limited(LIMIT_SECONDS):
                    outcome["seconds"].append(contender.call(rows_ND, f)[0])
            except TimeoutError as error:  # a random one may end at one time and not at another
                outcome.update(seconds=[], hindered=str(error))
    return found


def difference(result: Tensor, entry: Entry, rows_ND: Tensor, f: int) -> float | None:
    """The largest difference of a coordinate from our rule of the same definition, relative to the vector's norm."""
    if entry.same is None:
        return None
    expected = entry.same(len(rows_ND), f)(rows_ND, f)
    return ((result - expected).abs().amax(dim=-1) / expected.norm(dim=-1)).max().item()


def probe(rule: str, peers: list[Peer]) -> dict[str, dict[str, Any]]:
    """For every contender its error near consensus, and whether it is finite although f submissions are not.

    The error is the distance from the same rule in double precision, in units of the distance of an honest submission
    from the mean. Of pre-aggregators it is not asked whether they are finite: the rule after them handles that.
    """
    n, d, f = PROBE_SHAPE
    rows_ND = near_consensus(*PROBE_SHAPE)
    broken_ND = submissions(n, 1000, f)
    broken_ND[n - f :] = math.nan
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders(rule, peers):
        if contender.infeasible(rule, n, f):
            continue
        error = None
        if contender.entry.same is not None:
            exact = contender.entry.same(n, f)(rows_ND.double(), f)
            distances = (contender.call(rows_ND, f)[1].double() - exact).norm(dim=-1)
            error = distances.max().item() / (NOISE * math.sqrt(d))
        survives = None if rule in PREAGGREGATORS.classes else is_finite(contender, broken_ND, f)
        found[contender.name] = {"error": error, "survives": survives}
    return found


def is_finite(contender: Contender, rows_ND: Tensor, f: int) -> bool:
    """Whether it has a result, and a finite one."""
    try:
        with limited(LIMIT_SECONDS):
            return bool(contender.call(rows_ND, f)[1].isfinite().all())
    except Exception:  # whatever a peer raises is no aggregate
        return False


def summary(compared: list[dict[str, Any]], probes: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """How we stand: against the published code on average, against the fastest peer that is not wrong, against krum.

    The average is without the rule for which the published code tries all subsets: no factor expresses the difference.
    """
    published, fastest, faster = [], [], []
    for case in compared:
        medians = {name: median(one["seconds"]) for name, one in case["contenders"].items() if one["seconds"]}
        own = medians.pop(OURS)
        if PUBLISHED in medians and case["rule"] != ENUMERATED:
            published.append(medians[PUBLISHED] / own)
        edge = probes.get(case["rule"], {})
        sound = [
            {"ratio": medians[name] / own, "peer": name, "rule": case["rule"], "n": case["n"]}
            | {"definition": case["contenders"][name]["definition"]}
            for name in medians
            if not wrong(case["contenders"][name]) and not mistaken(edge.get(name))
        ]
        if sound:
            fastest.append(min(sound, key=lambda one: one["ratio"]))
        faster += [one for one in sound if one["ratio"] < 1]
    return {
        "geometric mean to published": geometric_mean(published) if published else None,
        "worst to the fastest peer": min(fastest, key=lambda one: one["ratio"], default=None),
        "faster peers": faster,
        "times krum": times_krum(compared),
    }


def times_krum(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times our krum's time what is to take only some of it does."""
    own = {(case["rule"], case["n"]): median(case["contenders"][OURS]["seconds"]) for case in compared}
    return [
        {"rule": rule, "n": n, "times": seconds / own["krum", n]}
        for (rule, n), seconds in own.items()
        if rule in OF_KRUM and ("krum", n) in own
    ]


def wrong(outcome: dict[str, Any]) -> bool:
    """Whether a peer answered something else than its own definition."""
    return outcome["difference"] is not None and not outcome["difference"] <= TOLERANCE


def mistaken(probed: dict[str, Any] | None) -> bool:
    """Whether the error of an implementation near consensus is more than rounding."""
    return probed is not None and probed["error"] is not None and not probed["error"] <= PROBE_TOLERANCE


def times_table(compared: list[dict[str, Any]], shape: tuple[int, int, int], names: list[str]) -> Table:
    """Milliseconds of CPU time for one n, d and f."""
    n, d, f = shape
    table = Table("rule", *names, title=f"n = {n}, d = {d:,}, f = {f}: ms of CPU time", title_justify="left")
    for case in compared:
        if (case["n"], case["d"], case["f"]) == shape:
            own = median(case["contenders"][OURS]["seconds"])
            table.add_row(case["rule"], *(_time_cell(case["contenders"].get(name), own) for name in names))
    return table


def _time_cell(outcome: dict[str, Any] | None, own: float) -> str:
    if outcome is None:
        return ""
    if outcome["hindered"]:
        return outcome["hindered"]
    middle = median(outcome["seconds"])
    marks = ("*" if outcome["definition"] else "") + ("!" if wrong(outcome) else "")
    times = f"{1e3 * middle:.2f}{marks} ({1e3 * min(outcome['seconds']):.2f})"
    return times if middle == own else f"{times} x{middle / own:.1f}"


def probes_table(probes: dict[str, dict[str, dict[str, Any]]], names: list[str]) -> Table:
    """Errors near consensus, and who does not survive NaN."""
    n, d, f = PROBE_SHAPE
    title = f"n = {n}, d = {d:,}, f = {f}: error near consensus"
    table = Table("rule", *names, title=title, title_justify="left")
    for rule, found in probes.items():
        table.add_row(rule, *(_probe_cell(found.get(name)) for name in names))
    return table


def _probe_cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    error = "no such rule of ours" if found["error"] is None else f"{found['error']:.2g}"
    if mistaken(found):
        error += "!"
    return f"{error}, NaN" if found["survives"] is False else error


def print_all(figures: dict[str, Any], console: Console) -> None:
    """The tables, what their marks mean, and the summary."""
    names = [OURS, *figures["versions"]]
    for shape in dict.fromkeys((case["n"], case["d"], case["f"]) for case in figures["rules"]):
        console.print(times_table(figures["rules"], shape, names))
    console.print("Medians, the least in brackets, and how many times ours. *: defined otherwise, !: wrong")
    console.print(probes_table(figures["probes"], names))
    console.print("In units of an honest submission's distance from the mean. NaN: so is the result if f rows are")
    for name, version in figures["versions"].items():
        console.print(f"{name} {version}")
    for name, reason in figures["absent"].items():
        console.print(f"left out: {name}, {reason}")
    found = figures["summary"]
    if found["geometric mean to published"] is not None:
        times = f"{found['geometric mean to published']:.1f} times our time"
        console.print(f"published code: {times}, the geometric mean without {ENUMERATED}")
    worst = found["worst to the fastest peer"]
    if worst is not None:
        console.print(f"fastest peer that is not wrong: at worst {_standing(worst)}")
    for one in found["faster peers"]:
        console.print(f"faster: {_standing(one)}{'*' if one['definition'] else ''}")
    for one in found["times krum"]:
        console.print(f"{one['times']:.1f} times our krum's time: {one['rule']}, n = {one['n']}")


def _standing(one: dict[str, Any]) -> str:
    return f"{one['ratio']:.2f} times our time ({one['peer']}, {one['rule']}, n = {one['n']})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="a checkout of the code that was published with the paper")
    parser.add_argument("--peers", type=Path, help="a folder that byzfl, krum and byzpy were installed into")
    parser.add_argument("--quick", action="store_true", help="a fifth of the coordinates, three repeats")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # those of peers
    peers, absent = load(given.published, given.peers)
    shapes = [(n, d // 5, f) for n, d, f in SHAPES] if given.quick else SHAPES
    console = Console()
    compared = []
    with threadpool_limits(1):
        for shape in shapes:
            for rule in RULES:
                if refuses(rule, shape[0], shape[2]):
                    continue  # smea tries too many subsets of 51
                console.print(f"n = {shape[0]}: {rule}", highlight=False)
                found = compare(rule, peers, shape, 3 if given.quick else REPEATS)
                compared.append({"rule": rule, **dict(zip("ndf", shape, strict=True)), "contenders": found})
        probes = {rule: probe(rule, peers) for rule in PROBED}
    figures = {
        "environment": environment(torch.device("cpu")),
        "versions": {peer.name: peer.version for peer in peers},
        "absent": absent,
        "rules": compared,
        "probes": probes,
        "summary": summary(compared, probes),
    }
    print_all(figures, console)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
