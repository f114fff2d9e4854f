"""Replaying vectors: ours pass, and a value that is a little wrong fails in its case and in no other.

The variable BYZRAY_VECTORS names a directory with a full set.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byzray import commands
from byzray.conformance.published import TOLERANCE
from byzray.conformance.ties import _near_ties
from byzray.metrics import METRIC_COLUMNS

Replay = Callable[..., tuple[int, str, str]]

VECTORS = Path(__file__).parents[1] / "vectors"
FIELD = VECTORS / "field"
FULL_FIELD = Path(os.environ.get("BYZRAY_VECTORS") or "nowhere") / "field"
TRAJECTORIES = (VECTORS / "trajectories" / "cases.json").exists()

needs_trajectories = pytest.mark.skipif(not TRAJECTORIES, reason="these vectors have no trajectories")


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Replay:
    """`byzray conformance` in this process: exit code, stdout, stderr."""

    def call(directory: Path, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["byzray", "conformance", str(directory), *options])
        with pytest.raises(SystemExit) as stop:
            commands.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return call


def expected_cases(directory: Path) -> int:
    """How many lines a replay prints; a trajectory has two, one for its parameters and one for its metrics."""
    count = sum(
        len(json.loads((directory / f"{part}.json").read_text()))
        for part in ("aggregators", "attacks")
        if (directory / f"{part}.json").exists()
    )
    trajectories = directory / "trajectories" / "cases.json"
    return count + (2 * len(json.loads(trajectories.read_text())["cases"]) if trajectories.exists() else 0)


@pytest.mark.parametrize(
    "directory",
    [
        pytest.param(VECTORS, id="ours"),
        pytest.param(
            Path(os.environ.get("BYZRAY_VECTORS", "")),
            id="full",
            marks=pytest.mark.skipif(
                not os.environ.get("BYZRAY_VECTORS"),
                reason="needs more vectors than the repository holds: set BYZRAY_VECTORS to their folder",
            ),
        ),
    ],
)
def test_all_pass(directory: Path, replay: Replay) -> None:
    code, out, err = replay(directory)
    assert (code, err) == (0, "")
    count = expected_cases(directory)
    *cases, summary = out.splitlines()
    assert summary == f"{count} cases, {count} within tolerance, 0 over"
    assert len(cases) == len(set(cases)) == count
    for case in cases:
        error, tolerance = re.match(r"ok     (\S+) \(at most (\S+)\)  \w", case).groups()  # type: ignore[union-attr]
        assert float(error) <= float(tolerance) <= 1e-2


def copy(tmp_path: Path, *files: str) -> Path:
    """A copy of some of our vectors, a folder with all that it holds."""
    for file in files:
        source, target = VECTORS / file, tmp_path / "vectors" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return tmp_path / "vectors"


def change(archive: Path, name: str, edit: Callable[[Any], None]) -> None:
    """Edit one array of an archive."""
    with np.load(archive) as loaded:
        arrays = dict(loaded)
    edit(arrays[name])
    np.savez(archive, **arrays)


def expect_one_failure(result: tuple[int, str, str], named: str) -> None:
    code, out, err = result
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"over tolerance: {named}")
    failed = [case for case in out.splitlines() if case.startswith("FAILED")]
    assert len(failed) == 1
    assert named in failed[0]
    assert out.splitlines()[-1].endswith(" within tolerance, 1 over")


def nudge(factor: float) -> Callable[[Any], None]:
    """Moves the largest value of a vector by `factor` of it (of 1, where it is smaller)."""

    def edit(vector: Any) -> None:
        index = np.nanargmax(np.abs(vector))
        vector[index] += factor * max(1.0, abs(vector[index]))

    return edit


@pytest.mark.parametrize("part", ["aggregators", "attacks"])
@pytest.mark.parametrize("position", [0, 17, -1])
def test_a_wrong_output_fails(part: str, position: int, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, f"{part}.json", f"{part}.npz")
    cases = json.loads((directory / f"{part}.json").read_text())
    # Cases may share an input, never an output; NaN everywhere cannot be nudged.
    with np.load(directory / f"{part}.npz") as arrays:
        usable = [case for case in cases if np.isfinite(arrays[case["output"]]).all()]
    case = usable[position]
    assert [one["output"] for one in cases].count(case["output"]) == 1
    change(directory / f"{part}.npz", case["output"], nudge(0.1 * TOLERANCE))
    assert replay(directory)[0] == 0
    change(directory / f"{part}.npz", case["output"], nudge(3 * TOLERANCE))
    expect_one_failure(replay(directory), f"{part} {case['id']:03d} ")


def test_rounding_may_decide_at_near_ties_only() -> None:
    """The window of `meamed` loses 0 and gains 2 + x, both at a distance of 1 from the median but for x."""
    values = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0])
    for x, near in ((0.0, True), (2e-6, True), (-2e-6, True), (2e-5, False), (-2e-5, False)):
        moved = values.clone()
        moved[4] += x
        assert _near_ties(moved[:, None], 1, "meamed").tolist() == [near]
        assert _near_ties(moved[:, None], 1, "phocas").tolist() == [near]
    for equal in (0.0, 0.3):  # either choice gives the same mean
        assert _near_ties(torch.full((5, 1), equal), 1, "meamed").tolist() == [False]


def test_parameters_of_another_rule_fail(tmp_path: Path, replay: Replay) -> None:
    """Those of the median are near those of the mean around it, yet rounding does not explain the difference."""
    directory = copy(tmp_path, "trajectories")
    path = directory / "trajectories/cases.json"
    content = json.loads(path.read_text())
    case = next(one for one in content["cases"] if one["aggregator"] == "median")
    case["aggregator"] = "meamed"
    path.write_text(json.dumps(content | {"cases": [case]}))
    code, out, _ = replay(directory)
    assert code == 1
    assert re.search(r"FAILED .* parameters \(\d+ of 79510 left out", out)


@pytest.mark.parametrize("quantity", ["influence", "variance_norm_bound"])
def test_a_wrong_influence_or_bound_fails(quantity: str, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "aggregators.json", "aggregators.npz")
    cases = json.loads((directory / "aggregators.json").read_text())
    case = [one for one in cases if one[quantity] is not None][-1]
    case[quantity] += 3 * TOLERANCE
    (directory / "aggregators.json").write_text(json.dumps(cases))
    expect_one_failure(replay(directory), f"aggregators {case['id']:03d} ")


def test_every_influence_is_checked(tmp_path: Path, replay: Replay) -> None:
    """A rule that cannot say what it selected would pass unnoticed."""
    directory = copy(tmp_path, "aggregators.json", "aggregators.npz")
    cases = json.loads((directory / "aggregators.json").read_text())
    wrong = [case for case in cases if case["influence"] is not None]
    for case in wrong:
        case["influence"] += 0.01
    (directory / "aggregators.json").write_text(json.dumps(cases))
    code, _, err = replay(directory)
    assert code == 1
    assert len(err.splitlines()) == len(wrong) > 0


@needs_trajectories
@pytest.mark.parametrize("what", ["parameters", "loss", "NaN", *[name for name in METRIC_COLUMNS if "norm" in name]])
def test_a_wrong_trajectory_fails(what: str, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "trajectories")
    case = json.loads((directory / "trajectories" / "cases.json").read_text())["cases"][-1]
    archive = directory / "trajectories" / f"case{case['id']:02d}.npz"
    if what == "parameters":

        def edit(vector: Any) -> None:
            vector[7] += 3 * case["parameter_tolerance"] * np.linalg.norm(vector)

        change(archive, "final_parameters", edit)
    elif what == "NaN":
        change(archive, "metrics", lambda rows: rows.__setitem__((-1, METRIC_COLUMNS.index("Average loss")), np.nan))
    else:
        column = METRIC_COLUMNS.index("Average loss" if what == "loss" else what)

        def scale(rows: Any) -> None:
            rows[-1, column] *= 1 + 5 * max(1e-4, case["parameter_tolerance"])

        change(archive, "metrics", scale)
    result = replay(directory)
    expect_one_failure(result, f"trajectories {case['id']:03d} ")
    assert f" {'parameters' if what == 'parameters' else 'metrics'}: " in result[2]


# Vectors of the field


def field_cases(directory: Path = FIELD) -> list[dict[str, Any]]:
    return json.loads((directory / "field.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [(), ("--device", "cpu")], ids=["auto", "cpu"])
def test_all_of_the_field_pass(replay: Replay, options: tuple[str, ...]) -> None:
    """In float64: their tolerances are 1e-10 where values are 1e3, which float32 cannot meet."""
    count = len(cases := field_cases())
    assert {case["kind"] for case in cases} == {"rule", "pre-aggregator", "composition", "attack", "partition"}
    code, out, err = replay(FIELD, *options)
    assert (code, err) == (0, "")
    *found, summary = out.splitlines()
    assert summary == f"{count} cases, {count} within tolerance, 0 over"
    assert len(set(found)) == count
    for line, case in zip(found, cases, strict=True):
        assert re.match(
            rf"ok     \S+ \(at most \S+\)  field {case['kind']} {case['id']:03d} {re.escape(case['name'])}", line
        )


@pytest.mark.skipif(
    not (FULL_FIELD / "field.json").exists(),
    reason="needs all vectors of the field: set BYZRAY_VECTORS to a folder that has them in field/",
)
def test_of_all_vectors_of_the_field_those_fail_that_name_what_is_not_here(replay: Replay) -> None:
    ours, all_cases = {case["id"] for case in field_cases()}, {case["id"] for case in field_cases(FULL_FIELD)}
    assert ours < all_cases
    code, out, _ = replay(FULL_FIELD)
    *found, _ = out.splitlines()
    assert len(found) == len(all_cases)
    failed = [line for line in found if line.startswith("FAILED")]
    assert code == bool(failed)
    for line in failed:
        assert re.search(r": this version has no (aggregator|pre-aggregator|attack|split) '\S+'$", line)
        assert int(re.search(r"field \S+ (\d+) ", line)[1]) not in ours  # type: ignore[index]


@pytest.mark.parametrize("kind", ["rule", "pre-aggregator", "composition", "attack"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_wrong_output_of_the_field_fails(kind: str, position: int, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    case = [one for one in field_cases() if one["kind"] == kind and one["tolerance"]][position]
    (name,) = case["outputs"].values()
    factors = iter((0.1, 3))

    def move(values: Any) -> None:
        values[np.unravel_index(np.nanargmax(np.abs(values)), values.shape)] += next(factors) * case["tolerance"]

    change(directory / "field.npz", name, move)
    assert replay(directory)[0] == 0
    change(directory / "field.npz", name, move)
    expect_one_failure(replay(directory), f"field {kind} {case['id']:03d} ")


@pytest.mark.parametrize(("name", "role"), [("mimic", "targets"), ("dirichlet", "indices"), ("dirichlet", "sizes")])
def test_a_wrong_integer_of_the_field_fails(name: str, role: str, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    case = next(one for one in field_cases() if one["name"] == name)
    change(directory / "field.npz", case["outputs"][role], lambda values: values.__setitem__(-1, values[-1] + 1))
    expect_one_failure(replay(directory), f"field {case['kind']} {case['id']:03d} ")


def test_nan_where_a_number_is_expected_fails(tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    case = next(one for one in field_cases() if one["kind"] == "rule")
    change(directory / "field.npz", case["outputs"]["aggregate"], lambda values: values.__setitem__(0, np.nan))
    expect_one_failure(replay(directory), f"field rule {case['id']:03d} ")


def test_a_wrong_label_skew_fails(tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    cases = field_cases()
    case = next(one for one in cases if one["kind"] == "partition")
    case["label_skew"] += 3e-9
    (directory / "field.json").write_text(json.dumps(cases))
    expect_one_failure(replay(directory), f"field partition {case['id']:03d} ")


def first(name: str, role: str = "") -> dict[str, Any]:
    """The first case of this name, with an input of this role if one is given."""
    return next(one for one in field_cases() if one["name"] == name and (not role or role in one["inputs"]))


def alone(directory: Path, case: dict[str, Any]) -> None:
    (directory / "field.json").write_text(json.dumps([case]))


def shaped(name: str, role: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Puts another array where an input of a case is, or none."""

    def change_it(directory: Path) -> None:
        archive, case = directory / "field.npz", first(name, role)
        with np.load(archive) as loaded:
            arrays = dict(loaded)
        arrays[case["inputs"][role]] = edit(arrays[case["inputs"][role]])
        np.savez(archive, **{key: array for key, array in arrays.items() if array is not None})
        alone(directory, case)

    return change_it


def cases_with(name: str, edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Edits the entry of a case."""

    def change_it(directory: Path) -> None:
        case = first(name)
        edit(case)
        alone(directory, case)

    return change_it


def written(file: str, content: str) -> Callable[[Path], None]:
    return lambda directory: (directory / file).write_text(content) and None


MALFORMED: dict[str, Callable[[Path], None]] = {
    "an input that is not there": shaped("fltrust", "root", lambda r: None),
    "an output that is not there": cases_with("nnm", lambda case: case["outputs"].update(rows="out_none")),
    "no submissions": cases_with("nnm", lambda case: case["inputs"].clear()),
    "too few rows": shaped("nnm", "submissions", lambda x: x[:-1]),
    "submissions in one row": shaped("centred-clipping", "submissions", lambda x: x.ravel()),
    "submissions that are text": shaped("centred-clipping", "submissions", lambda x: np.full(x.shape, "a")),
    "a root of another length": shaped("fltrust", "root", lambda r: r[:-1]),
    "a state of another length": shaped("centred-clipping", "previous", lambda p: np.append(p, 0.0)),
    "normals for too few workers": shaped("gaussian", "normals", lambda x: x[:-1]),
    "too few honest rows": shaped("little", "honest", lambda x: x[:-1]),
    "steps with too few honest rows": shaped("mimic", "steps", lambda x: x[:, :-1]),
    "a start of another length": shaped("mimic", "start", lambda z: z[:-1]),
    "a permutation with a row twice": shaped("bucketing", "permutation", lambda p: np.append(p[:-1], p[0])),
    "a permutation with a row too many": shaped("bucketing", "permutation", lambda p: np.append(p, len(p))),
    "a permutation beyond the rows": shaped("bucketing", "permutation", lambda p: p + 1),
    "a permutation of numbers with a point": shaped("bucketing", "permutation", lambda p: p.astype(float)),
    "orders with an example twice": shaped("dirichlet", "orders", lambda q: np.append(q[:-1], q[0])),
    "shares of too few workers": shaped("dirichlet", "shares", lambda s: s[:, :-1]),
    "another kind": cases_with("nnm", lambda case: case.update(kind="rules")),
    "no kind": cases_with("nnm", lambda case: case.pop("kind")),
    "no name": cases_with("nnm", lambda case: case.pop("name")),
    "no outputs": cases_with("nnm", lambda case: case.update(outputs={})),
    "an output of another role": cases_with("nnm", lambda case: case["outputs"].update(row=case["outputs"]["rows"])),
    "an option that there is not": cases_with("centred-clipping", lambda case: case["args"].update(radius=1.0)),
    "an option of another type": cases_with("bucketing", lambda case: case["args"].update(size="two")),
    "f too large": cases_with("centred-clipping", lambda case: case.update(f=case["n"])),
    "no tolerance": cases_with("nnm", lambda case: case.pop("tolerance")),
    "a tolerance that is text": cases_with("nnm", lambda case: case.update(tolerance="1e-7")),
    "an id that is text": cases_with("nnm", lambda case: case.update(id="first")),
    "no list but a mapping": written("field.json", '{"cases": []}'),
    "a number": written("field.json", "3"),
    "a list of numbers": written("field.json", "[1, 2]"),
    "no JSON": written("field.json", "[{"),
    "no archive": written("field.npz", "text"),
    "no arrays at all": lambda directory: (directory / "field.npz").unlink(),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_vectors_of_the_field_end_in_one_message(case: str, tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    MALFORMED[case](directory)
    code, out, err = replay(directory)
    assert code == 2, out
    assert err.startswith("byzray: ")
    assert err.count("byzray: ") == 1
    assert str(directory / "field.") in err
    assert "Traceback" not in err


def test_a_list_without_a_case_is_told(tmp_path: Path, replay: Replay) -> None:
    directory = copy(tmp_path, "field") / "field"
    (directory / "field.json").write_text("[]")
    code, _, err = replay(directory)
    assert code == 2
    assert str(directory) in err
    assert "holds no cases" in err
