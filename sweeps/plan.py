"""Plan: the runs of a sweep that are done, and those that would be computed and why."""

import json
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from byzray.environment import fingerprints
from byzray.files import LARGEST_DESCRIPTION, read_plain, write_atomically
from byzray.options import importing_only
from byzray.runs.digests import DIGESTED
from byzray.runs.directory import DONE, RunDirectory, read_state
from byzray.setups import Placement, Setup
from sweeps.conditions import condition_variables
from sweeps.definition import Sweep
from sweeps.grid import SweepError
from sweeps.storage import STATUS_FILES, Storage

# The files that a plan writes into the storage.
PLAN_FILES = ("sweep.json", "planned.jsonl")

# The states of runs that are computed from the start; their earlier results are moved to `replaced/`.
REPLACED = ("changed", "damaged")

# For runs in a URI a plan compares only this file with its digest, as the others would have to be fetched.
COMPARED = "evaluations.csv"

# The largest earlier plan that is read, in bytes.
LARGEST_PLAN = 16 * LARGEST_DESCRIPTION

# A limit far above what can be computed, as the plan checks each run.
MOST_RUNS = 20_000

# In longer steps, gradients take nearly all of the time.
LONG_STEP_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """A setup with a seed, and the state of its run.

    Attributes:
        setup: the setup, with its seed.
        state: `finished` or `stopped`; if it will be computed, `missing`, `interrupted` (continued from its last
            checkpoint), `failed` (retried), `changed` (computed with other files of the user's own) or `damaged` (done,
            but its files do not match the digests in its status); or `running` in another process.
        step: how many steps were taken.
        seconds: how long they took; 0 if unknown.
    """

    setup: Setup
    state: str
    step: int = 0
    seconds: float = 0.0

    @cached_property
    def name(self) -> str:
        """The name of its directory."""
        return RunDirectory.name(self.setup)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        return self.state in DONE


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep in the order of their seeds.

    Attributes:
        sweep: the sweep.
        only: the conditions that selected some of its setups.
        seeds: the seeds.
        setups: the selected setups.
        runs: each setup with each seed, without those that are known.
        known: how many were left out as they are known.
        others: runs of an earlier plan that are not in this one, for their pace.
    """

    sweep: Sweep
    only: tuple[str, ...]
    seeds: tuple[int, ...]
    setups: tuple[Setup, ...]
    runs: tuple[Run, ...]
    known: int = 0
    others: tuple[Run, ...] = ()

    @property
    def waiting(self) -> list[Run]:
        """The runs to compute."""
        return [run for run in self.runs if not run.done]

    def states(self) -> Counter[str]:
        """The number of runs in each state."""
        return Counter(run.state for run in self.runs)

    def paces(self) -> "Paces":
        """The paces of runs that were computed already."""
        return Paces([*self.runs, *self.others])

    def counts(self) -> dict[str, Counter[str]]:
        """The number of setups by data set, f, rule, attack and placement."""
        known = [condition_variables(setup.describe()) for setup in self.setups]
        ways = {
            "data set": ("dataset",),
            "data set and f": ("dataset", "f"),
            "rule": ("aggregator",),
            "attack": ("attack",),
            "placement": ("placement",),
        }
        return {
            way: Counter(" f=".join(str(one[name]) for name in names) for one in known) for way, names in ways.items()
        }

    def estimate(self, slots: int, known: "Paces") -> tuple[float, int]:
        """The estimated seconds of the waiting runs on so many slots, and the number of runs without an estimate."""
        paces = [(run, known.of(run.setup)) for run in self.waiting if run.state != "running"]
        work = sum((run.setup.steps - run.step) * pace for run, pace in paces if pace is not None)
        return work / slots, sum(pace is None for _, pace in paces)

    def whole(self) -> dict[str, int]:
        """The number of setups, runs and pairs of placements of the sweep with all its setups and seeds."""
        setups, seeds = self.sweep.setups(), len(self.sweep.seeds)
        known = {setup.digest() for setup in setups}
        compared = [setup for setup in setups if setup.attack is not None and setup.momentum.placement == "worker"]
        pairs = sum(_at(setup, "update").digest() in known for setup in compared)
        return {"setups": len(setups), "runs": len(setups) * seeds, "pairs": pairs * seeds}

    def save(self, folder: Path) -> None:
        """Write the plan for reports: sweep.json and planned.jsonl.

        Runs of earlier plans of the same sweep, with other conditions or seeds, remain in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known = _earlier(folder, self.sweep) | {run.name: run.setup for run in self.runs}
        content = {
            "sweep": self.sweep.name,
            "digest": self.sweep.digest(),
            "only": self.only,
            "seeds": self.seeds,
            "setups": len(self.setups),
            "runs": len(self.runs),
            "whole": self.whole(),
        }
        lines = ({"run": name, "setup": setup.describe()} for name, setup in known.items())
        text = "".join(f"{json.dumps(one)}\n" for one in lines)
        write_atomically(folder / "planned.jsonl", lambda path: _write(path, text))
        write_atomically(folder / "sweep.json", lambda path: _write(path, json.dumps(content, indent=2) + "\n"))


def _at(setup: Setup, placement: Placement) -> Setup:
    """The setup with another placement of momentum."""
    return setup.model_copy(update={"momentum": setup.momentum.model_copy(update={"placement": placement})})


class Paces:
    """Measured seconds per step, of runs of the same kind or else of similar ones."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._measured: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        for run in runs:
            if run.step and run.seconds:
                self.add(run.setup, run.seconds / run.step)

    def add(self, setup: Setup, pace: float) -> None:
        """Add a measurement."""
        for kind in _kinds(setup):
            self._measured[kind].append(pace)

    def content(self) -> dict[str, float]:
        """The mean of each kind, for :meth:`add_content`."""
        return {json.dumps(kind): statistics.fmean(paces) for kind, paces in self._measured.items()}

    def add_content(self, content: Mapping[str, float]) -> None:
        """Add what :meth:`content` of others returned."""
        for text, pace in content.items():
            kind, *more = json.loads(text)
            self._measured[kind, *more].append(pace)

    def know(self, setup: Setup) -> bool:
        """Whether runs of the same kind were measured, or similar ones with steps so long that rules hardly count."""
        like, similar, _ = _kinds(setup)
        return like in self._measured or min(self._measured.get(similar, [0.0])) > LONG_STEP_SECONDS

    def of(self, setup: Setup) -> float | None:
        """Seconds per step of a run; None if no similar run was measured."""
        for kind in _kinds(setup):
            if kind in self._measured:
                return statistics.fmean(self._measured[kind])
        return None


def _kinds(setup: Setup) -> Iterator[tuple[Any, ...]]:
    """Keys of runs with similar costs, from narrow to wide; the model and its data are part of each."""
    task = (setup.dataset.describe()["name"], setup.model.describe()["name"], setup.batch_size)
    yield (*task, len(setup.trained), setup.defence.label(), setup.byzantine)
    yield (*task, len(setup.trained))
    yield task


def make_plan(
    sweep: Sweep,
    storage: Storage,
    data: Path,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    known: Collection[str] = (),
) -> Plan:
    """Read the states of a sweep's runs.

    Args:
        sweep: the sweep.
        storage: where its results are.
        data: the folder that holds data sets.
        only: conditions that select some of its setups, see :mod:`sweeps.conditions`.
        seeds: replace the sweep's.
        known: names of runs to leave out, as their results are elsewhere.

    Raises:
        sweeps.grid.SweepError: a condition cannot be evaluated, or no setup or run is left.
        byzray.runs.directory.RunExists: the status.json or environment.json of a run is damaged.
    """
    setups = sweep.setups(tuple(only))
    seeds = tuple(seeds or sweep.seeds)
    if (count := len(setups) * len(seeds)) > MOST_RUNS:
        raise SweepError(sweep.name, [f"has {count} runs, expected at most {MOST_RUNS}"])
    storage.pull("runs", names=(*STATUS_FILES, COMPARED))
    locks = storage.filesystem is None
    compared = DIGESTED if locks else (COMPARED,)
    storage.pull(*PLAN_FILES)
    present = {path.name for path in storage.runs.iterdir()} if storage.runs.exists() else set()
    wanted = [setup.model_copy(update={"seed": seed}) for seed in seeds for setup in setups]
    if known and sweep.search is not None:
        raise SweepError(sweep.name, ["has setups that a search finds: none of them can be known"])
    if known:
        wanted = [setup for setup in wanted if RunDirectory.name(setup) not in known]
        if not wanted:
            raise SweepError(sweep.name, ["has no run left: all are known"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the time goes into digests
        runs = list(pool.map(lambda setup: _read_run(setup, storage.runs, present, data, compared, locks), wanted))
    if sweep.early_stopping is None:  # the sweep had early stopping when they were stopped
        runs = [replace(run, state="interrupted") if run.state == "stopped" else run for run in runs]
    names = {run.name for run in runs}
    others = [
        _read_run(setup, storage.runs, present, data, (), locks)
        for name, setup in _earlier(storage.folder, sweep).items()
        if name in present - names
    ]
    return Plan(sweep, tuple(only), seeds, tuple(setups), tuple(runs), count - len(runs), tuple(others))


def _read_run(setup: Setup, folder: Path, present: set[str], data: Path, compared: Collection[str], locks: bool) -> Run:
    name = RunDirectory.name(setup)
    if name not in present:
        return Run(setup, "missing")
    directory = RunDirectory(folder, setup)
    now = fingerprints(setup, data)
    known = directory.environment.get("files", {}) if now else {}
    if any(known.get(file, digest) != digest for file, digest in now.items()):
        return Run(setup, "changed")
    found = read_state(folder / name, compared, locks)
    if found.state == "damaged" and directory.status is not None:  # which raises where status.json is what is damaged
        return Run(setup, "damaged")
    state = "interrupted" if found.state == "running" and not locks else found.state  # locks would show it
    return Run(setup, state, found.step, 0.0 if math.isnan(found.seconds) else found.seconds)


def _earlier(folder: Path, sweep: Sweep) -> dict[str, Setup]:
    """The setups of earlier plans of the same sweep, by the names of their runs; damaged lines are skipped.

    Anyone may have written the plan: only those user classes are imported that the sweep itself names.
    """
    if _read_json(folder / "sweep.json").get("digest") != sweep.digest():
        return {}
    try:
        content = read_plain(folder / "planned.jsonl", LARGEST_PLAN).decode("utf-8", errors="replace")
    except OSError:
        return {}
    known = {}
    with importing_only(_own_classes(sweep.setups())):
        for line in content.splitlines():
            with suppress(ValueError, LookupError, TypeError, RecursionError):  # pydantic's errors are ValueErrors
                setup = Setup.model_validate(json.loads(line)["setup"])
                known[RunDirectory.name(setup)] = setup
    return known


def _own_classes(setups: Iterable[Setup]) -> set[str]:
    """The names, ``module:Class``, of the user's own classes in some setups."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for inner in value.values():
                yield from names(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from names(inner)
        elif isinstance(value, str) and ":" in value:
            yield value

    return {name for setup in setups for name in names(setup.describe())}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError):  # a damaged file is replaced
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
