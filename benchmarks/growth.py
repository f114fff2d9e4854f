"""How the time and the memory of byzray grow: with workers, parameters, actors and steps.

- `workers`: a step in this process, of the paper's MNIST setup, for more and more workers.
- `dimension`: every rule alone, n = 11 and f = 2, for more and more parameters.
- `actors`: a step on a fleet of more and more actors of one worker each, and how long the fleet takes to start.
- `steps`: the memory of one long run.

Each point is measured in a process of its own, on CPUs, so that its peak memory is its own. For each curve it prints
the exponent of its growth over the upper half of its range, and what sets it. The figures are written after every
curve; those of other sections that the file holds already stay.

    python benchmarks/growth.py --json FILE [--data DIR] [--quick] [--only SECTION]
    python benchmarks/growth_figure.py FILE

It reads /proc, so it needs Linux.
"""

import argparse
import ctypes
import gc
import json
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

import byzray
from byzray import Setup, Update
from byzray.aggregators import AGGREGATORS
from byzray.data import data_root, load_data
from byzray.environment import environment
from byzray.files import write_atomically
from byzray.simulation import LocalSimulation
from sweeps.paper import DEMO, MNIST

Figures = dict[str, Any]

MB = 1e6
FLOAT = 4  # bytes
LIMIT_SECONDS = 900.0  # a point that takes longer is given up
LONG_SECONDS = 60.0  # a call that takes longer is not repeated
ENOUGH_SECONDS = 3.0  # repeats end once they took so long together

WORKERS = (10, 30, 100, 300, 1000, 3000, 10_000)
DIMENSIONS = (10**4, 10**5, 10**6, 10**7, 10**8)
ACTORS = (1, 2, 4, 8, 16, 32)
STEPS = 10_000
QUICK_WORKERS, QUICK_DIMENSIONS, QUICK_ACTORS, QUICK_STEPS = (10, 20), (10**4, 10**5), (1, 2), 400
SAMPLES = 20  # of the memory of the long run

RULE_N, RULE_F = 11, 2
WARM_DIMENSION = 60_000  # enough for every rule to load what it compiles

# What is measured at every point of a section, and its unit.
QUANTITIES = {
    "workers": {"seconds": "ms a step", "increase": "MB"},
    "dimension": {"seconds": "ms", "increase": "MB beyond the input"},
    "actors": {
        "seconds": "ms a step",
        "start": "s to start the fleet",
        "worker": "MB a worker actor",
        "server": "MB of the server",
        "all": "MB of all actors",
    },
}
AXES = {"workers": "n", "dimension": "d", "actors": "actors"}

WORKERS_SET_BY = {
    "average": {
        "seconds": "proportional to n: matrix products over h b images, and passes over n rows of d",
        "increase": (
            "proportional to n: n rows of submissions, h of gradients, temporary copies, and the images "
            "of h batches as floats; in addition, whatever n, the study's 150 past means"
        ),
    },
    "median": {
        "seconds": "as average; the sort of the n values of each coordinate adds a factor of log n, squared up to 128",
        "increase": "as average; for n > 128 one more copy of the submissions, to sort them",
    },
    "multi-krum": {
        "seconds": "as average, and n (n-1) / 2 distances over d coordinates, which outgrow all else",
        "increase": "as average",
    },
}

SORTED = "a sort of the n values of each coordinate"
DISTANCES = "n (n-1) / 2 distances over d coordinates"
MEAN = "the mean alone, as rows are added without being copied"
RANKS = "the n ranks, and the blocks of coordinates that are averaged at once"
RULES_SET_BY = {
    "average": ("one pass over n rows", "the mean alone"),
    "median": (SORTED, "the medians alone, as columns are sorted in a buffer that fits the cache"),
    "trimmed-mean": (SORTED, "the n-2f ranks that are averaged"),
    "phocas": (f"{SORTED}, and a search of the nearest to the trimmed mean", RANKS),
    "meamed": (f"{SORTED}, and a search of the nearest to the median", RANKS),
    "multi-krum": (DISTANCES, MEAN),
    "krum": (DISTANCES, MEAN),
    "bulyan": (f"{DISTANCES}, and a product and a sort of T rows", "a copy of the n rows, T averages and T ranks"),
    "minimum-diameter": (DISTANCES, MEAN),
    "aksel": (f"{SORTED}, and n norms", "the n differences from the median"),
    "cge": ("n norms, and the mean of n-f rows", MEAN),
    "geometric-median": ("the median, n differences and a product of them with each other", "the n differences"),
    "dnc": ("one pass over n rows, and their product in some coordinates", "the n rows in those coordinates"),
    "smea": (DISTANCES, MEAN),
    "caf": (DISTANCES, "the weighted mean alone"),
    "monna": (DISTANCES, MEAN),
    "sign-majority": ("the signs of n rows, and their sum", "the signs of the n rows"),
    "centred-clipping": ("n differences, their norms, and their weighted sum", "the n differences from the last one"),
}

ACTORS_SET_BY = {
    "seconds": "actors share the machine's cores: constant up to as many of them, then proportional to the actors",
    "start": "each actor is a new process that imports PyTorch, and cores import side by side",
    "worker": "constant: a process with PyTorch and Ray; the data set is mapped, not copied",
    "server": "as a worker actor, for large matrices with a compiler, and a row of submissions for each actor",
    "all": "a process for each actor",
}
STEPS_SET_BY = (
    "what the result keeps, a row of 24 metrics a step, 192 kB per 1,000 steps as plain numbers, "
    "and the tables that it is gathered in"
)


# ---- a process for each point


def in_child(measure: Callable[..., Figures], *args: Any) -> Figures:
    """What `measure` returns in a fresh process; or under `failed`, why it returned nothing."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, measure, args))
    child.start()
    sender.close()  # now only the child holds it, so that its end is noticed
    try:
        found = receiver.recv() if receiver.poll(LIMIT_SECONDS) else {"failed": f"took over {LIMIT_SECONDS:g} s"}
        child.join(30)
    except EOFError:
        child.join()
        found = {"failed": f"its process ended with {_ending(child.exitcode)}"}
    finally:
        _end(child)
    return found


def _answer(sender: Connection, measure: Callable[..., Figures], args: tuple[Any, ...]) -> None:
    try:
        found = measure(*args)
    except Exception as error:
        text = next(iter(str(error).splitlines()), "")
        lacking = isinstance(error, MemoryError) or "allocate memory" in text
        found = {"failed": "out of memory" if lacking else f"{type(error).__name__}: {text}"}
    sender.send(found)


def _ending(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _end(child: Any) -> None:
    """Ask a process to end, then force it."""
    for stop in (child.terminate, child.kill):
        if child.is_alive():
            stop()
            child.join(30)


def limit_memory() -> None:
    """Let this process have most of the memory that is free now: beyond, it fails instead of the machine's others."""
    used = status_bytes("VmData")
    free = psutil.virtual_memory().available
    resource.setrlimit(resource.RLIMIT_DATA, (used + int(0.9 * free), resource.RLIM_INFINITY))


def status_bytes(name: str) -> int:
    """A value of /proc/self/status, in bytes.

    VmRSS is what is resident, VmHWM its peak. That which getrusage calls the peak (ru_maxrss) begins in a new process
    with the peak of the process that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def settle() -> int:
    """Give back what is freed, forget the peak so far, and return the bytes that are resident."""
    gc.collect()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def memory_since(before: int) -> Figures:
    """The peak since :func:`settle`, and how far it is above what was resident then, in bytes."""
    peak = status_bytes("VmHWM")
    return {"before": before, "peak": peak, "increase": peak - before}


def repeat(work: Callable[[], object], least: int, most: int) -> list[float]:
    """The seconds of each call: at least so many, and more until they took long enough together; of a long one, one."""
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < ENOUGH_SECONDS):
        if seconds and seconds[0] > LONG_SECONDS:
            break
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


# ---- points


def mnist_setup(workers: int, byzantine: int, rule: str) -> Setup:
    """The paper's MNIST setup with other workers, of which the Byzantine ones (if any) send `little`."""
    attack = {"name": "little", "factor": 1.5, "negative": True} if byzantine else None
    content = {
        **MNIST.base,
        "dataset": "mnist",
        "workers": workers,
        "byzantine": byzantine,
        "aggregator": rule,
        "attack": attack,
        "learning_rate": {**MNIST.base["learning_rate"], "initial": 0.5},
        "momentum": {**MNIST.base["momentum"], "placement": "worker"},
        "device": "cpu",
    }
    return Setup.model_validate(content)


def workers_point(rule: str, root: Path, least: int, workers: int) -> Figures:
    """A step in this process: its seconds, and the memory of the whole simulation without the data set's.

    A quarter of the workers are Byzantine.
    """
    limit_memory()
    setup = mnist_setup(workers, workers // 4, rule)
    data = load_data(setup, root)
    LocalSimulation(mnist_setup(10, 2, rule), data).advance(1)  # loads what is loaded at first use
    before = settle()
    simulation = LocalSimulation(setup, data)
    simulation.advance(1)
    seconds = repeat(lambda: simulation.advance(simulation.step_number + 1), least, 50)
    shape = {
        "submissions": FLOAT * workers * simulation.server.network.dimension,
        "images": FLOAT * setup.honest * setup.batch_size * math.prod(data.shape),
    }
    return {"seconds": median(seconds), "fastest": min(seconds), "steps": len(seconds), **memory_since(before), **shape}


def rule_point(rule: str, dimension: int) -> Figures:
    """A call of a rule: its seconds, and the memory that it needs beyond its input, the aggregate included."""
    limit_memory()
    call = AGGREGATORS.classes[rule]()
    torch.manual_seed(1)
    call(torch.randn(RULE_N, WARM_DIMENSION), RULE_F)
    submissions_ND = torch.empty(RULE_N, dimension).normal_()  # in place, as a temporary would be the peak
    submissions_ND[RULE_N - RULE_F :].add_(1)
    before = settle()
    seconds = repeat(lambda: call(submissions_ND, RULE_F), 1, 9)
    given = {"submissions": submissions_ND.nbytes}
    return {"seconds": median(seconds), "fastest": min(seconds), "calls": len(seconds), **memory_since(before), **given}


def actors_point(root: Path, chunk: int, count: int) -> Figures:
    """A step on a fleet of `count` actors of one worker each, its start, and the memory that only its actors use (USS).

    Ray runs before the start is timed.
    """
    import ray

    from actors.cluster import OBJECT_STORE_BYTES
    from actors.fleet import Fleet, split
    from actors.simulation import FleetSimulation

    setup = mnist_setup(count, 0, "average")
    data = load_data(setup, root)
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        began = time.perf_counter()
        with Fleet("growth", split(count, count), device="cpu") as fleet:
            start = time.perf_counter() - began
            simulation = FleetSimulation(setup, data, fleet)
            simulation.advance(chunk)
            # A stretch at a time, as in a run: each begins with a call of every actor.
            chunks = repeat(lambda: simulation.advance(simulation.step_number + chunk), 3, 9)
            server, *workers = [psutil.Process(place["pid"]).memory_full_info().uss for place in fleet.locations]
    finally:
        ray.shutdown()
    memory = {"worker": fmean(workers), "server": server, "all": server + sum(workers)}
    return {"seconds": median(chunks) / chunk, "fastest": min(chunks) / chunk, "start": start, **memory}


def long_run(steps: int, every: int) -> Figures:
    """The resident bytes of a run of the demo's small setup every so many steps, written to a directory as usual."""
    content = {**DEMO.base, "steps": steps, "byzantine": 2, "aggregator": "median", "attack": "little"}
    content |= {"momentum": {"beta": 0.9, "placement": "worker"}, "device": "cpu"}
    samples: list[tuple[int, int]] = []

    def note(update: Update) -> None:
        if update.step and update.step % every == 0:
            samples.append((update.step, status_bytes("VmRSS")))

    with tempfile.TemporaryDirectory() as output:
        byzray.simulate(Setup.model_validate(content), output=output, progress=note)
    return {"samples": samples}


# ---- sections


def workers_section(given: argparse.Namespace, console: Console) -> Iterator[Figures]:
    """A curve for each rule; yields after each what there is so far."""
    found: Figures = {"environment": environment(torch.device("cpu")), "curves": []}
    at = QUICK_WORKERS if given.quick else given.workers
    for rule, set_by in WORKERS_SET_BY.items():
        measure = partial(in_child, workers_point, rule, given.data, 1 if given.quick else 3)
        found["curves"].append(curve("workers", rule, at, measure, set_by, console))
        yield found


def dimension_section(given: argparse.Namespace, console: Console) -> Iterator[Figures]:
    """A curve for each rule; yields after each what there is so far."""
    found: Figures = {"environment": environment(torch.device("cpu")), "n": RULE_N, "f": RULE_F, "curves": []}
    at = QUICK_DIMENSIONS if given.quick else DIMENSIONS
    for rule, (time_by, memory_by) in RULES_SET_BY.items():
        set_by = {"seconds": f"proportional to d: {time_by}", "increase": f"proportional to d: {memory_by}"}
        found["curves"].append(curve("dimension", rule, at, partial(in_child, rule_point, rule), set_by, console))
        yield found


def actors_section(given: argparse.Namespace, console: Console) -> Iterator[Figures]:
    """One curve."""
    found: Figures = {"environment": environment(torch.device("cpu")), "cores": os.cpu_count()}
    measure = partial(in_child, actors_point, given.data, 5 if given.quick else 25)
    at = QUICK_ACTORS if given.quick else ACTORS
    yield {**found, "curves": [curve("actors", "one worker each", at, measure, ACTORS_SET_BY, console)]}


def steps_section(given: argparse.Namespace, console: Console) -> Iterator[Figures]:
    """The long run, and the slope of its memory over the second half, in kB per 1,000 steps."""
    steps = QUICK_STEPS if given.quick else STEPS
    found = in_child(long_run, steps, steps // SAMPLES)
    if "samples" in found:
        at, memory = np.array(found["samples"][SAMPLES // 2 :], dtype=float).T
        found["slope"] = float(np.polyfit(at, memory, 1)[0])  # bytes a step are kB per 1,000 steps
    yield {"environment": environment(torch.device("cpu")), "steps": steps, "set by": STEPS_SET_BY, **found}


def curve(
    section: str,
    name: str,
    at: Sequence[int],
    measure: Callable[[int], Figures],
    set_by: dict[str, str],
    console: Console,
) -> Figures:
    """The points of a curve, and for each quantity its exponent."""
    points = []
    for position in at:
        console.print(f"{section}: {name}, {AXES[section]} = {position:,}", highlight=False)
        points.append({"at": position, **measure(position)})
    exponents = {quantity: exponent(points, quantity) for quantity in QUANTITIES[section]}
    return {"name": name, "points": points, "exponents": exponents, "set by": set_by}


def exponent(points: list[Figures], quantity: str) -> float | None:
    """The slope between logarithms, by least squares over the upper half of the range; none for fewer than 2 points."""
    known = [(point["at"], point[quantity]) for point in points if point.get(quantity, 0) > 0]
    if not known:
        return None
    middle = math.sqrt(known[0][0] * known[-1][0])
    upper = np.log([pair for pair in known if pair[0] >= middle])
    return float(np.polyfit(upper[:, 0], upper[:, 1], 1)[0]) if len(upper) > 1 else None


SECTIONS = {
    "workers": workers_section,
    "dimension": dimension_section,
    "actors": actors_section,
    "steps": steps_section,
}


# ---- what is shown


def section_table(name: str, found: Figures) -> Table:
    """All curves of a section: a row for each quantity."""
    at = [point["at"] for point in found["curves"][0]["points"]]
    columns = [count(position) for position in at]
    table = Table("", "", *columns, "exponent", title=f"{name}, by {AXES[name]}", title_justify="left")
    for one in found["curves"]:
        for quantity, unit in QUANTITIES[name].items():
            cells = [cell(point.get(quantity), unit) for point in one["points"]]
            power = one["exponents"][quantity]
            table.add_row(one["name"], unit, *cells, "-" if power is None else f"{power:.2f}")
        table.add_section()
    points = [point for one in found["curves"] for point in one["points"]]
    sizes = {point["at"]: point["submissions"] for point in points if "submissions" in point}
    if sizes:
        table.add_row("submissions", "MB", *(cell(sizes.get(position), "MB") for position in at), "")
    return table


def cell(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    shown = value * (1e3 if unit.startswith("ms") else 1 / MB if unit.startswith("MB") else 1)
    return f"{shown:,.0f}" if shown >= 1000 else f"{shown:.3g}"


def count(value: int) -> str:
    return f"{value:,}" if value < 10_000 else f"{value:.0e}".replace("e+0", "e")


def show(name: str, found: Figures, console: Console) -> None:
    """A section's table, what sets the exponents, and what failed."""
    if name == "steps":
        show_steps(found, console)
        return
    console.print(section_table(name, found))
    for one in found["curves"]:
        for quantity, unit in QUANTITIES[name].items():
            console.print(f"{one['name']}, {unit}: {one['set by'][quantity]}", highlight=False)
        for point in one["points"]:
            if "failed" in point:
                console.print(f"{one['name']}, {AXES[name]} = {point['at']:,}: {point['failed']}", highlight=False)


def show_steps(found: Figures, console: Console) -> None:
    """The memory along the long run, and its slope."""
    if "failed" in found:
        console.print(f"steps: {found['failed']}", highlight=False)
        return
    table = Table("step", "MB resident", title="steps: a long run", title_justify="left")
    for step, memory in found["samples"]:
        table.add_row(f"{step:,}", f"{memory / MB:.1f}")
    console.print(table)
    console.print(f"second half: {found['slope']:+.0f} kB per 1,000 steps; {found['set by']}", highlight=False)


def save(path: Path | None, figures: Figures) -> None:
    """Write the file, if one was asked for."""

    def write(file: Path) -> None:
        file.write_text(json.dumps(figures, indent=2) + "\n")

    if path is not None:
        write_atomically(path, write)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--data", type=Path, default=data_root(), help="folder that holds MNIST/raw")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers, ascending")
    parser.add_argument("--only", choices=SECTIONS, help="one section instead of all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    given = parser.parse_args()
    figures = json.loads(given.json.read_text()) if given.json is not None and given.json.exists() else {}
    console = Console()
    for name in [given.only] if given.only else SECTIONS:
        for found in SECTIONS[name](given, console):
            figures[name] = {**found, "quick": given.quick}
            save(given.json, figures)
        show(name, figures[name], console)


if __name__ == "__main__":
    main()
