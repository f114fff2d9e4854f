"""Reads a directory of runs: finished, interrupted and damaged ones, and planned ones that are missing.

Anyone may have written the directory. All of it is data: no class that a setup names is imported, no link is followed,
nothing is read without a limit, and what is damaged is listed and ends no report.
"""

import io
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from byzray.arrays import is_finite
from byzray.evaluation import OF_WORKERS
from byzray.files import open_plain, read_plain
from byzray.metrics import KAPPA_COLUMN
from byzray.mistakes import WrongInput, visible
from byzray.report.panels import PLACEMENTS, identity
from byzray.runs.directory import OTHER_FOLDERS, STATES, Found, explain, named, read_state, run_directories
from byzray.runs.status import Count
from byzray.runs.table import read_table
from byzray.yaml import LARGEST_TEXT, parse_yaml

# Far above those of a setup.
LARGEST_RATE = 1e100

# Where runs lie below the folder of a report.
PLACES = ("*", "runs/*")

NEEDED_FIELDS = {
    "dataset": dict,
    "model": dict,
    "aggregator": dict,
    "momentum": dict,
    "learning_rate": dict,
    "workers": int,
    "byzantine": int,
    "tolerated": int,
    "steps": int,
    "seed": int,
}

METRICS = {
    "Step number": "step",
    "Average loss": "loss",
    "l2 from origin": "distance",
    "Sampled gradient deviation": "sampled deviation",
    "Sampled gradient norm": "sampled norm",
    "Honest gradient deviation": "submitted deviation",
    "Honest gradient norm": "submitted norm",
    KAPPA_COLUMN: "kappa_hat",
}
"""What is read of a table of metrics, and how it is called here."""

LOG_LINES, LOG_BYTES = 15, 8192

# What is read of a file of a run at most, in bytes: a table of some two million steps.
LARGEST_TABLE = 2**30

# The same of a plan: a thousand bytes a run are usual.
LARGEST_PLAN = 256 * 2**20

# How much is shown of a reason, in characters.
LONGEST_REASON = 2000


@dataclass(frozen=True)
class Run:
    """One run, planned or found.

    Attributes:
        name: of its directory.
        setup: the resolved setup as plain data.
        state: one of :data:`byzray.runs.directory.STATES`.
        step: how many steps it took.
        reason: why it is not finished, if that is known.
        seconds: how long it took; NaN if that was not recorded.
        diverged_at: the step whose update made the parameters non-finite; none: they stayed finite.
        metrics: columns step, loss and, with a study, sampled and submitted (the squared variance-norm ratios), and
            kappa_hat where it was measured.
        evaluations: columns step and accuracy (a share of 1), and those of the workers' accuracies where there are any.
        log: the end of what a failed run left in error.txt.
        environment: the content of environment.json.
        digests: the SHA-256 of its files, by name.
    """

    name: str
    setup: dict[str, Any]
    state: str
    step: int = 0
    reason: str = ""
    seconds: float = math.nan
    diverged_at: int | None = None
    metrics: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["step", "loss"], dtype="float64"))
    evaluations: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["step", "accuracy"], dtype="float64")
    )
    log: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


class Whole(BaseModel):
    """How large a sweep is with all its setups and seeds."""

    model_config = ConfigDict(strict=True)

    setups: Count | None = None
    runs: Count | None = None
    pairs: Count | None = None


class SweepFacts(BaseModel):
    """What a report shows of sweep.json."""

    model_config = ConfigDict(strict=True)

    sweep: str = ""
    runs: Count | None = None
    only: list[str] = []
    seeds: list[int] = []
    whole: Whole | None = None


@dataclass(frozen=True)
class Collection:
    """All that a directory holds.

    Attributes:
        runs: those found, in the order of their names, then those planned and not found.
        sweep: what sweep.json says, nothing if there is none.
        notes: what could not be read or was left out, one line each.
        planned: how many runs are planned; 0: there is no plan.
        foreign: the names of runs that were found and are not planned; none if there is no plan.
    """

    runs: list[Run]
    sweep: SweepFacts
    notes: list[str]
    planned: int = 0
    foreign: frozenset[str] = frozenset()


def collect(directory: Path, shown: str | None = None) -> Collection:
    """Read every run below `directory`, and the plan if there is one.

    Args:
        directory: the folder.
        shown: its name in messages, if not its path.

    Raises:
        WrongInput: there is neither a run nor a plan.
    """
    locks = shown is None or "://" not in shown  # a copy of what lies elsewhere has none
    shown = str(directory) if shown is None else shown
    if not directory.is_dir():
        raise WrongInput(f"{shown}: there is no such folder, expected one with run directories")
    _expect_no_sweeps(directory, shown)
    notes: list[str] = []
    plan = _plan(directory / "planned.jsonl", notes)
    sweep = _sweep(directory / "sweep.json", notes)
    found = run_directories(directory, PLACES)
    if not found and not plan:
        raise WrongInput(_nothing(directory, shown))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(lambda path: _read_run(path, plan.get(path.name), locks), found))
    runs = []
    for path, run in zip(found, read, strict=True):
        if isinstance(run, str):
            notes.append(f"{visible(path.name)}: {run}; it is not counted")
        else:
            runs.append(run)
    if not runs and not plan:
        raise WrongInput(f"{shown}: found no run that can be read; " + "; ".join(notes))
    present = {path.name for path in found}
    absent = {visible(name): setup for name, setup in plan.items() if name not in present}
    missing = [Run(name, setup, "missing", reason="not begun") for name, setup in absent.items()]
    once = each_once(runs + missing, notes)
    # Not by their names: what was planned for actors may have been computed without.
    planned = {simulated(setup) for setup in plan.values()}
    foreign = {run.name for run in once if simulated(run.setup) not in planned} if plan else ()
    return Collection(once, sweep, notes, len(plan), frozenset(foreign))


def _nothing(directory: Path, shown: str) -> str:
    if (directory / "setup.yaml").exists():
        return f"{shown}: is itself a run directory, expected the folder that holds run directories"
    inside = sorted(visible(path.name) for path in directory.iterdir())
    listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    return (
        f"{shown}: found no run in it ({'it holds ' + listed if inside else 'it is empty'}); "
        "expected folders with a setup.yaml, in it or in its folder runs, or a planned.jsonl"
    )


def _expect_no_sweeps(directory: Path, shown: str) -> None:
    """A folder of sweeps has no report of its own: each of them has one.

    Raises:
        WrongInput: it is such a folder.
    """
    if any((directory / name).exists() for name in ("planned.jsonl", "runs")):
        return
    marks = ("*/planned.jsonl", "*/runs/*/setup.yaml")
    found = {path.relative_to(directory).parts[0] for pattern in marks for path in directory.glob(pattern)}
    sweeps = sorted(visible(name) for name in found if name not in OTHER_FOLDERS and not name.startswith("."))
    if not sweeps:
        return
    runs = len(run_directories(directory, PLACES))
    others = ""
    if runs:
        others = f" and {runs} single run{'s' * (runs > 1)}, which need a folder of their own to be reported"
    listed = ", ".join(sweeps[:5]) + (", ..." if len(sweeps) > 5 else "")
    raise WrongInput(
        f"{shown}: holds sweeps ({listed}){others}; expected one sweep: byzray report {shown.rstrip('/')}/{sweeps[0]}"
    )


def simulated(setup: dict[str, Any]) -> tuple[str, int]:
    """What two runs share if they simulate the same."""
    return identity(setup), setup["seed"]


def each_once(runs: Iterable[Run], notes: list[str]) -> list[Run]:
    """A run may lie there twice, of two layouts on actors for example: the one that got further counts."""
    kept: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = simulated(run.setup)
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        better, worse = sorted((other, run), key=lambda one: (STATES.index(one.state), -one.step))
        kept[key] = better
        if worse.state != "missing":  # planned for actors, say, and computed without: nothing is lacking
            notes.append(f"{worse.name}: simulates the same as {better.name}, only elsewhere; it is not counted")
    return list(kept.values())


def _plan(path: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """The planned setups by the name of the run's directory."""
    planned: dict[str, dict[str, Any]] = {}
    try:
        content = read_plain(path, LARGEST_PLAN).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return planned
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error.strerror}); nothing is taken as planned")
        return planned
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            planned[str(one["run"])] = checked(one["setup"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            notes.append(f"{path.name}: line {number} is damaged ({explain(error)}); it is left out of the plan")
    return planned


def _sweep(path: Path, notes: list[str]) -> SweepFacts:
    try:
        return SweepFacts.model_validate(cleaned(_json(path)))
    except (ValueError, OSError, RecursionError) as error:
        notes.append(f"{path.name}: is damaged ({explain(error)})")
        return SweepFacts()


def _json(path: Path) -> dict[str, Any]:
    """The mapping a JSON file holds, empty if there is no such file."""
    try:
        content = json.loads(read_plain(path))
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise ValueError("expected a mapping")
    return content


def checked(setup: Any) -> dict[str, Any]:
    """`setup` as JSON data, if it has the fields of a resolved setup that a report needs.

    Raises:
        ValueError: it lacks one of them, or one is of the wrong type.
    """
    if not isinstance(setup, dict):
        raise ValueError("expected the mapping of a resolved setup")
    for name, kind in NEEDED_FIELDS.items():
        value = setup.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"is no resolved setup: expected {name!r} with a value of type {kind.__name__}")
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise ValueError(f"is no resolved setup: expected {name!r} with a number that fits into 63 bits")
    pre, split = setup.get("pre", []), setup.get("split", {"name": "shared"})
    if not isinstance(pre, list):
        raise ValueError("is no resolved setup: expected 'pre' with a list")
    for name in ("dataset", "model", "aggregator", "attack"):
        option = setup.get(name)
        if (option is not None or name != "attack") and not (
            isinstance(option, dict) and isinstance(option.get("name"), str)
        ):
            raise ValueError(f"is no resolved setup: expected {name!r} with a 'name'")
    for part in (*pre, split):
        if not (isinstance(part, dict) and isinstance(part.get("name"), str)):
            raise ValueError("is no resolved setup: expected 'pre' and 'split' with names")
    if setup["momentum"].get("name") == "mvr":
        setup = {**setup, "momentum": {**setup["momentum"], "placement": "worker"}}  # which it does not write
    if setup["momentum"].get("placement") not in PLACEMENTS:
        raise ValueError(f"is no resolved setup: expected 'momentum' with a 'placement' of {', '.join(PLACEMENTS)}")
    text = json.dumps(setup)
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"is no resolved setup: expected at most {LARGEST_TEXT} characters")
    content: dict[str, Any] = cleaned(json.loads(text))
    _check_rates(content["learning_rate"])
    return content


def _check_rates(learning_rate: dict[str, Any]) -> None:
    """Expect the rates of a resolved setup.

    Raises:
        ValueError: they are something else.
    """
    initial, schedule = learning_rate.get("initial"), learning_rate.get("schedule")
    if not isinstance(schedule, dict | None) or not all(key.isdecimal() for key in schedule or ()):
        raise ValueError("is no resolved setup: expected 'learning_rate' with a 'schedule' of steps and rates")
    for rate in [*(schedule or {}).values(), *([] if initial is None else [initial])]:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not abs(rate) < LARGEST_RATE:
            raise ValueError(f"is no resolved setup: expected rates below {LARGEST_RATE:g} as 'learning_rate'")


def cleaned(content: Any) -> Any:
    """The same with control characters escaped in all texts."""
    if isinstance(content, dict):
        return {visible(str(key)): cleaned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [cleaned(one) for one in content]
    return visible(content) if isinstance(content, str) else content


def _read_run(path: Path, planned: dict[str, Any] | None, locks: bool) -> Run | str:
    """The run in a directory, or why there is none to speak of; `locks`: whether a run that is computed is locked."""
    try:
        setup = planned
        if setup is None:
            setup = checked(parse_yaml(read_plain(path / "setup.yaml", 4 * LARGEST_TEXT).decode("utf-8")))
    except (ValueError, OSError, TypeError, RecursionError) as error:
        return f"its setup.yaml is damaged ({explain(error)})"
    try:
        return _read_tables(path, setup, locks)
    except Exception as error:  # files of strangers: nothing in one run ends the report of the others
        return Run(visible(path.name), setup, "damaged", reason=_shortened(explain(error)))


def _read_tables(path: Path, setup: dict[str, Any], locks: bool) -> Run:
    found = read_state(path, locks=locks)
    if found.state == "damaged":
        raise ValueError(found.reason)
    step = found.step
    metrics = named("metrics.csv", lambda: _metrics(path / "metrics.csv"))
    evaluations = named("evaluations.csv", lambda: _evaluations(path / "evaluations.csv"))
    if found.state == "stopped":  # what was computed before the scheduler was heard is no part of the run
        metrics, evaluations = metrics[metrics["step"] < step], evaluations[evaluations["step"] <= step]
    if found.state == "finished" and len(metrics) != (expected := _steps_taken(setup, found)):
        raise ValueError(f"metrics.csv: expected the {expected} rows of a finished run, found {len(metrics)}")
    if len(metrics):
        step = max(step, int(metrics["step"].iloc[-1]) + 1)
    return Run(
        name=visible(path.name),
        setup=setup,
        state=found.state,
        step=step,
        reason=_shortened(found.reason),
        seconds=found.seconds,
        diverged_at=_diverged_at(metrics, path / "parameters.npy", found),
        metrics=metrics.drop(columns="distance", errors="ignore"),
        evaluations=evaluations,
        log=_log(path / "error.txt"),
        environment=named("environment.json", lambda: cleaned(_json(path / "environment.json"))),
        digests=found.digests,
    )


def _steps_taken(setup: dict[str, Any], found: Found) -> int:
    """How many steps a finished run has."""
    if setup.get("divergence") == "stop" and found.diverged is not None:
        return found.diverged.step + 1
    return int(setup["steps"])


def _shortened(reason: str) -> str:
    reason = visible(reason)
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."


def _evaluations(path: Path) -> pd.DataFrame:
    try:
        frame = read_table(path, LARGEST_TABLE)
    except FileNotFoundError:
        return pd.DataFrame(columns=["step", "accuracy"], dtype="float64")
    expect_counting(frame, "step", "accuracy")
    shares = frame["accuracy"].dropna()
    if not shares.between(0, 1).all():
        raise ValueError("expected accuracies from 0 to 1")
    return frame[[name for name in ("step", "accuracy", *OF_WORKERS) if name in frame.columns]]


def _metrics(path: Path) -> pd.DataFrame:
    """The columns that a report needs of a table of metrics, which has many more; no file: no rows."""
    try:
        content = read_plain(path, LARGEST_TABLE)
    except FileNotFoundError:
        return pd.DataFrame(columns=["step", "loss"], dtype="float64")
    # A run that computes now, or was killed, may have left half a line.
    complete = io.BytesIO(content[: content.rfind(b"\n") + 1])
    # The types are given, so that text is an error, and a column of NaN is one of numbers. In some releases of pandas
    # the last digit is off, which is good enough here.
    frame = pd.read_csv(complete, usecols=lambda name: name in METRICS, dtype=dict.fromkeys(METRICS, "float64")).rename(
        columns=METRICS
    )
    expect_counting(frame, "step", "loss")
    with np.errstate(all="ignore"):
        for which in ("sampled", "submitted"):
            if f"{which} norm" in frame.columns:
                frame[which] = (frame.pop(f"{which} deviation") / frame.pop(f"{which} norm")) ** 2
    return frame


def expect_counting(frame: pd.DataFrame, *columns: str) -> None:
    """Expect a table with these columns, the first of which counts upwards.

    Raises:
        ValueError: it is another.
    """
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"it lacks the column of the {name}")
    steps = frame[columns[0]].to_numpy(dtype="float64")
    if not (np.isfinite(steps).all() and (steps >= 0).all() and (steps < 2**53).all() and (np.diff(steps) > 0).all()):
        raise ValueError("expected steps that grow from row to row")


def _diverged_at(metrics: pd.DataFrame, parameters: Path, found: Found) -> int | None:
    """The step whose update made the parameters non-finite: as the run recorded it, else as far as its files show."""
    if found.diverged is not None:
        return found.diverged.step
    finished = found.state == "finished"
    if finished and named(parameters.name, lambda: is_finite(parameters)):
        return None  # what is not finite once stays so
    shown = metrics["distance" if "distance" in metrics.columns else "loss"].to_numpy()
    lost = ~np.isfinite(shown)
    if lost.any():  # both are those before the step's update
        return max(0, int(metrics["step"].iloc[int(lost.argmax())]) - 1)
    return len(metrics) - 1 if finished else None


def _log(path: Path) -> str:
    try:
        with open_plain(path) as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"({path.name} is not shown: {error.strerror or error})"
    return visible("\n".join(text.rstrip().splitlines()[-LOG_LINES:]))
