"""A sweep whose runs are computed on another node than its driver's, which does not see all of the driver's files."""

import hashlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import ray
from rich.console import Console

import byzray
from actors.nodes import nodes, on_every_node
from byzray.mistakes import WrongInput
from sweeps.data import key, share
from sweeps.definition import load_sweep
from sweeps.observer import Observer
from sweeps.outcome import Outcome
from sweeps.plan import make_plan
from sweeps.storage import Storage
from sweeps.trainable import Resources
from sweeps.tuner import Options, run_sweep
from sweeps.view import View

SWEEP = """
base:
  dataset: {name: npz, path: small.npz}
  model: {name: mlp, hidden: [4]}
  steps: 12
  batch_size: 4
  learning_rate: 0.1
  workers: 7
  byzantine: 2
  attack: little
  evaluation_interval: 3
axes:
  aggregator: [median, multi-krum]
"""

# More CPUs than the driver's node has.
ELSEWHERE = Resources(cpus=5)


class Far(NamedTuple):
    """A node that has room for runs, and folders of the driver that it does not see."""

    id: str
    data: Path
    hidden: Path


@pytest.fixture(scope="module")
def far(
    start_node: Callable[..., str], can_mount: bool, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Far:
    if not can_mount:
        pytest.skip("starts a node that sees other files, which needs the right to mount: run the tests as root")
    data, hidden = (tmp_path_factory.mktemp(name) for name in ("data", "hidden"))
    shutil.copy(small_data, data / "small.npz")
    before = f"mount -t tmpfs none {data} && mount -t tmpfs none {hidden}"
    return Far(start_node("--num-cpus", "5", before=before), data, hidden)


def sweep(far: Far, file: Path, output: Path) -> Outcome:
    file.write_text(SWEEP)
    storage = Storage(str(output))
    plan = make_plan(load_sweep(str(file)), storage, far.data)
    return run_sweep(plan, storage, Options(ELSEWHERE, 0, far.data), Observer())


def test_data_that_only_the_driver_has_reach_every_node(far: Far, tmp_path: Path) -> None:
    there = on_every_node(Path.exists, far.data / "small.npz")
    assert {node.id for node, exists in there.found.items() if not exists} == {far.id}
    outcome = sweep(far, tmp_path / "mine.yaml", tmp_path / "results")
    assert (outcome.finished, outcome.failed) == (3, {})  # the third is the one without an attack
    digest = hashlib.sha256((far.data / "small.npz").read_bytes()).hexdigest()
    for directory in (tmp_path / "results/runs").iterdir():
        setup = byzray.load_setup(directory / "setup.yaml")
        here = byzray.simulate(setup, data=far.data, output=tmp_path / "here")
        for name in ("metrics.csv", "evaluations.csv", "parameters.npy"):
            assert (directory / name).read_bytes() == (here.directory / name).read_bytes()
        assert json.loads((directory / "environment.json").read_text())["files"] == {"small.npz": digest}


def test_data_are_shared_once_and_what_cannot_be_read_is_left_to_the_run(far: Far, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    plan = make_plan(load_sweep(str(tmp_path / "mine.yaml")), Storage(str(tmp_path)), far.data)
    setups = [run.setup for run in plan.runs]
    missing = setups[0].changed(dataset={"name": "npz", "path": "nowhere.npz"})
    np.savez(far.data / "parts.npz", worker=np.arange(60) % setups[0].honest)
    divided = setups[0].changed(split={"name": "file", "path": "parts.npz"})
    shared = share([*setups, missing, divided], far.data, False)
    assert list(shared) == [key(setups[0]), key(divided)]
    assert ray.get(shared[key(setups[0])].data).x_train.shape == (60, 5)
    assert len(ray.get(shared[key(divided)].data).owners) == 60
    assert shared[key(divided)].digests.keys() == {"small.npz", "split parts.npz"}


def test_results_that_other_nodes_would_keep_to_themselves_are_refused(far: Far, tmp_path: Path) -> None:
    (name,) = [node.name for node in nodes() if node.id == far.id]
    with pytest.raises(WrongInput, match=r"^output: got .*hidden.*expected a folder that all") as refused:
        sweep(far, tmp_path / "mine.yaml", far.hidden / "results")
    assert f"(not on {name})" in str(refused.value)
    assert not list((far.hidden / "results").glob("runs/*"))


SLOW = """
import time
from byzray.aggregators import Median


class Slow(Median):
    def aggregate(self, submissions, f):
        time.sleep(0.1)
        return super().aggregate(submissions, f)
"""


def test_a_sweep_that_loses_its_only_node_says_so_and_ends(
    start_node: Callable[..., str], small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raylets() -> set[psutil.Process]:
        return {one for one in psutil.Process().children(recursive=True) if one.name() == "raylet"}

    known = raylets()
    start_node("--num-cpus", "6")
    (raylet,) = raylets() - known
    runs = tmp_path / "results/runs"

    def kill_when_it_computes() -> None:
        while not any(path.stat().st_size for path in runs.glob("*/metrics.csv")):
            time.sleep(0.1)
        raylet.kill()

    monkeypatch.setattr("sweeps.tuner.PLACEMENT_SECONDS", 3.0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_for_a_node.py").write_text(SLOW)
    text = (
        SWEEP.replace("small.npz", str(small_data)).replace("steps: 12", "steps: 3000").replace("multi-krum", "bulyan")
    )
    (tmp_path / "mine.yaml").write_text(
        text.replace("[median, bulyan]", "[slow_for_a_node:Slow]") + "reference: false\n"
    )
    storage = Storage(str(tmp_path / "results"))
    plan = make_plan(load_sweep(str(tmp_path / "mine.yaml")), storage, tmp_path)
    shown = io.StringIO()
    killer = threading.Thread(target=kill_when_it_computes, daemon=True)
    killer.start()
    outcome = run_sweep(plan, storage, Options(Resources(cpus=6), 1, tmp_path), View(Console(file=shown, width=300)))
    reason = "no room for a run that reserves 6 CPUs: the cluster has "
    assert outcome.stranded.startswith(reason)
    assert f"byzray: {reason}" in shown.getvalue()
    assert "; waiting for nodes" in shown.getvalue()
    (run,) = plan.runs
    assert f"{run.name}: failed, will be retried: its actor was lost" in shown.getvalue()
    assert outcome.failed.keys() == {run.name}
    assert json.loads((runs / run.name / "status.json").read_text())["state"] == "failed"
