"""Replays vectors of what the field uses beyond the paper: rules, pre-aggregators, pipelines, attacks, partitions.

A directory holds `field.json` with `field.npz`; docs/conformance.md describes the format. What a run would draw from
its generators is part of the vectors and is handed in, so that nothing depends on them.
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

from byzray.aggregators import AGGREGATORS
from byzray.aggregators.average import Average
from byzray.aggregators.krum import Krum
from byzray.attacks import ATTACKS, View
from byzray.defence import Defence
from byzray.mistakes import with_label
from byzray.options import Registry
from byzray.preaggregators import PREAGGREGATORS
from byzray.splits import SPLITS, PartitionSplit, label_skew
from byzray.step import Step
from byzray.submissions import Matrix, Mixed

# Of label skews, absolute.
SKEW_TOLERANCE = 1e-9

Arrays = dict[str, NDArray[Any]]

REGISTRIES: dict[str, Registry[Any]] = {
    "rule": AGGREGATORS,
    "pre-aggregator": PREAGGREGATORS,
    "attack": ATTACKS,
    "partition": SPLITS,
}


class Handed:
    """Stands for a numpy generator, and answers with draws that are given, one after the other."""

    def __init__(self, draws: Arrays, iteration: int = 0) -> None:
        self.draws = draws
        self.iteration = iteration
        self._taken = 0  # of the orders of classes
        self._shares = iter(draws.get("shares", ()))

    def permutation(self, of: int | NDArray[np.int64]) -> NDArray[np.int64]:
        if "orders" not in self.draws:
            return self.draws["permutation"] if "permutation" in self.draws else self.draws["order"]
        begin, self._taken = self._taken, self._taken + len(np.atleast_1d(of))
        return self.draws["orders"][begin : self._taken]

    def dirichlet(self, _: object) -> NDArray[np.float64]:
        return next(self._shares)

    def standard_normal(self, _: object) -> NDArray[np.float64]:
        return self.draws["normals"] if "normals" in self.draws else self.draws["start"]

    def random(self, _: object) -> NDArray[np.float64]:
        return self.draws["uniforms"]

    def choice(self, of: int, size: int, replace: bool) -> NDArray[np.int64]:
        return self.draws["coordinates"][self.iteration] if "coordinates" in self.draws else np.arange(of)


@dataclass(frozen=True)
class HandedStep(Step):
    """A step whose draws are given."""

    draws: Any = None

    def generator(self, purpose: str, *more: int) -> Any:
        return Handed(self.draws, *more)

    def generator_of_run(self, purpose: str, *more: int) -> Any:
        return Handed(self.draws, *more)


def replay_field(directory: Path, arrays: Arrays, device: torch.device) -> Iterator[tuple[str, float, float]]:
    """The name of each case, its largest error, and the largest that is allowed; NaN if this version lacks the name."""
    kinds: dict[str, Callable[[dict[str, Any], Arrays, torch.device], Arrays]] = {
        "rule": _rule,
        "pre-aggregator": _preaggregator,
        "composition": _composition,
        "attack": _attack,
        "partition": _partition,
    }
    for case in json.loads((directory / "field.json").read_text(encoding="utf-8")):
        options = "".join(f" {key}={value}" for key, value in case["args"].items() if key not in ("pre", "rule"))
        sizes = " ".join(f"{key}={case[key]}" for key in ("n", "f", "h", "byzantine", "workers") if key in case)
        name = f"{case['kind']} {case['id']:03d} {case['name']}{options} {sizes}"
        if missing := _lacking(case):
            yield f"{name}: this version has no {missing}", math.nan, case["tolerance"]
            continue
        inputs = {role: arrays[array] for role, array in case["inputs"].items()}
        _expect_inputs(case, inputs)
        found = kinds[case["kind"]](case, inputs, device)
        errors = [_difference(found[role], arrays[array]) for role, array in case["outputs"].items()]
        if "label_skew" in case and abs(float(found["label skew"]) - case["label_skew"]) > SKEW_TOLERANCE:
            errors.append(math.inf)
        yield name, math.nan if any(map(math.isnan, errors)) else max(errors), case["tolerance"]


def _expect_inputs(case: dict[str, Any], inputs: Arrays) -> None:
    """Expect the arrays of a case to have the shapes that its sizes ask for.

    Raises:
        ValueError: one has another, or is no permutation.
    """
    n, h, byzantine = case.get("n"), case.get("h"), case.get("byzantine")
    wide = next((inputs[role] for role in ("submissions", "honest", "steps", "normals") if role in inputs), None)
    d = wide.shape[-1] if wide is not None and wide.ndim > 1 else None
    examples = len(inputs["labels"]) if "labels" in inputs else None
    expected: dict[str, tuple[int | None, ...]] = {
        "submissions": (n, d),
        "honest": (h, d),
        "steps": (None, h, d),
        "normals": (byzantine, d),
        "uniforms": (byzantine, d),
        "root": (d,),
        "previous": (d,),
        "start": (d,),
        "permutation": (n,),
        "order": (examples,),
        "orders": (examples,),
        "shares": (case.get("classes"), case.get("workers")),
    }
    for role, array in inputs.items():
        shape = expected.get(role, array.shape)
        fits = array.ndim == len(shape) and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in "fiu":
            found = f"{array.shape} {array.dtype}"
            raise ValueError(f"case {case['id']}: {role} is {found}, expected numbers of shape {shape}")
        if role in ("permutation", "order", "orders"):
            whole = array.dtype.kind in "iu" and np.array_equal(np.sort(array), np.arange(len(array)))
            if not whole:
                raise ValueError(f"case {case['id']}: {role} is no permutation of 0..{len(array) - 1}")
    if not case["outputs"] or not isinstance(case["tolerance"], int | float):
        raise ValueError(f"case {case['id']}: expected outputs, and a number as tolerance")


def _lacking(case: dict[str, Any]) -> str | None:
    """What a case names and this version does not have."""
    kind, name, args = case["kind"], case["name"], case["args"]
    named: list[tuple[Registry[Any], str]]
    if kind == "composition":
        named = [(PREAGGREGATORS, part["name"]) for part in args["pre"]] + [(AGGREGATORS, args["rule"])]
    else:
        named = [(REGISTRIES[kind], name)]
    return next((f"{registry.kind} {one!r}" for registry, one in named if one not in registry.names), None)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest absolute difference; NaN where only one of the two is NaN."""
    if found.shape != expected.shape:
        return math.inf
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return math.nan
    return float(np.nanmax(np.abs(found - expected), initial=0))


def _step(case: dict[str, Any], inputs: Arrays, device: torch.device) -> HandedStep:
    root_D = torch.from_numpy(inputs["root"]).to(device) if "root" in inputs else None
    return HandedStep(n=case["n"], f=case["f"], root_D=root_D, draws=inputs)


def _aggregated(defence: Defence, case: dict[str, Any], inputs: Arrays, device: torch.device) -> Arrays:
    if reason := defence.check(case["n"], case["f"]):
        raise ValueError(f"case {case['id']}: {reason}")
    submissions, step = Matrix(torch.from_numpy(inputs["submissions"]).to(device)), _step(case, inputs, device)
    state = defence.initial_state(step, submissions.rows_ND[0])
    if "previous" in inputs:
        state = {"previous": torch.from_numpy(inputs["previous"]).to(device)}
    aggregate, _ = defence.step(submissions, step, state)
    return {"aggregate": aggregate.vector_D.cpu().numpy()}


def _rule(case: dict[str, Any], inputs: Arrays, device: torch.device) -> Arrays:
    return _aggregated(Defence([], AGGREGATORS.parse({"name": case["name"], **case["args"]})), case, inputs, device)


def _composition(case: dict[str, Any], inputs: Arrays, device: torch.device) -> Arrays:
    pre = [PREAGGREGATORS.parse(part) for part in case["args"]["pre"]]
    return _aggregated(Defence(pre, AGGREGATORS.parse(case["args"]["rule"])), case, inputs, device)


def _preaggregator(case: dict[str, Any], inputs: Arrays, device: torch.device) -> Arrays:
    part = PREAGGREGATORS.parse({"name": case["name"], **case["args"]})
    submissions = Matrix(torch.from_numpy(inputs["submissions"]).to(device))
    mixed = Mixed(part.weights(submissions, _step(case, inputs, device)), submissions)
    return {"rows": mixed.rows_ND.cpu().numpy()}


def _attack(case: dict[str, Any], inputs: Arrays, device: torch.device) -> Arrays:
    attack = ATTACKS.parse({"name": case["name"], **case["args"]})
    if reason := attack.check(case["h"], case["byzantine"], case["f"]):
        raise ValueError(f"case {case['id']}: {with_label(attack.label(), reason)}")
    if "steps" in inputs:
        steps = torch.from_numpy(inputs["steps"]).to(device)
    elif "honest" in inputs:
        steps = torch.from_numpy(inputs["honest"]).to(device)[None]
    else:  # of an attack that does not use them
        steps = torch.zeros(1, case["h"], inputs["normals"].shape[1], dtype=torch.float64, device=device)
    defence = Defence([], Krum() if case["name"] == "fang-krum" else Average())
    first = _step(case, inputs, device)
    state, targets = attack.initial_state(first, steps[0, 0]), []
    rows_FD = steps[0, :0]
    for number, honest_HD in enumerate(steps):
        step = HandedStep(number=number, n=first.n, f=first.f, draws=inputs)
        view = View(step, case["byzantine"], defence.at(step, {}), tuple(range(case["h"])))
        rows_FD, state = attack.step(honest_HD, view, state)
        same_H = [torch.equal(rows_FD[0], honest_D) for honest_D in honest_HD]
        targets.append(same_H.index(True) if any(same_H) else -1)
    rows = rows_FD.cpu().numpy()
    # A vector is what all send.
    alike = rows[0] if (rows == rows[0]).all() else np.full_like(rows[0], math.nan)
    return {"rows": rows, "vector": alike, "targets": np.array(targets)}


def _partition(case: dict[str, Any], inputs: Arrays, _: torch.device) -> Arrays:
    split = SPLITS.parse({"name": case["name"], **case["args"]})
    assert isinstance(split, PartitionSplit)
    if "minimum" in type(split).model_fields:  # vectors hold one draw
        split = split.model_copy(update={"minimum": 0})
    draws: Any = Handed(inputs)
    shards = split.positions(inputs["labels"], case["workers"], case["classes"], draws)
    skew = label_skew(inputs["labels"], shards, case["classes"])
    sizes = np.array([len(shard) for shard in shards])
    return {"sizes": sizes, "indices": np.concatenate(shards), "label skew": np.array(skew)}
