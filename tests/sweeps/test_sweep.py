"""Sweeps as users run them, on a real local Ray cluster."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import tune
from rich.console import Console

import actors
import byzray
from byzray import Setup
from byzray.mistakes import Interrupted, WrongInput
from byzray.report import write_report
from byzray.runs.directory import RunDirectory
from sweeps.definition import load_sweep
from sweeps.grid import SweepError
from sweeps.outcome import Outcome
from sweeps.plan import Paces, Plan, make_plan
from sweeps.search import DRAWS, make_search, read_draws
from sweeps.storage import Storage
from sweeps.trainable import Resources
from sweeps.tuner import Options, in_sole_use, run_sweep, slots
from sweeps.view import Progress, View

# A rule that raises at its second step, one that ends its process, and a small mean.
RULES = """
import os
from byzray.aggregators import Aggregator

class Raises(Aggregator):
    def check(self, n, f):
        return None

    def aggregate(self, submissions, f):
        if not hasattr(type(self), "calls"):
            type(self).calls = 0
        type(self).calls += 1
        if type(self).calls % 2 == 0:
            raise ZeroDivisionError("the rule gave up")
        return submissions.rows_ND.mean(dim=0)

class Dies(Raises):
    def aggregate(self, submissions, f):
        os.kill(os.getpid(), 9)

class Small(Raises):
    def aggregate(self, submissions, f):
        return 0.5 * submissions.rows_ND.mean(dim=0)
"""

# Ends its process as long as a file exists.
MORTAL = """
import os
from byzray.aggregators import Aggregator

class Mortal(Aggregator):
    def check(self, n, f):
        return None

    def aggregate(self, submissions, f):
        if os.path.exists(%r):
            os.kill(os.getpid(), 9)
        return submissions.rows_ND.mean(dim=0)
"""

SMALL = """
base:
  dataset: {name: npz, path: %s}
  model: {name: mlp, hidden: [4]}
  steps: 12
  batch_size: 4
  learning_rate: 0.1
  workers: 7
  byzantine: 2
  attack: little
  evaluation_interval: 3
"""

# Two runs fit into the session's cluster at a time, each on one thread.
RESOURCES = Resources(cpus=1.75)


class Folder:
    """A folder with a sweep file, in which sweeps are run."""

    def __init__(self, folder: Path, small_data: Path) -> None:
        self.folder = folder
        self.base = SMALL % small_data
        self.output = str(folder / "results")
        self.log = ""

    def write(self, text: str) -> None:
        (self.folder / "mine.yaml").write_text(self.base + text)

    def plan(self, only: tuple[str, ...] = (), workers_per_actor: int | None = None) -> Plan:
        sweep = load_sweep(str(self.folder / "mine.yaml"))
        sweep = sweep if workers_per_actor is None else sweep.laid_out(workers_per_actor)
        return make_plan(sweep, Storage(self.output), self.folder, only)

    def run(self, plan: Plan | None = None, resources: Resources = RESOURCES, retries: int = 0) -> Outcome:
        shown = io.StringIO()
        options = Options(resources, retries, self.folder)
        outcome = run_sweep(plan or self.plan(), Storage(self.output), options, View(Console(file=shown, width=300)))
        self.log = shown.getvalue()
        return outcome

    def files(self) -> dict[str, bytes]:
        """The tables and parameters of all runs."""
        runs = Path(self.output) / "runs"
        names = ("metrics.csv", "evaluations.csv", "parameters.npy")
        return {
            str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.glob("*/*")) if path.name in names
        }

    def status(self, setup: Setup) -> dict[str, object]:
        return json.loads((Path(self.output) / "runs" / RunDirectory.name(setup) / "status.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, small_data: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return Folder(tmp_path, small_data)


TWO_RULES = "axes: {aggregator: [median, multi-krum], momentum.placement: [update, worker]}\nseeds: 1-2\n"

# Each run of a sweep costs the start of an actor.
ONE_RULE = "axes: {aggregator: [median], momentum.placement: [update, worker]}\nseeds: 1-2\n"


def test_runs_are_those_of_simulate_and_nothing_is_computed_twice(folder: Folder, tmp_path: Path) -> None:
    folder.write(ONE_RULE)
    before = folder.plan()
    assert (len(before.runs), len(before.waiting), before.states()["missing"]) == (6, 6, 6)
    outcome = folder.run(before)
    assert (outcome.finished, outcome.failed, outcome.interrupted, outcome.slots) == (6, {}, False, 2)
    assert 0 < outcome.busy < 1
    assert re.search(r"npz-median-little-f2-at-worker-seed2-\w{10}: best accuracy [01]\.\d{4}\n", folder.log)

    for run in before.runs:
        byzray.simulate(run.setup, output=tmp_path / "alone" / "runs")
    alone = Folder(tmp_path, tmp_path)
    alone.output = str(tmp_path / "alone")
    assert len(folder.files()) == 18
    assert folder.files() == alone.files()
    assert folder.status(before.runs[0].setup)["state"] == "finished"

    after = folder.plan()
    assert (after.states()["finished"], after.waiting) == (6, [])
    assert folder.run(after).finished == 0

    tensorboard = list(Path(folder.output).glob("tune/*/*/events.out.tfevents.*"))
    assert len(tensorboard) == 6
    report = write_report(Path(folder.output))
    assert "6 finished" in "\n".join(report.summary)


def test_only_what_is_not_done_is_computed(folder: Folder) -> None:
    folder.write(TWO_RULES.replace("1-2", "1"))
    plan = folder.plan()
    folder.run(plan)
    computed = folder.files()
    runs = Path(folder.output) / "runs"
    missing, failed, interrupted, untouched = plan.runs[:4]
    for file in (runs / missing.name).iterdir():
        file.unlink()
    (runs / missing.name).rmdir()
    (runs / failed.name / "status.json").write_text('{"state": "failed", "step": 0}')
    # What a killed process leaves: a running run, without a checkpoint.
    (runs / interrupted.name / "status.json").write_text('{"state": "running", "step": 3}')
    stamps = {path: path.stat().st_mtime_ns for path in (runs / untouched.name).iterdir()}

    again = folder.plan()
    assert {run.name: run.state for run in again.waiting} == {
        missing.name: "missing",
        failed.name: "failed",
        interrupted.name: "interrupted",
    }
    assert folder.run(again).finished == 3
    assert folder.files() == computed
    assert stamps == {path: path.stat().st_mtime_ns for path in (runs / untouched.name).iterdir()}


def test_what_fails_is_recorded_and_the_others_go_on(folder: Folder) -> None:
    (folder.folder / "sweep_rules.py").write_text(RULES)
    folder.write(
        """
together:
  - aggregator: [median, "sweep_rules:Raises", "sweep_rules:Dies", average, median]
    attack: [little, little, little, nan, little]
    dataset.path: [%s, %s, %s, %s, nowhere.npz]
reference: false
"""
        % ((folder.base.split("path: ")[1].split("}")[0],) * 4)
    )
    plan = folder.plan()
    outcome = folder.run(plan, retries=1)
    good, raises, dies, diverges, lacks = plan.runs
    assert outcome.finished == 2
    assert outcome.failed.keys() == {raises.name, dies.name, lacks.name}
    assert outcome.failed[raises.name] == "ZeroDivisionError: the rule gave up"
    assert "its actor was lost" in outcome.failed[dies.name]
    assert "nowhere.npz" in outcome.failed[lacks.name]
    assert f"{raises.name}: failed: ZeroDivisionError: the rule gave up" in folder.log
    for run in (good, diverges):
        assert folder.status(run.setup)["state"] == "finished"
    for run in (raises, dies, lacks):
        assert folder.status(run.setup)["state"] == "failed"
        assert (Path(folder.output) / "runs" / run.name / "error.txt").stat().st_size
    page = write_report(Path(folder.output)).page.read_text()
    for run in (raises, dies, lacks, diverges):
        assert run.name in page
    # The failed ones, and only they, are tried again.
    assert {run.name for run in folder.plan().waiting} == outcome.failed.keys()


def test_a_run_that_failed_once_is_tried_again(folder: Folder) -> None:
    rules = RULES.replace(
        "if type(self).calls % 2 == 0:", "if not os.path.exists(MARK):\n            open(MARK, 'w').close()"
    )
    (folder.folder / "once_rules.py").write_text(f"MARK = {str(folder.folder / 'mark')!r}\n{rules}")
    folder.write('axes: {aggregator: ["once_rules:Raises"]}\nreference: false\n')
    outcome = folder.run(retries=1)
    assert (outcome.finished, outcome.failed) == (1, {})
    (directory,) = (Path(folder.output) / "runs").iterdir()
    assert not (directory / "error.txt").exists()


def test_changed_code_is_computed_anew_and_the_old_kept(folder: Folder) -> None:
    file = folder.folder / "changing_rules.py"
    file.write_text(RULES)
    folder.write('axes: {aggregator: ["changing_rules:Small"]}\nreference: false\n')
    folder.run()
    old = folder.files()
    file.write_text(RULES.replace("0.5 *", "0.25 *"))
    plan = folder.plan()
    assert plan.states() == {"changed": 1}
    folder.run(plan)
    kept = {path.name: path.read_bytes() for path in (Path(folder.output) / "replaced").glob("*/*")}
    for name, content in old.items():
        assert kept[Path(name).name] == content
    assert folder.plan().states() == {"finished": 1}


def test_fleets_compute_the_same(folder: Folder) -> None:
    folder.write(ONE_RULE.replace("1-2", "1\nreference: false"))
    for run in folder.plan().runs:
        byzray.simulate(run.setup, output=Path(folder.output) / "runs")
    alone = {Path(name).name + name.split("-seed")[0]: content for name, content in folder.files().items()}
    folder.output += "-fleet"
    plan = folder.plan(workers_per_actor=3)
    outcome = folder.run(plan, Resources(cpus=3))
    assert (outcome.finished, outcome.failed, outcome.slots) == (2, {}, 1)
    for run in plan.runs:
        environment = json.loads((Path(folder.output) / "runs" / run.name / "environment.json").read_text())
        assert len(environment["actors"]) == 3
    evaluations = {Path(name).name + name.split("-seed")[0]: one for name, one in folder.files().items()}
    assert {key for key in alone if key.startswith("evaluations")} <= evaluations.keys()
    assert all(evaluations[key] == alone[key] for key in alone if key.startswith("evaluations"))


def test_early_stopping_stops_the_worse(folder: Folder) -> None:
    text = "axes: {learning_rate: [0.2, 0.1, 1.0e-9, 1.0e-8, 1.0e-7, 1.0e-6]}\n"
    folder.write(text + "early_stopping: {grace_steps: 3, reduction_factor: 2}\n")
    plan = folder.plan()
    assert len(plan.runs) == 6  # no reference, which would outdo all
    outcome = folder.run(plan, Resources(cpus=3.5))
    assert outcome.stopped
    assert outcome.finished + len(outcome.stopped) == 6
    for setup in outcome.stopped.values():
        status = folder.status(setup)
        assert status["state"] == "stopped"
        assert 3 <= int(str(status["step"])) < 12
    assert folder.plan().waiting == []
    # Without early stopping they are continued to their ends.
    folder.write(text + "reference: false\n")
    onwards = folder.plan()
    assert onwards.states() == {"finished": outcome.finished, "interrupted": len(outcome.stopped)}
    assert folder.run(onwards, RESOURCES).finished == len(outcome.stopped)


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("axes: {learning_rate: [0.2, 0.1]}\nearly_stopping: {}\n", "early_stopping"),
        ("sample: {count: 2, search: optuna, over: {l2: {uniform: [0, 1]}}}\n", "search: optuna"),
    ],
)
def test_accuracies_that_there_are_none_of_decide_nothing(
    tmp_path: Path, small_data: Path, ray_cluster: str, text: str, which: str
) -> None:
    if "optuna" in which:
        pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    arrays = dict(np.load(small_data))
    np.savez(tmp_path / "untested.npz", **{**arrays, "x_test": arrays["x_test"][:0], "y_test": arrays["y_test"][:0]})
    folder = Folder(tmp_path, tmp_path / "untested.npz")
    folder.write(text)
    with pytest.raises(SweepError, match=f"which has no test examples; expected some, as {which} compares accuracies"):
        folder.run()
    assert not (Path(folder.output) / "runs").exists()


def test_optuna_searches_and_goes_on(folder: Folder) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install optuna, which `make test` does")
    text = "seeds: 1-2\nsample: {count: %d, search: optuna, over: {learning_rate.initial: {loguniform: [0.01, 1]}}}\n"
    folder.write(text % 2)
    assert folder.run().finished == 4
    draws = (Path(folder.output) / DRAWS).read_text().splitlines()
    assert len(draws) == 2
    computed = folder.files()
    assert len(computed) == 4 * 3

    folder.write(text % 1)  # less than there is already
    less = folder.run()
    assert (less.finished, less.earlier) == (0, 4)

    folder.write(text % 3)
    assert folder.run().finished == 2
    assert (Path(folder.output) / DRAWS).read_text().splitlines()[:2] == draws
    after = folder.files()
    assert len(after) == 6 * 3
    assert computed.items() <= after.items()


def test_a_uri_is_a_storage(folder: Folder) -> None:
    folder.write(ONE_RULE.replace("1-2", "1\nreference: false"))
    here = folder.plan()
    here.save(Path(folder.output))
    for run in here.runs:
        byzray.simulate(run.setup, output=Path(folder.output) / "runs")
    computed = folder.files()
    local, folder.output = folder.output, (folder.folder / "remote").as_uri()
    plan = folder.plan()
    assert plan.states() == {"missing": 2}
    assert folder.run(plan).finished == 2
    remote = Path(folder.folder / "remote")
    assert folder.plan().states() == {"finished": 2}
    folder.output = str(remote)
    assert folder.files() == computed
    assert list(remote.glob("tune/*/*/events.out.tfevents.*"))
    assert (remote / "planned.jsonl").read_text() == (Path(local) / "planned.jsonl").read_text()


def test_a_lost_actor_loses_nothing_of_a_remote_run(folder: Folder) -> None:
    (folder.folder / "remote_rules.py").write_text(MORTAL % str(folder.folder / "die"))
    folder.write('axes: {aggregator: ["remote_rules:Mortal"]}\nreference: false\n')
    (run,) = folder.plan().runs
    remote = folder.folder / "remote"
    with pytest.raises(Interrupted):
        byzray.simulate(run.setup, output=remote / "runs", progress=lambda update: update.step == 6)
    (folder.folder / "die").touch()
    folder.output = remote.as_uri()

    def files() -> set[str]:
        return {path.name for path in (remote / "runs" / run.name).rglob("*") if path.is_file()} - {".lock"}

    before = files()
    assert any(name.endswith(".safetensors") for name in before)
    assert folder.run().failed.keys() == {run.name}
    assert files() == before | {"error.txt"}

    (folder.folder / "die").unlink()
    assert folder.run().finished == 1
    assert not any(name.endswith(".safetensors") or name == "error.txt" for name in files())
    expected = byzray.simulate(run.setup, output=folder.folder / "alone").directory
    assert expected is not None
    for name in ("metrics.csv", "parameters.npy"):
        assert (remote / "runs" / run.name / name).read_bytes() == (expected / name).read_bytes()


SEARCH = "sample: {count: %d, search: optuna, over: {byzantine: {integer: [1, 5]}}}\n"


def test_draws_that_are_no_valid_setups_are_passed_over(folder: Folder) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install optuna, which `make test` does")
    folder.write(SEARCH % 4)  # n = 7 and multi-krum: 1 and 2 are valid
    search = load_sweep(str(folder.folder / "mine.yaml")).search
    assert search is not None
    storage = Storage(folder.output)
    storage.folder.mkdir()
    searcher = make_search(search, read_draws(search, (1,), storage), (1,), storage)
    drawn = [searcher.suggest(f"trial {number}") for number in range(4)]
    assert all(draw is not None and draw["byzantine"] in (1, 2) for draw in drawn)
    assert read_draws(search, (1,), storage).pending == drawn
    # Those of other ranges are none of this search.
    folder.write(SEARCH.replace("5", "4") % 4)
    other = load_sweep(str(folder.folder / "mine.yaml")).search
    assert other is not None
    assert read_draws(other, (1,), storage).pending == []


def test_one_sweep_a_folder(folder: Folder) -> None:
    folder.write(TWO_RULES)
    with in_sole_use(Storage(folder.output)), pytest.raises(WrongInput, match="another process computes this sweep"):
        folder.run()


def test_a_cluster_without_room_says_so(folder: Folder) -> None:
    folder.write(TWO_RULES)
    with pytest.raises(actors.FleetError, match="no room for a run that reserves 99 CPUs: the cluster has 4 CPUs"):
        folder.run(resources=Resources(cpus=99))


def machine(cpus: float, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("machines", "bundles", "runs"),
    [
        ([machine(4), machine(4)], [{"CPU": 3.0}], 2),
        ([machine(1)] * 3, [{}, *[{"CPU": 0.3}] * 9], 1),
        ([machine(1)] * 3 + [machine(8, alive=False)], [{}, *[{"CPU": 0.1}] * 10], 3),
        ([machine(8, 2)], [{"CPU": 1.0, "GPU": 0.4}], 4),
        ([machine(8, 2)], [{"CPU": 1.0, "GPU": 2.0}], 1),
    ],
)
def test_what_the_nodes_have_room_for(
    machines: list[dict[str, Any]], bundles: list[dict[str, float]], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    assert slots(tune.PlacementGroupFactory(bundles)) == runs


def test_actors_that_fit_in_sum_but_on_no_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune would wait for them for ever."""
    monkeypatch.setattr(ray, "nodes", lambda: [machine(1)] * 3)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    with pytest.raises(
        actors.FleetError, match=r"8 times 0\.375 CPUs: the cluster has 3 CPUs on 3 nodes, and no actor spans"
    ):
        slots(tune.PlacementGroupFactory([{}, *[{"CPU": 0.375}] * 8]))


def test_plans_add_up(folder: Folder) -> None:
    folder.write(TWO_RULES)
    everything = folder.plan()
    everything.save(Path(folder.output))
    folder.plan(("aggregator == 'median'",)).save(Path(folder.output))
    planned = (Path(folder.output) / "planned.jsonl").read_text().splitlines()
    assert len(planned) == len(everything.runs)
    folder.write(TWO_RULES.replace("median", "meamed"))  # another sweep now
    folder.plan().save(Path(folder.output))
    assert len((Path(folder.output) / "planned.jsonl").read_text().splitlines()) == 10
    known = json.loads((Path(folder.output) / "sweep.json").read_text())
    assert known["whole"] == {"setups": 5, "runs": 10, "pairs": 4}


def test_a_pair_needs_both_placements(folder: Folder) -> None:
    folder.write("axes: {aggregator: [median, multi-krum], momentum.placement: [worker, server]}\n")
    assert folder.plan().whole()["pairs"] == 0


def test_runs_of_other_seeds_tell_the_pace(folder: Folder) -> None:
    folder.write(TWO_RULES.replace("1-2", "1"))
    plan = folder.plan()
    plan.save(Path(folder.output))
    byzray.simulate(plan.runs[1].setup, output=Path(folder.output) / "runs")
    sweep = load_sweep(str(folder.folder / "mine.yaml"))
    other = make_plan(sweep, Storage(folder.output), folder.folder, seeds=[2])
    assert [run.state for run in other.others] == ["finished"]
    assert other.estimate(1, other.paces())[1] == 0


def test_what_was_computed_before_is_not_counted_as_work_of_this_sweep(folder: Folder) -> None:
    folder.write(TWO_RULES)
    plan = folder.plan()
    run = replace(plan.runs[0], state="interrupted", step=6, seconds=100.0)
    progress = Progress(replace(plan, runs=(run, *plan.runs[1:])), 10, slots=2)
    progress.advance({"run": run.name, "step": 12, "seconds": 103.0, "finished": True})
    assert (progress.computing, progress.taken) == (3.0, 6)


def test_a_run_that_is_to_be_tried_again_counts_as_failed_meanwhile(folder: Folder) -> None:
    folder.write(TWO_RULES)
    plan = folder.plan()
    progress = Progress(plan, 10, slots=2)
    run = plan.runs[0]
    progress.start(run.name, run.setup)
    progress.retry(run.name)
    assert progress.failed == 1
    progress.start(run.name, run.setup)
    assert progress.failed == 0
    for _ in range(2):
        progress.retry(run.name)
    progress.end(run.name, failed=True)
    assert progress.failed == 1


def test_the_last_picture_shows_no_run_that_runs(folder: Folder) -> None:
    folder.write(TWO_RULES)
    progress = Progress(folder.plan(), 10, slots=2)
    shown = io.StringIO()
    view = View(Console(file=shown, width=120, force_terminal=True))
    view.begin("mine", progress)
    progress.running = 2  # Tune stops trials at the end without a callback
    view.end()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.findall(r"0/10 runs done, (\d+) running", text)[-1] == "0"


@pytest.mark.parametrize("count", [1, 3])
def test_estimates_come_from_like_runs(folder: Folder, count: int) -> None:
    folder.write(TWO_RULES)
    plan = folder.plan()
    assert plan.estimate(1, Paces(plan.runs)) == (0.0, 10)
    measured = tuple(
        replace(run, state="finished", step=12, seconds=24.0) if number < count else run
        for number, run in enumerate(plan.runs)
    )
    seconds, unknown = replace(plan, runs=measured).estimate(slots=2, known=Paces(measured))
    assert (seconds, unknown) == ((10 - count) * 12.0, 0)
