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

from byzray import cli
from byzray.conformance import TOLERANCE
from byzray.metrics import METRIC_COLUMNS

Replay = Callable[[Path], tuple[int, str, str]]

VECTORS = Path(__file__).parents[1] / "vectors"
TRAJECTORIES = (VECTORS / "trajectories" / "cases.json").exists()

needs_trajectories = pytest.mark.skipif(not TRAJECTORIES, reason="these vectors have no trajectories")


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Replay:
    """`byzray conformance` in this process: exit code, stdout, stderr."""

    def call(directory: Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["byzray", "conformance", str(directory)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
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
    assert line.startswith(f"over its tolerance: {named}")
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
