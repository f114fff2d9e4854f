"""Plans of a sweep's folder: what they take for done, and what they do with entries that anybody may have made."""

import json
import sys
from pathlib import Path

import pytest

from byzray import RunExists, simulate
from sweeps.definition import load_sweep
from sweeps.plan import REPLACED, Plan, make_plan
from sweeps.storage import Storage

SWEEP = """
base: {dataset: {name: npz, path: %s}, model: {name: mlp, hidden: [4]}, steps: 2, workers: 5, byzantine: 1}
axes: {aggregator: [median, phocas], attack: [little]}
reference: false
"""


@pytest.fixture
def plan_of(tmp_path: Path, small_data: Path) -> "PlanOf":
    (tmp_path / "mine.yaml").write_text(SWEEP % small_data)
    return PlanOf(tmp_path)


class PlanOf:
    """Plans of the sweep, whose two runs were computed here."""

    def __init__(self, folder: Path) -> None:
        self.sweep = load_sweep(str(folder / "mine.yaml"))
        self.folder = folder
        plan = self(str(folder / "out"))
        plan.save(folder / "out")
        for run in plan.runs:
            simulate(run.setup, output=folder / "out" / "runs")

    def __call__(self, where: str) -> Plan:
        with Storage(where) as storage:
            return make_plan(self.sweep, storage, self.folder)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("harm", ["evaluations.csv", "files", "parameters.npy"])
def test_a_finished_run_that_was_changed_is_not_done(plan_of: PlanOf, remote: bool, harm: str) -> None:
    out = plan_of.folder / "out"
    where = out.as_uri() if remote else str(out)
    assert plan_of(where).states() == {"finished": 2}
    directory = next((out / "runs").glob("*-median-*"))
    if harm == "files":
        status = json.loads((directory / "status.json").read_text())
        del status["files"]
        (directory / "status.json").write_text(json.dumps(status))
    else:
        (directory / harm).write_bytes((directory / harm).read_bytes()[:-2] + b"9\n")
    plan = plan_of(where)
    if remote and harm == "parameters.npy":  # which is not fetched for a plan
        assert plan.states() == {"finished": 2}
        return
    assert plan.states() == {"finished": 1, "damaged": 1}
    assert [run.state for run in plan.waiting] == ["damaged"]
    assert "damaged" in REPLACED  # put aside, and computed anew


def test_an_unreadable_status_is_refused_as_it_hides_a_checkpoint(plan_of: PlanOf) -> None:
    out = plan_of.folder / "out"
    directory = next((out / "runs").glob("*-median-*"))
    (directory / "status.json").write_text("{")
    with pytest.raises(RunExists, match=r"status.json: is damaged .*Delete this file and run the same command"):
        plan_of(str(out))


def test_classes_that_an_earlier_plan_names_are_not_imported(
    plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planning_rules.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "out" / "planned.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    line["setup"]["aggregator"] = {"name": "planning_rules:Rule"}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    plan = plan_of(str(tmp_path / "out"))
    plan.save(tmp_path / "out")
    assert "planning_rules" not in sys.modules
    assert not (tmp_path / "ran").exists()
    assert len(path.read_text().splitlines()) == 2


def test_names_that_lead_out_of_a_storage_are_refused(tmp_path: Path) -> None:
    with Storage((tmp_path / "there").as_uri()) as storage:
        for name in ("runs/../../x", "../x"):
            with pytest.raises(ValueError, match=r"expected no '\.\.'"):
                storage._local(f"{storage.path}/{name}")


def test_a_link_in_a_folder_that_is_named_by_a_uri_is_not_followed(tmp_path: Path) -> None:
    there = tmp_path / "there" / "runs"
    there.mkdir(parents=True)
    (tmp_path / "secret").write_text("mine")
    (there / "error.txt").symlink_to(tmp_path / "secret")
    (there / "status.json").write_text("{}")
    with Storage((tmp_path / "there").as_uri()) as storage:
        storage.pull("runs")
        assert [path.name for path in storage.runs.iterdir()] == ["status.json"]
