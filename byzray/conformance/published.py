"""Replays vectors: inputs and outputs of the code published with the paper, and of definitions of the field beyond it.

A directory of vectors has up to four parts: `aggregators.json` with `aggregators.npz`, `attacks.json` with
`attacks.npz`, `trajectories/`, and `field.json` with `field.npz`. docs/conformance.md describes the format.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.aggregators import AGGREGATORS
from byzray.arrays import open_archive, read_array
from byzray.attacks import ATTACKS, View
from byzray.conformance import field
from byzray.conformance.ties import CENTERS, near_ties
from byzray.datasets import Data
from byzray.defence import Defence
from byzray.devices import Device, pick_device
from byzray.metrics import METRIC_COLUMNS
from byzray.mistakes import with_label
from byzray.recording.simulation import Simulation
from byzray.setups import Setup
from byzray.step import Step
from byzray.study import acceptance
from byzray.submissions import Matrix

# The published code's names, where they are not ours.
AGGREGATOR_NAMES = {"krum": "multi-krum", "trmean": "trimmed-mean", "brute": "minimum-diameter"}
ATTACK_NAMES = {"bulyan": "hidden", "anticge": "anti-cge"}

# Of rules and attacks, in float64, relative to the largest coordinate (absolute below 1).
TOLERANCE = 1e-9

# Of metrics, relative; the published code computes and prints them in float32.
METRIC_TOLERANCE = 1e-4

# All rows of an attack are equal, so what the published code prints for their deviation is rounding.
ROUNDING_ONLY = METRIC_COLUMNS.index("Attack gradient deviation")

# What vectors that are not in the format make of this module, of rules and of attacks.
MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

Start = Callable[[Setup, Data, Tensor], Simulation]


@dataclass(frozen=True)
class Case:
    """The outcome of one case: its largest error, and the largest that is allowed."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its tolerance; an error that is no number is not."""
        return self.error <= self.tolerance


def replay(directory: Path, start: Start, device: Device = "auto") -> Iterator[Case]:
    """Replay all parts that a directory has.

    Args:
        directory: the vectors.
        start: makes a simulation from a setup, its data and its initial parameters.
        device: where rules and attacks, and the simulations, compute.

    Raises:
        SetupError: there is no such device.
        ValueError: the directory has none of these parts, or one is not in the format.
    """
    there = pick_device(device)
    parts: list[tuple[str, Callable[[], Iterator[Case]]]] = [
        ("aggregators.json", lambda: replay_aggregators(directory, there)),
        ("attacks.json", lambda: replay_attacks(directory, there)),
        ("trajectories/cases.json", lambda: replay_trajectories(directory / "trajectories", start, device)),
        ("field.json", lambda: replay_field(directory, there)),
    ]
    present = [(file, part) for file, part in parts if (directory / file).exists()]
    if not present:
        files = ", ".join(file for file, _ in parts)
        raise ValueError(f"{directory}: holds no vectors, expected at least one of {files}")
    for file, part in present:
        try:
            yield from part()
        except MALFORMED as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{directory / file}, or an array it names, is not as it should be: {reason}") from error


def replay_aggregators(directory: Path, device: torch.device) -> Iterator[Case]:
    """One case a rule and input: the aggregate, the acceptance ratio and the variance-norm bound."""
    arrays = _arrays(directory / "aggregators.npz")
    for case in json.loads((directory / "aggregators.json").read_text(encoding="utf-8")):
        n, f = case["n"], case["f"]
        rule = AGGREGATORS.parse({"name": AGGREGATOR_NAMES.get(case["rule"], case["rule"]), **case["args"]})
        if reason := rule.check(n, f):
            raise ValueError(f"case {case['id']}: {with_label(rule.label(), reason)}")
        gradients_ND = torch.from_numpy(arrays[case["input"]])
        if gradients_ND.ndim != 2 or len(gradients_ND) != n:
            raise ValueError(f"case {case['id']}: expected {n} rows, got an array of shape {tuple(gradients_ND.shape)}")
        aggregate = Defence([], rule).at(Step(n=n, f=f), {})(Matrix(gradients_ND.to(device)))
        errors = [_error(aggregate.vector_D.cpu().numpy(), arrays[case["output"]])]
        if case["influence"] is not None and aggregate.rows_K is not None:
            errors.append(abs(acceptance(aggregate, n - f, f).item() - case["influence"]))
        if case["variance_norm_bound"] is not None:
            errors.append(abs(rule.bound(n, f) - case["variance_norm_bound"]))
        yield Case(_name("aggregators", case, case["rule"], case["args"], f"n={n} f={f}"), _largest(errors), TOLERANCE)


def replay_attacks(directory: Path, device: torch.device) -> Iterator[Case]:
    """One case an attack and input."""
    arrays = _arrays(directory / "attacks.npz")
    for case in json.loads((directory / "attacks.json").read_text(encoding="utf-8")):
        attack = ATTACKS.parse(attack_options(case["attack"], case["args"]))
        rule = AGGREGATORS.parse(AGGREGATOR_NAMES.get(case["aggregator"], case["aggregator"]))
        honest_HD = torch.from_numpy(arrays[case["input"]])
        if honest_HD.ndim != 2 or not 0 < case["real_byzantine"] <= len(honest_HD):
            shape = tuple(honest_HD.shape)
            raise ValueError(f"case {case['id']}: expected honest rows, and at most as many others, got shape {shape}")
        byzantine, workers_H = case["real_byzantine"], tuple(range(len(honest_HD)))
        step = Step(n=len(honest_HD) + byzantine, f=case["declared_byzantine"])
        view = View(step, byzantine, Defence([], rule).at(step, {}), workers_H)
        rows_FD = attack(honest_HD.to(device), view)
        error = _largest([_error(row_D.cpu().numpy(), arrays[case["output"]]) for row_D in rows_FD])
        against = f"h={case['honest']} f={case['real_byzantine']} against {case['aggregator']}"
        yield Case(_name("attacks", case, case["attack"], case["args"], against), error, TOLERANCE)


def attack_options(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An attack of the published code as a setup names it: there a factor of -N means a search with N evaluations."""
    options: dict[str, Any] = {"name": ATTACK_NAMES.get(name, name)}
    for key, value in arguments.items():
        if key in ("factor", "epsilon") and value < 0:
            options |= {key: "searched", "evaluations": math.ceil(-value)}
        else:
            options["target" if key == "target_idx" else key] = value
    signed = "negative" in ATTACKS[options["name"]].model_fields
    return {"negative": False, **options} if signed else options


def replay_field(directory: Path, device: torch.device) -> Iterator[Case]:
    """One case an entry of the vectors of the field, see :mod:`byzray.conformance.field`."""
    for name, error, tolerance in field.replay_field(directory, _arrays(directory / "field.npz"), device):
        yield Case(f"field {name}", error, tolerance)


def replay_trajectories(directory: Path, start: Start, device: Device) -> Iterator[Case]:
    """One case a whole simulation: the final parameters, and one more for its metrics at every step."""
    batches = _arrays(directory / "batches.npz")
    cases = json.loads((directory / "cases.json").read_text(encoding="utf-8"))
    if tuple(cases["metric_columns"]) != METRIC_COLUMNS:
        raise ValueError(f"metric_columns are {cases['metric_columns']}, expected {METRIC_COLUMNS}")
    data = trajectory_data(batches["images"], batches["labels"])
    for case in cases["cases"]:
        setup = trajectory_setup(case).changed(device=device)
        expected = _arrays(directory / f"case{case['id']:02d}.npz")
        if setup.steps != len(expected["metrics"]) or setup.honest * setup.steps * setup.batch_size > len(data.x_train):
            raise ValueError(f"case {case['id']}: expected a row of metrics and images for each step")
        initial_D = _initial_parameters(directory / f"init-seed{case['seed']}.npz")
        simulation = start(setup, data, initial_D)
        rows = simulation.advance(setup.steps)
        found, final = simulation.parameters(), expected["final_parameters"]
        error, tolerance = _relative_error(found, final), case["parameter_tolerance"]
        about = f"{case['aggregator']}/{case['attack']} momentum at {case['momentum_at']}"
        name = _name("trajectories", case, about, case["aggregator_args"] | case["attack_args"], "")
        detail = ""
        if error > tolerance and setup.aggregator.name in CENTERS:
            near_D = near_ties(setup, data, initial_D).numpy()
            error = _relative_error(np.where(near_D, final, found), final)
            detail = f" ({near_D.sum()} of {len(near_D)} left out: rounding decides what is kept there)"
        yield Case(f"{name} parameters{detail}", error, tolerance)
        # Where a near-tie may go either way, metrics follow the parameters.
        metric_tolerance = max(METRIC_TOLERANCE, tolerance)
        yield Case(f"{name} metrics", _metric_error(rows, expected["metrics"]), metric_tolerance)


def trajectory_data(images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> Data:
    """The batches of the trajectories, to be read in order, normalised as MNIST."""
    return Data(
        x_train=np.ascontiguousarray(images.reshape(-1, 1, 28, 28)),
        y_train=labels.reshape(-1).astype(np.int64),
        x_test=np.empty((0, 1, 28, 28), np.uint8),
        y_test=np.empty(0, np.int64),
        classes=10,
        scale=1 / 255,
        mean=(0.1307,),
        std=(0.3081,),
        shuffle=False,
    )


def trajectory_setup(case: dict[str, Any]) -> Setup:
    """The setup of a trajectory."""
    rule = {"name": AGGREGATOR_NAMES.get(case["aggregator"], case["aggregator"]), **case["aggregator_args"]}
    attacked = case["attack"] is not None and case["real_byzantine"] > 0
    return Setup.model_validate(
        {
            "dataset": "mnist",
            "model": "full",
            "batch_size": case["batch_size"],
            "steps": case["steps"],
            "learning_rate": {
                "initial": case["learning_rate"],
                "half_life": case["learning_rate_decay"],
                "every": case["learning_rate_decay_delta"],
            },
            "momentum": {
                "beta": case["momentum"],
                "dampening": case["dampening"],
                "nesterov": case["nesterov"],
                "placement": case["momentum_at"],
            },
            # The published code applies the factor twice: to the norm, and to the term.
            "l2": (case["l2_regularize"] or 0) ** 2,
            "clip": case["gradient_clip"],
            "workers": case["workers"],
            "byzantine": case["real_byzantine"],
            "tolerated": case["declared_byzantine"],
            "aggregator": rule,
            "attack": attack_options(case["attack"], case["attack_args"]) if attacked else None,
            "evaluation_interval": 0,
            "study": {"past": case["study_past"]},
            "seed": case["seed"],
        }
    )


def _initial_parameters(path: Path) -> Tensor:
    arrays = _arrays(path)
    names = ("f1.weight", "f1.bias", "f2.weight", "f2.bias")
    return torch.cat([torch.from_numpy(arrays[name]).flatten() for name in names])


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with open_archive(path) as archive:
            return {name: read_array(archive, name) for name in archive.files}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, relative to the largest expected magnitude where that is above 1."""
    if found.shape != expected.shape:
        return math.inf
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return math.nan
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0)))
    return float(np.nanmax(np.abs(found - expected), initial=0)) / scale


def _relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The norm of the difference, relative to that of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _metric_error(found: NDArray[np.float64], expected: NDArray[np.floating[Any]]) -> float:
    """The largest relative difference of any metric at any step.

    Cosines and curvature are sums that cancel, so theirs is relative to 1 and to the column's largest value.
    """
    if found.shape != expected.shape or not np.array_equal(np.isnan(found), np.isnan(expected)):
        return math.inf
    scale = np.abs(expected).astype(np.float64)
    for column, name in enumerate(METRIC_COLUMNS):
        if name.endswith("cosine"):
            scale[:, column] = 1.0
        elif name.endswith("curvature"):
            scale[:, column] = np.nanmax(scale[:, column])
    difference = np.nan_to_num(np.abs(found - expected), nan=0.0)
    relative = np.divide(difference, scale, out=np.where(difference == 0, 0.0, np.inf), where=scale > 0)
    kept = np.delete(relative, ROUNDING_ONLY, axis=1)
    return float(np.nanmax(kept, initial=0))


def _largest(errors: list[float]) -> float:
    return math.nan if any(math.isnan(error) for error in errors) else max(errors)


def _name(part: str, case: dict[str, Any], subject: str, arguments: dict[str, Any], detail: str) -> str:
    options = "".join(f" {key}={value}" for key, value in arguments.items())
    return f"{part} {case['id']:03d} {subject}{options} {detail}".strip()
