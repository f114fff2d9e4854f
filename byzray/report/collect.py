"""Reads what lies in a directory of runs: finished, broken off, damaged, and what was planned but is not there."""

import io
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byzray.report.panels import identity
from byzray.table import read_table
from byzray.yaml import read_yaml

RECORDED = ("finished", "stopped", "running", "interrupted", "failed")
"""What a status.json may say. `stopped`: ended early by a scheduler."""

STATES = (*RECORDED, "damaged", "missing")
"""What may have become of a run, in the order in which they are told."""

COUNTED = ("finished", "stopped")
"""The states in which a run's best accuracy is final."""

# Folders beside the runs that hold something else.
OTHER_FOLDERS = ("report", "tune", "replaced")

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
}
"""What is read of a table of metrics, and how it is called here."""

LOG_LINES, LOG_BYTES = 15, 8192


class NothingToReport(ValueError):
    """The directory holds no runs; the message names it, what was found and what was expected."""


@dataclass(frozen=True)
class Run:
    """One run, planned or found.

    Attributes:
        name: of its directory.
        setup: the resolved setup as plain data.
        state: one of :data:`STATES`.
        step: how many steps it took.
        reason: why it is not finished, if that is known.
        seconds: how long it took; NaN if that was not recorded.
        diverged_at: the first step at which the average loss or the distance to the initial parameters is not finite,
            or the number of steps if only the final parameters are not; none: it stayed finite.
        metrics: columns step, loss and, with a study, sampled and submitted: the squared variance-norm ratios.
        evaluations: columns step and accuracy (a share of 1).
        log: the end of what a failed run left in error.txt.
        environment: the content of environment.json.
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


@dataclass(frozen=True)
class Collection:
    """All that a directory holds.

    Attributes:
        runs: those found, in the order of their names, then those planned and not found.
        sweep: the content of sweep.json, empty if there is none.
        notes: what could not be read or was left out, one line each.
        planned: how many runs are planned; 0: there is no plan.
        foreign: the names of runs that were found and are not planned; none if there is no plan.
    """

    runs: list[Run]
    sweep: dict[str, Any]
    notes: list[str]
    planned: int = 0
    foreign: frozenset[str] = frozenset()


def collect(directory: Path, shown: str | None = None) -> Collection:
    """Read every run below `directory`, and the plan that may lie beside them.

    Args:
        directory: where they lie.
        shown: what messages call it, if not by its path.

    Raises:
        NothingToReport: there is neither a run nor a plan.
    """
    shown = str(directory) if shown is None else shown
    if not directory.is_dir():
        raise NothingToReport(f"{shown}: there is no such folder, expected one with run directories")
    notes: list[str] = []
    plan = _plan(directory / "planned.jsonl", notes)
    sweep = _sweep(directory / "sweep.json", notes)
    found = _run_directories(directory)
    if not found and not plan:
        raise NothingToReport(_nothing(directory, shown))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(lambda path: _read_run(path, plan.get(path.name)), found))
    runs = []
    for path, run in zip(found, read, strict=True):
        if isinstance(run, str):
            notes.append(f"{path.name}: {run}; it is not counted")
        else:
            runs.append(run)
    if not runs and not plan:
        raise NothingToReport(f"{shown}: found no run that can be read; " + "; ".join(notes))
    present = {path.name for path in found}
    missing = [Run(name, setup, "missing", reason="not begun") for name, setup in plan.items() if name not in present]
    once = _each_once(runs + missing, notes)
    # Not by their names: what was planned for actors may have been computed without.
    planned = {_simulated(setup) for setup in plan.values()}
    foreign = {run.name for run in once if _simulated(run.setup) not in planned} if plan else ()
    return Collection(once, sweep, notes, len(plan), frozenset(foreign))


def _nothing(directory: Path, shown: str) -> str:
    if (directory / "setup.yaml").exists():
        return f"{shown}: is itself a run directory, expected the folder that holds run directories"
    inside = sorted(path.name for path in directory.iterdir())
    listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    return (
        f"{shown}: found no run in it ({'it holds ' + listed if inside else 'it is empty'}), "
        "expected folders with a setup.yaml, in it or in its folder runs, or a planned.jsonl"
    )


def _run_directories(directory: Path) -> list[Path]:
    return sorted(
        path.parent
        for pattern in ("*/setup.yaml", "runs/*/setup.yaml")
        for path in directory.glob(pattern)
        if path.parent.name not in OTHER_FOLDERS and not path.parent.name.startswith(".")
    )


def _simulated(setup: dict[str, Any]) -> tuple[str, int]:
    """What two runs share if they simulate the same."""
    return identity(setup), setup["seed"]


def _each_once(runs: Iterable[Run], notes: list[str]) -> list[Run]:
    """A run may lie there twice, of two layouts on actors for example: the one that got further counts."""
    kept: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = _simulated(run.setup)
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
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return planned
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error.strerror}); nothing is taken as planned")
        return planned
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            planned[str(content["run"])] = checked(content["setup"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            notes.append(f"{path.name}: line {number} is damaged ({error}); it is left out of the plan")
    return planned


def _sweep(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return _json(path)
    except (ValueError, OSError, RecursionError) as error:
        notes.append(f"{path.name}: is damaged ({error})")
        return {}


def _json(path: Path) -> dict[str, Any]:
    """The mapping a JSON file holds, empty if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise ValueError("expected a mapping")
    return content


def checked(setup: Any) -> dict[str, Any]:
    """`setup` as JSON holds it, if it has the fields of a resolved setup that a report needs.

    Raises:
        ValueError: it lacks one of them, or one is of the wrong type.
    """
    if not isinstance(setup, dict):
        raise ValueError("expected the mapping of a resolved setup")
    for name, kind in NEEDED_FIELDS.items():
        if not isinstance(setup.get(name), kind):
            raise ValueError(f"is no resolved setup: expected {name!r} with a value of type {kind.__name__}")
    for name in ("dataset", "model", "aggregator"):
        if not isinstance(setup[name].get("name"), str):
            raise ValueError(f"is no resolved setup: expected {name!r} with a 'name'")
    if "placement" not in setup["momentum"]:
        raise ValueError("is no resolved setup: expected 'momentum' with a 'placement'")
    content: dict[str, Any] = json.loads(json.dumps(setup))
    return content


def _read_run(path: Path, planned: dict[str, Any] | None) -> Run | str:
    """The run in a directory, or why there is none to speak of."""
    try:
        setup = planned if planned is not None else checked(read_yaml(path / "setup.yaml"))
    except (ValueError, TypeError, RecursionError) as error:
        return f"its setup.yaml is damaged ({error})"
    try:
        return _read_tables(path, setup)
    except (ValueError, OSError) as error:
        return Run(path.name, setup, "damaged", reason=" ".join(str(error).split()))


def _read_tables(path: Path, setup: dict[str, Any]) -> Run:
    status = _named("status.json", lambda: _json(path / "status.json"))
    state, reason = status.get("state", "interrupted"), str(status.get("reason", ""))
    if state not in RECORDED:
        raise ValueError(f"status.json: got the state {state!r}, expected one of {', '.join(RECORDED)}")
    if not status:
        reason = "there is no status.json"
    step = _named("status.json", lambda: int(status.get("step", 0)))
    metrics = _named("metrics.csv", lambda: _metrics(path / "metrics.csv"))
    evaluations = _named("evaluations.csv", lambda: _evaluations(path / "evaluations.csv"))
    if state == "stopped":  # what was computed before the scheduler was heard is no part of the run
        metrics, evaluations = metrics[metrics["step"] < step], evaluations[evaluations["step"] <= step]
    if state == "finished" and len(metrics) != setup["steps"]:
        raise ValueError(f"metrics.csv: expected the {setup['steps']} rows of a finished run, found {len(metrics)}")
    if len(metrics):
        step = max(step, int(metrics["step"].iloc[-1]) + 1)
    return Run(
        name=path.name,
        setup=setup,
        state=state,
        step=step,
        reason=reason,
        seconds=_named("status.json", lambda: float(status.get("seconds") or math.nan)),
        diverged_at=_diverged_at(metrics, path / "parameters.npy", step),
        metrics=metrics.drop(columns="distance", errors="ignore"),
        evaluations=evaluations,
        log=_log(path / "error.txt"),
        environment=_named("environment.json", lambda: _json(path / "environment.json")),
    )


def _named(name: str, read: Callable[[], Any]) -> Any:
    """What `read` returns; its errors name the file."""
    try:
        return read()
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: is damaged ({error})") from error


def _evaluations(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=["step", "accuracy"], dtype="float64")
    frame = read_table(path)
    _expect(frame, "step", "accuracy")
    return frame[["step", "accuracy"]]


def _metrics(path: Path) -> pd.DataFrame:
    """The columns that a report needs of a table of metrics, which has many more; no file: no rows."""
    if not path.exists():
        return pd.DataFrame(columns=["step", "loss"], dtype="float64")
    content = path.read_bytes()
    # A run that computes now, or was killed, may have left half a line.
    complete = io.BytesIO(content[: content.rfind(b"\n") + 1])
    # The types are given, so that text is an error, and a column of NaN is one of numbers. In some releases of pandas
    # the last digit is off, which is good enough here.
    frame = pd.read_csv(complete, usecols=lambda name: name in METRICS, dtype=dict.fromkeys(METRICS, "float64")).rename(
        columns=METRICS
    )
    _expect(frame, "step", "loss")
    for which in ("sampled", "submitted"):
        if f"{which} norm" in frame.columns:
            frame[which] = (frame.pop(f"{which} deviation") / frame.pop(f"{which} norm")) ** 2
    return frame


def _expect(frame: pd.DataFrame, *columns: str) -> None:
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"it lacks the column of the {name}")


def _diverged_at(metrics: pd.DataFrame, parameters: Path, step: int) -> int | None:
    measured = metrics.drop(columns=["step", "sampled", "submitted"], errors="ignore").to_numpy()
    lost = ~np.isfinite(measured).all(axis=1)
    if lost.any():
        return int(metrics["step"].iloc[int(lost.argmax())])
    if not parameters.exists():
        return None
    values = _named(parameters.name, lambda: np.load(parameters, mmap_mode="r", allow_pickle=False))
    return None if np.isfinite(values).all() else step


def _log(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-LOG_LINES:])
