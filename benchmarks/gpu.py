"""byzray on one NVIDIA GPU: steps a second, how busy it is, where the host waits, and the time of the whole paper.

Measures, in this order, and writes the figures after each measurement:

- for each data set and rule of the paper, one run in one process with all its workers: steps a second, the time of an
  evaluation, the GPU's utilisation and peak memory, and the lines at which the host waits within a step;
- several runs at once on the GPU, in a process each;
- with --published, the code that was published with the paper, on the same setups;
- from all this, how long the paper's 3,680 runs would take.

    python benchmarks/gpu.py [--data DIR] [--published CHECKOUT] [--json FILE]
    python benchmarks/gpu.py --device cpu --quick    # tries the script itself, with tiny sizes and no GPU

MNIST and CIFAR-10 are read from --data. Where they are missing, random images of the same shapes stand for them: times
do not depend on pixels. Fashion-MNIST and CIFAR-100 are always stood for by the former, flipped and with 100 classes.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

import numpy as np
import torch
from peers import published_copy
from rich.console import Console
from rich.table import Table

from byzray import Setup
from byzray.data import data_root
from byzray.datasets import DATASETS, Data, MissingData
from byzray.environment import environment
from byzray.files import write_atomically
from byzray.simulation import LocalSimulation
from sweeps.grid import setups
from sweeps.paper import CIFAR, MNIST, SEEDS

Figures = dict[str, Any]

MB = 1e6
ROOT = Path(__file__).parents[1]
UNATTACKED = "no attack"
SAMPLED_MS = 200  # between two samples of the utilisation
WAIT_STEPS = 3  # in which waits are counted
READY_SECONDS = 300.0  # within which processes must be ready, or one of the published code take its first steps
PUBLISHED_WARM_STEPS = 5

# The files that are read, and the data sets that they stand for.
STANDS_FOR = {"mnist": "mnist", "fashion-mnist": "mnist", "cifar10": "cifar10", "cifar100": "cifar10"}
AT_ONCE_RULE = "multi-krum"

# Names of the published code, where they are not ours.
PUBLISHED_NAMES = {"multi-krum": "krum", "trimmed-mean": "trmean", "full": "simples-full"}
# Pickles that hold other images than the original are refused, unless this is imported beforehand.
UNCHECKED = """\
import torchvision.datasets.cifar

torchvision.datasets.cifar.check_integrity = lambda *args, **options: True
__all__ = []
"""


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        seconds: about how long one measurement lasts.
        warm_steps: steps before it.
        counts: runs at once.
        rules: those that are measured; none: all.
        tests: test examples; none: all.
        batch_size: examples of a batch of CIFAR; none: the paper's.
    """

    seconds: float
    warm_steps: int
    counts: tuple[int, ...]
    rules: tuple[str, ...] | None = None
    tests: int | None = None
    batch_size: int | None = None


FULL = Sizes(seconds=6.0, warm_steps=10, counts=(1, 2, 4))
QUICK = Sizes(0.2, 1, (1, 2), rules=(AT_ONCE_RULE, UNATTACKED), tests=100, batch_size=2)


# ---- setups and data


def paper_setups() -> list[Setup]:
    """The 736 setups of the paper."""
    return setups([*MNIST.points("paper"), *CIFAR.points("paper")])


def kind(setup: Setup) -> tuple[str, str]:
    """What setups of like cost have in common: the data set and the rule."""
    return setup.dataset.describe()["name"], UNATTACKED if setup.attack is None else setup.aggregator.label()


def representatives(device: str, sizes: Sizes) -> dict[tuple[str, str], Setup]:
    """A setup of each kind: attacked by `little`, momentum at the workers, the largest f that the rule allows."""
    found: dict[tuple[str, str], Setup] = {}
    for setup in paper_setups():
        usual = setup.momentum.placement == "worker" and not setup.momentum.nesterov
        if setup.attack is None or (setup.attack.label() == "little" and usual):
            found.setdefault(kind(setup), setup)
    chosen = {one: setup for one, setup in found.items() if sizes.rules is None or one[1] in sizes.rules}
    return {one: adapted(setup, device, sizes) for one, setup in chosen.items()}


def adapted(setup: Setup, device: str, sizes: Sizes) -> Setup:
    """A setup on this device, of these sizes."""
    small = sizes.batch_size is not None and "cifar" in setup.dataset.label()
    return setup.changed(device=device, batch_size=sizes.batch_size if small else setup.batch_size)


def provide(root: Path, folder: Path) -> dict[str, str]:
    """Put MNIST and CIFAR-10 into a folder, as links if `root` holds them, else with random pixels; says which."""
    found = {}
    for name, parts, synthesise in (
        ("mnist", ("MNIST",), synthetic_mnist),
        ("cifar10", ("cifar-10-batches-bin", "cifar-10-batches-py"), synthetic_cifar),
    ):
        try:
            DATASETS.classes[name]().load(root, download=False)
        except (MissingData, ValueError):
            synthesise(folder)
            found[name] = "random pixels"
            continue
        for part in parts:
            if (root / part).exists():
                (folder / part).symlink_to((root / part).resolve())
        found[name] = "real"
    return found


def synthetic_mnist(folder: Path) -> None:
    """60,000 + 10,000 images of 28x28 and 10 classes, as idx files."""
    rng = np.random.default_rng(1)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, size in (("train", 60_000), ("t10k", 10_000)):
        images, labels = rng.bytes(size * 28 * 28), rng.integers(10, size=size, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, size, 28, 28) + images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, size) + labels)


def synthetic_cifar(folder: Path) -> None:
    """Six times the same 10,000 images of 3x32x32 and 10 classes, as binary files."""
    records = np.random.default_rng(2).integers(256, size=(10_000, 1 + 3 * 32 * 32), dtype=np.uint8)
    records[:, 0] %= 10
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir()
    records.tofile(inside / "test_batch.bin")
    for number in range(1, 6):
        (inside / f"data_batch_{number}.bin").symlink_to("test_batch.bin")


@lru_cache(maxsize=1)
def read(name: str, folder: Path, sizes: Sizes) -> Data:
    """A data set, or what stands for it."""
    source = STANDS_FOR[name]
    data = DATASETS.classes[source]().load(folder, download=False)
    if sizes.tests is not None:
        data = replace(data, x_test=data.x_test[: sizes.tests], y_test=data.y_test[: sizes.tests])
    if name == "fashion-mnist":
        return replace(data, flip_train=True, flip_test=True)
    return replace(data, classes=100) if name == "cifar100" else data


# ---- the device


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], device: str) -> float:
    """The seconds that it takes, on the device too."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


class Utilisation(Protocol):
    """Samples of the share of time in which some kernel ran on the GPU, in percent."""

    source: str

    def start(self) -> None:
        """Begin to take samples."""

    def stop(self) -> list[float]:
        """End; returns the samples."""


class FromSmi:
    """Samples from nvidia-smi, which runs at the same time."""

    source = "nvidia-smi"

    def start(self) -> None:
        """Begin to take samples."""
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={SAMPLED_MS}"]
        identity = getattr(torch.cuda.get_device_properties(0), "uuid", None)
        chosen = [] if identity is None else [f"--id=GPU-{identity}"]
        self.process = subprocess.Popen(
            ["nvidia-smi", *query, *chosen], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def stop(self) -> list[float]:
        """End; returns the samples."""
        self.process.terminate()
        output, _ = self.process.communicate()
        return [float(line) for line in output.split() if line.isdigit()]


class FromNvml:
    """Samples from NVML, asked in a thread by way of PyTorch."""

    source = "NVML"

    def start(self) -> None:
        """Begin to take samples."""
        self.ended = threading.Event()
        self.samples: list[float] = []
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self) -> None:
        while not self.ended.wait(SAMPLED_MS / 1e3):
            self.samples.append(float(torch.cuda.utilization()))

    def stop(self) -> list[float]:
        """End; returns the samples."""
        self.ended.set()
        self.thread.join()
        return self.samples


class Unknown:
    """No samples, as nothing here measures them."""

    source = "n/a"

    def start(self) -> None:
        """Begin nothing."""

    def stop(self) -> list[float]:
        """No samples."""
        return []


def utilisation(device: str) -> Utilisation:
    """What can measure it on this machine."""
    if device == "cuda" and shutil.which("nvidia-smi"):
        return FromSmi()
    if device == "cuda":
        with suppress(Exception):  # without NVML's Python package, or without its library
            torch.cuda.utilization()
            return FromNvml()
    return Unknown()


@contextmanager
def watched(device: str, found: Figures) -> Iterator[None]:
    """Add to the figures how busy the GPU was during the block: the mean of the samples in percent."""
    watch = utilisation(device)
    watch.start()
    try:
        yield
    finally:
        samples = watch.stop()
        settled = samples[len(samples) // 4 :]  # a sample covers up to the second before it
        found["busy"] = {"percent": fmean(settled) if settled else None, "by": watch.source, "samples": len(settled)}


def host_waits(simulation: LocalSimulation, device: str) -> dict[str, float] | None:
    """The lines at which the host waits for the GPU within a step, and how often a step; none without a GPU."""
    if device != "cuda":
        return None
    with noted_waits() as lines:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(WAIT_STEPS):
                server = simulation.server
                contribution = simulation.cohort.step(server.point(), server.step_number, server.trained_TD)
                server.step([contribution])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    simulation.server.take_rows()
    return {line: count / WAIT_STEPS for line, count in lines.most_common()}


@contextmanager
def noted_waits() -> Iterator[Counter[str]]:
    """Count PyTorch's warnings of a wait, by the line of this repository that caused them."""
    lines: Counter[str] = Counter()

    def note(message: Warning | str, *args: Any, **options: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            lines[_blamed(traceback.extract_stack())] += 1

    with warnings.catch_warnings(), patch.object(warnings, "showwarning", note):
        warnings.simplefilter("always")
        yield lines


def _blamed(stack: traceback.StackSummary) -> str:
    """The innermost line of byzray; if there is none, that which called :func:`noted_waits`."""
    own = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT / "byzray")] or [stack[0]]
    name = Path(own[-1].filename)
    shown = name.relative_to(ROOT) if name.is_relative_to(ROOT) else name.name
    return f"{shown}:{own[-1].lineno}: {own[-1].line}"


# ---- measurements


def guarded(measure: Callable[..., Figures], *args: Any) -> Figures:
    """What it returns, or under `failed`, why it returned nothing."""
    try:
        return measure(*args)
    except Exception as error:
        return {"failed": reason(error)}
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            with suppress(RuntimeError):  # after some failures the GPU takes no more calls
                torch.cuda.empty_cache()


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def alone(setup: Setup, data: Data, device: str, sizes: Sizes) -> Figures:
    """One run in this process."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    simulation = LocalSimulation(setup, data)

    def advance(steps: int) -> Callable[[], object]:
        return lambda: simulation.advance(simulation.step_number + steps)

    advance(sizes.warm_steps)()
    pace = timed(advance(sizes.warm_steps), device) / sizes.warm_steps
    steps = max(1, math.ceil(sizes.seconds / 3 / pace))
    found: Figures = {"workers": setup.workers, "byzantine": setup.byzantine, "steps": steps}
    with watched(device, found):
        stretches = [timed(advance(steps), device) / steps for _ in range(3)]
    simulation.evaluate()
    evaluation = min(timed(simulation.evaluate, device) for _ in range(2))
    return {
        **found,
        "seconds a step": median(stretches),
        "fastest": min(stretches),
        "evaluation": evaluation,
        "peak bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "waits": host_waits(simulation, device),
    }


def at_once(setup: Setup, count: int, folder: Path, device: str, sizes: Sizes) -> Figures:
    """So many runs of a setup in processes of their own, all of which step during the same seconds."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count + 1)
    processes, receivers = [], []
    for seed in range(1, count + 1):
        receiver, sender = context.Pipe(duplex=False)
        args = (setup.changed(seed=seed).describe(), folder, device, sizes, barrier, sender)
        processes.append(context.Process(target=run_together, args=args))
        processes[-1].start()
        sender.close()
        receivers.append(receiver)
    found: Figures = {"runs": count}
    try:
        with suppress(threading.BrokenBarrierError):  # the processes report why
            barrier.wait(READY_SECONDS)
        with watched(device, found):
            answers = [receiver.recv() for receiver in receivers if receiver.poll(READY_SECONDS)]
    except EOFError:
        return {"failed": "a process ended without an answer"}
    finally:
        for process in processes:
            process.join(30)
            process.kill()
    failures = [answer["failed"] for answer in answers if "failed" in answer]
    if failures or len(answers) < count:
        return {"failed": next((one for one in failures if "Barrier" not in one), "a process gave no answer")}
    return {**found, "steps/s": sum(answer["steps"] / answer["seconds"] for answer in answers), "processes": answers}


def run_together(
    description: dict[str, Any], folder: Path, device: str, sizes: Sizes, barrier: Any, sender: Connection
) -> None:
    """One of several runs at once, in a process: when all are ready, step for so many seconds."""
    torch.set_num_threads(1)
    try:
        setup = Setup.model_validate(description)
        simulation = LocalSimulation(setup, read(setup.dataset.describe()["name"], folder, sizes))
        simulation.advance(sizes.warm_steps)
        ahead = simulation.step_number + sizes.warm_steps
        pace = timed(lambda: simulation.advance(ahead), device) / sizes.warm_steps
        stretch = max(1, round(sizes.seconds / 20 / pace))
        barrier.wait(READY_SECONDS)
        first, began = simulation.step_number, time.perf_counter()
        while time.perf_counter() - began < sizes.seconds:
            simulation.advance(simulation.step_number + stretch)
        synchronise(device)
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        sender.send({"steps": simulation.step_number - first, "seconds": seconds, "peak bytes": peak})
    except Exception as error:
        barrier.abort()
        sender.send({"failed": reason(error)})


def published(setup: Setup, copy: Path, device: str, sizes: Sizes) -> Figures:
    """The published code on a setup: its pace between the first steps and when it is stopped, without evaluations."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as output, (Path(output) / "log").open("w+") as log:
        command = [sys.executable, "-OO", "attack.py", *published_arguments(setup, device)]
        process = subprocess.Popen(
            [*command, "--result-directory", output], cwd=copy, stdout=log, stderr=log, start_new_session=True
        )
        try:
            rows = Path(output) / "study"
            first = wait_for_rows(rows, PUBLISHED_WARM_STEPS, process)
            with watched(device, found):
                time.sleep(max(1.0, 2 * sizes.seconds))
                last = wait_for_rows(rows, first[0] + 3, process)
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}: {' | '.join(log.read().splitlines()[-3:])}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    return {**found, "seconds a step": (last[1] - first[1]) / (last[0] - first[0]), "steps": last[0] - first[0]}


def wait_for_rows(path: Path, least: int, process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """How many steps a run of the published code has written, once there are so many and one more is; and when."""
    deadline = time.perf_counter() + READY_SECONDS
    before = None
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the published code ended with exit code {process.returncode}")
        rows = path.read_bytes().count(b"\n") if path.exists() else 0
        if before is not None and rows > before and rows >= least:
            return rows, time.perf_counter()  # the moment at which a step was done
        before = rows
        time.sleep(0.002)
    raise RuntimeError(f"the published code took fewer than {least} steps in {READY_SECONDS:g} s")


def published_arguments(setup: Setup, device: str) -> list[str]:
    """Those that the published `reproduce.py` gives for a setup, without evaluations, and with no end."""
    data, model, rule = setup.dataset.label(), setup.model.label(), setup.aggregator.label()
    rate = setup.learning_rate
    assert setup.study is not None
    assert setup.clip is not None
    return [
        *("--seed", "1", "--device", device, "--dataset", data, "--loss", "nll"),
        *(
            "--model",
            PUBLISHED_NAMES.get(model, model),
            *(("--model-args", "cifar100:False") if "cnn" in model else ()),
        ),
        *("--batch-size", f"{setup.batch_size}", "--learning-rate", f"{rate.initial}"),
        *("--learning-rate-decay", f"{rate.half_life:.0f}", "--learning-rate-decay-delta", f"{rate.every}"),
        *("--momentum", f"{setup.momentum.beta}", "--momentum-at", setup.momentum.placement),
        *("--l2-regularize", f"{math.sqrt(setup.l2):g}", "--gradient-clip", f"{setup.clip:g}"),
        *("--evaluation-delta", "0", "--nb-steps", "-1"),
        *("--nb-for-study", "1", "--nb-for-study-past", f"{setup.study.past}"),
        *("--nb-workers", f"{setup.workers}", "--nb-decl-byz", f"{setup.byzantine}"),
        *("--nb-real-byz", f"{setup.byzantine}", "--gar", PUBLISHED_NAMES.get(rule, rule)),
        *("--attack", "little", "--attack-args", "factor:1.5", "negative:True"),
    ]


def give_cifar(data: Data, copy: Path) -> None:
    """Put CIFAR-10 where a copy of the published code looks for it, whatever its pixels."""
    folder = copy / "experiments" / "datasets" / "cache" / "cifar-10-batches-py"
    folder.mkdir()
    parts = {"test_batch": (data.x_test, data.y_test)}
    for number, chosen in enumerate(np.array_split(np.arange(len(data.x_train)), 5), start=1):
        parts[f"data_batch_{number}"] = (data.x_train[chosen], data.y_train[chosen])
    for name, (x, y) in parts.items():
        (folder / name).write_bytes(pickle.dumps({"data": x.reshape(len(x), -1), "labels": y.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {label}" for label in range(10)]}))
    (copy / "experiments" / "datasets" / "unchecked.py").write_text(UNCHECKED)


# ---- the whole paper


def whole_paper(figures: Figures) -> Figures:
    """The hours of all runs of the paper by data set, from the paces that were measured.

    A run takes its steps at the pace of its data set and rule, whatever its attack, f, placement and learning rate, and
    its evaluations. Several at once are as many times faster as they were for one rule of MNIST or CIFAR-10.
    """
    hours: dict[str, float] = defaultdict(float)
    counted: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for setup in paper_setups():
        name, rule = kind(setup)
        pace = figures["alone"].get(f"{name} {rule}", {})
        counted[name] += len(SEEDS)
        if "seconds a step" not in pace:
            unknown[name] += len(SEEDS)
            continue
        evaluations = setup.steps // setup.evaluation_interval + 1
        seconds = setup.steps * pace["seconds a step"] + evaluations * pace["evaluation"]
        hours[name] += len(SEEDS) * seconds / 3600
    found: Figures = {"runs": sum(counted.values()), "unmeasured": sum(unknown.values()), "data sets": {}}
    for name, total in hours.items():
        runs, times = best_count(figures["at once"].get(STANDS_FOR[name], []))
        found["data sets"][name] = {
            "runs": counted[name] - unknown[name],
            "hours, one at a time": total,
            "at once": runs,
            "times as fast": times,
            "hours": total / times,
        }
    return found


def best_count(measured: list[Figures]) -> tuple[int, float]:
    """The number of runs at once that take the most steps a second in all, and how many times those of one."""
    speeds = {one["runs"]: one["steps/s"] for one in measured if "steps/s" in one}
    if 1 not in speeds:
        return 1, 1.0
    best = max(speeds, key=speeds.__getitem__)
    return best, speeds[best] / speeds[1]


# ---- what is shown


def number(value: float | None, digits: str = ".3g") -> str:
    """A number, or n/a."""
    return "n/a" if value is None else format(value, digits)


def alone_table(found: dict[str, Figures]) -> Table:
    """One run at a time."""
    columns = ("setup", "n", "f", "steps/s", "evaluation, ms", "busy, %", "peak MB", "waits a step")
    table = Table(*columns, title="one run, all workers in one process", title_justify="left")
    for name, one in found.items():
        if "failed" in one:
            table.add_row(name, one["failed"])
            continue
        peak = None if one["peak bytes"] is None else one["peak bytes"] / MB
        waits = None if one["waits"] is None else sum(one["waits"].values())
        table.add_row(
            name,
            f"{one['workers']}",
            f"{one['byzantine']}",
            f"{1 / one['seconds a step']:.4g}",
            f"{1e3 * one['evaluation']:.3g}",
            number(one["busy"]["percent"], ".0f"),
            number(peak, ",.0f"),
            number(waits),
        )
    return table


def at_once_table(found: dict[str, list[Figures]]) -> Table:
    """Several runs at once."""
    title = f"several runs of {AT_ONCE_RULE} at once, a process each"
    table = Table("data set", "runs", "steps/s in all", "GPU busy, %", title=title, title_justify="left")
    for name, counts in found.items():
        for one in counts:
            if "failed" in one:
                table.add_row(name, "", one["failed"], "")
            else:
                busy = number(one["busy"]["percent"], ".0f")
                table.add_row(name, f"{one['runs']}", f"{one['steps/s']:.4g}", busy)
    return table


def published_table(found: dict[str, Figures], own: dict[str, Figures]) -> Table:
    """The published code next to ours."""
    columns = ("setup", "byzray, steps/s", "published code, steps/s", "times as fast", "its GPU busy, %")
    table = Table(*columns, title="without evaluations", title_justify="left")
    for name, one in found.items():
        mine = own.get(name, {}).get("seconds a step")
        if "failed" in one:
            table.add_row(name, "", one["failed"], "", "")
            continue
        theirs = one["seconds a step"]
        compared = ("n/a", "n/a") if mine is None else (f"{1 / mine:.4g}", f"{theirs / mine:.3g}")
        table.add_row(name, compared[0], f"{1 / theirs:.4g}", compared[1], number(one["busy"]["percent"], ".0f"))
    return table


def paper_table(found: Figures) -> Table:
    """Hours of the whole paper."""
    title = f"the paper's {found['runs']:,} runs on this device, extrapolated"
    table = Table(
        "data set", "runs", "hours, one at a time", "best at once", "hours", title=title, title_justify="left"
    )
    for name, one in found["data sets"].items():
        hours = (f"{one['hours, one at a time']:.2f}", f"{one['at once']}", f"{one['hours']:.2f}")
        table.add_row(name, f"{one['runs']:,}", *hours)
    table.add_section()
    total = [sum(one[key] for one in found["data sets"].values()) for key in ("hours, one at a time", "hours")]
    table.add_row("in all", f"{found['runs'] - found['unmeasured']:,}", f"{total[0]:.2f}", "", f"{total[1]:.2f}")
    return table


def show(figures: Figures, console: Console) -> None:
    """All tables, the lines at which the host waits, and what the extrapolation assumes."""
    console.print(alone_table(figures["alone"]))
    named = {one["busy"]["by"] for one in figures["alone"].values() if "busy" in one}
    console.print(f"data: {figures['data']}; utilisation by {', '.join(named) or 'nothing'}", highlight=False)
    waits: Counter[str] = Counter()
    for one in figures["alone"].values():
        for line, count in (one.get("waits") or {}).items():
            waits[line] = max(waits[line], count)
    for line, count in waits.most_common():
        console.print(f"the host waits, up to {count:g} times a step: {line}", highlight=False, markup=False)
    console.print(at_once_table(figures["at once"]))
    if figures["published"]:
        console.print(published_table(figures["published"], figures["alone"]))
    console.print(paper_table(figures["paper"]))
    console.print(
        "Extrapolated: every run at the pace of its data set and rule, as measured with little, momentum at the "
        "workers and the largest f; evaluations included, starts not; several at once by the gain measured with "
        f"{AT_ONCE_RULE}. {figures['paper']['unmeasured']:,} runs are left out, as their pace was not measured.",
        highlight=False,
    )
    if figures["quick"]:
        console.print("Tiny sizes: these figures only show that the script works.")


def measure_all(given: argparse.Namespace, sizes: Sizes, folder: Path, save: Callable[[Figures], None]) -> Figures:
    """All measurements, saved after each."""
    console = Console(stderr=True)
    chosen = representatives(given.device, sizes)
    figures: Figures = {
        "environment": described(given.device),
        "quick": given.quick,
        "data": provide(given.data, folder),
        "alone": {},
        "at once": {},
        "published": {},
    }
    for (name, rule), setup in chosen.items():
        console.print(f"one run: {name} {rule}", highlight=False)
        data = read(name, folder, sizes)
        figures["alone"][f"{name} {rule}"] = guarded(alone, setup, data, given.device, sizes)
        save(figures)
    for name in dict.fromkeys(STANDS_FOR.values()):
        figures["at once"][name] = []
        for count in sizes.counts:
            console.print(f"{count} at once: {name}", highlight=False)
            setup = chosen[name, AT_ONCE_RULE]
            figures["at once"][name].append(guarded(at_once, setup, count, folder, given.device, sizes))
            save(figures)
    if given.published is not None:
        with published_copy(given.published, folder) as copy:
            give_cifar(read("cifar10", folder, sizes), copy)
            for (name, rule), setup in chosen.items():
                if STANDS_FOR[name] == name and rule != UNATTACKED:
                    console.print(f"published code: {name} {rule}", highlight=False)
                    figures["published"][f"{name} {rule}"] = guarded(published, setup, copy, given.device, sizes)
                    save(figures)
    figures["paper"] = whole_paper(figures)
    save(figures)
    return figures


def described(device: str) -> Figures:
    """Where it is measured, and in which precision convolutions and matrix products are computed there."""
    found: Figures = dict(environment(torch.device(device)))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "convolutions in TF32": torch.backends.cudnn.allow_tf32,
            "products in TF32": torch.backends.cuda.matmul.allow_tf32,
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_root(), help="folder that holds MNIST and CIFAR-10, if any")
    parser.add_argument("--published", type=Path, help="a checkout of the code that was published with the paper")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only to try the script")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--seconds", type=float, help=f"of one measurement, {FULL.seconds:g} by default")
    parser.add_argument("--rules", nargs="+", help="only these rules; multi-krum must be one of them")
    parser.add_argument("--counts", type=int, nargs="+", help=f"runs at once, by default {FULL.counts}")
    given = parser.parse_args()
    if given.device == "cpu" and not given.quick:
        parser.error("--device cpu: expected --quick with it, as these figures say nothing about a GPU")
    if given.rules is not None and AT_ONCE_RULE not in given.rules:
        parser.error(f"--rules: got {' '.join(given.rules)}, expected {AT_ONCE_RULE} among them, which runs at once")
    if given.device == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        print(f"gpu.py: PyTorch {torch.__version__}, {built}, sees no NVIDIA GPU here", file=sys.stderr)
        raise SystemExit(2)

    def save(figures: Figures) -> None:
        if given.json is not None:
            write_atomically(given.json, write_json(figures))

    torch.set_num_threads(1)  # as in several runs at once, so that they compare
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_all(given, chosen_sizes(given), Path(folder), save)
    show(figures, Console())


def chosen_sizes(given: argparse.Namespace) -> Sizes:
    """How much the command line asks to measure."""
    sizes = QUICK if given.quick else FULL
    return sizes._replace(
        seconds=given.seconds or sizes.seconds,
        rules=sizes.rules if given.rules is None else tuple(given.rules),  # a key of what is read once
        counts=sizes.counts if given.counts is None else tuple(given.counts),
    )


def write_json(figures: Figures) -> Callable[[Path], None]:
    """What writes the figures to a file."""

    def write(path: Path) -> None:
        path.write_text(json.dumps(figures, indent=2) + "\n")

    return write


if __name__ == "__main__":
    main()
