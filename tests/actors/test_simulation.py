"""Runs on real Ray actors."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.state import list_actors

import actors
from actors import Fleet, FleetError
from actors.fleet import largest_share, role_name, shares, split
from byzray import Interrupted, Setup, SetupError, Update, simulate
from byzray.aggregators import Average
from byzray.metrics import METRIC_COLUMNS
from byzray.mistakes import BrokenContract
from byzray.process_state import own_settings
from byzray.setups import Actors

FILES = ("metrics.csv", "evaluations.csv", "parameters.npy")

VARIANTS: list[dict[str, Any]] = [
    {"momentum": {"placement": "worker", "nesterov": True}},
    {"momentum": {"placement": "server", "nesterov": True}},
    {"momentum": {"placement": "update", "nesterov": False}, "clip": 0.5, "l2": 0.01},
    {"local_steps": 2, "aggregator": "median", "attack": {"name": "empire", "factor": "searched"}},
    {"study": None},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options)))
def test_actors_compute_what_one_process_computes(fleet: Fleet, small_setup: Setup, options: dict[str, Any]) -> None:
    setup = small_setup.changed(**options)
    apart, together = actors.simulate(setup, fleet=fleet), simulate(setup)
    np.testing.assert_allclose(apart.parameters, together.parameters, rtol=1e-4, atol=1e-6)
    assert apart.evaluations.equals(together.evaluations)
    assert apart.metrics.columns.equals(together.metrics.columns)
    names = [name for name in METRIC_COLUMNS if name in apart.metrics and name != "Attack gradient deviation"]
    np.testing.assert_allclose(apart.metrics[names], together.metrics[names], rtol=2e-3, atol=1e-5)


def test_an_evaluation_uses_the_mean_of_the_workers_batch_statistics(fleet: Fleet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3, 32, 32)).astype(np.float32), rng.integers(0, 2, 24)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    setup = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(tmp_path / "images.npz")},
            "model": {"name": "empire-cnn", "hidden": 4, "training": True},
            "batch_size": 2,
            "steps": 2,
            "workers": 3,
            "aggregator": "average",
            "evaluation_interval": 1,
        }
    )
    apart, together = actors.simulate(setup, fleet=fleet), simulate(setup)
    np.testing.assert_allclose(apart.parameters, together.parameters, rtol=1e-3, atol=1e-5)
    assert apart.evaluations.equals(together.evaluations)


def test_the_same_setup_and_seed_give_the_same_bits(fleet: Fleet, small_setup: Setup, tmp_path: Path) -> None:
    first, second = (actors.simulate(small_setup, fleet=fleet, output=tmp_path / str(i)).directory for i in range(2))
    assert first is not None
    assert second is not None
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_a_resumed_run_is_bit_identical_to_an_undisturbed_one(
    fleet: Fleet, small_setup: Setup, tmp_path: Path, placement: str
) -> None:
    setup = small_setup.changed(momentum={"placement": placement, "nesterov": True})
    whole = actors.simulate(setup, fleet=fleet, output=tmp_path / "whole").directory

    def stop(update: Update) -> bool:
        return update.step == 6

    with pytest.raises(Interrupted):
        actors.simulate(setup, fleet=fleet, output=tmp_path / "parts", progress=stop)
    # Another run in between: no state of the first may be left in the actors.
    actors.simulate(small_setup, seed=9, fleet=fleet)
    parts = actors.simulate(setup, fleet=fleet, output=tmp_path / "parts", resume=True).directory
    assert whole is not None
    assert parts is not None
    for name in FILES:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_rule_that_raises_fails_the_run_with_its_reason_and_leaves_the_fleet_usable(
    fleet: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rule.py").write_text(
        "from byzray.aggregators import Aggregator\n\n\nclass Broken(Aggregator):\n"
        "    def aggregate(self, submissions, f):\n        raise ArithmeticError('no rule today')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = actors.simulate(small_setup, fleet=fleet)
    with pytest.raises(ArithmeticError, match="no rule today"):
        actors.simulate(small_setup.changed(aggregator="broken_rule:Broken"), fleet=fleet, output=tmp_path / "runs")
    (status,) = (tmp_path / "runs").glob("*/status.json")
    assert "no rule today" in status.read_text()
    after = actors.simulate(small_setup, fleet=fleet)
    assert np.array_equal(before.parameters, after.parameters)


UNRULY = """
import torch
from byzray.aggregators import Aggregator

torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
torch.set_float32_matmul_precision("medium")

class Noisy(Aggregator):
    strength: float = 1.0

    def aggregate(self, submissions, f):
        noise_D = torch.randn(submissions.rows_ND.shape[1], device=submissions.device)
        return submissions.rows_ND.mean(dim=0) + self.strength * noise_D

class InPlace(Aggregator):
    def aggregate(self, submissions, f):
        return submissions.rows_ND.mul_(2).mean(dim=0)
"""


def test_what_a_rule_does_to_its_process_stays_there_and_is_reported(
    fleet: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unruly_rule.py").write_text(UNRULY)
    monkeypatch.syspath_prepend(tmp_path)
    with own_settings():  # the module is imported here, too
        noisy = small_setup.changed(aggregator={"name": "unruly_rule:Noisy", "strength": 0.0})
        in_place = small_setup.changed(aggregator="unruly_rule:InPlace")
    plain = actors.simulate(small_setup.changed(aggregator="average"), fleet=fleet)
    with pytest.warns(UserWarning, match="^aggregator Noisy draws from the global random state of PyTorch,") as caught:
        found = actors.simulate(noisy, fleet=fleet)
    assert [one.filename for one in caught] == [__file__]
    np.testing.assert_allclose(found.parameters, plain.parameters, rtol=1e-5, atol=1e-7)
    with pytest.raises(BrokenContract, match=r"^aggregator InPlace changed the submissions it was given in place"):
        actors.simulate(in_place, fleet=fleet)
    again = actors.simulate(small_setup.changed(aggregator="average"), fleet=fleet)
    assert np.array_equal(plain.parameters, again.parameters)


def test_settings_of_the_caller_do_not_change_a_run(fleet: Fleet, small_setup: Setup) -> None:
    expected = actors.simulate(small_setup, fleet=fleet)
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        found = actors.simulate(small_setup, fleet=fleet)
    assert np.array_equal(found.parameters, expected.parameters)
    assert found.evaluations.equals(expected.evaluations)


def test_a_class_that_actors_cannot_import_is_refused_before_they_start(ray_cluster: str, small_setup: Setup) -> None:
    class Local(Average):
        pass

    known = len(list_actors(ray_cluster, limit=1000))
    with pytest.raises(SetupError, match=r"aggregator: got '.*<locals>\.Local', expected a class in a module"):
        actors.simulate(small_setup.changed(aggregator=Local()))
    assert len(list_actors(ray_cluster, limit=1000)) == known


def test_mistakes_are_found_before_any_actor_starts(ray_cluster: str, small_setup: Setup) -> None:
    known = len(list_actors(ray_cluster, limit=1000))
    with pytest.raises(SetupError, match="needs examples of 784 values"):
        actors.simulate(small_setup.changed(model="full"))
    assert len(list_actors(ray_cluster, limit=1000)) == known


def test_a_fleet_holds_no_more_actors_than_workers(fleet: Fleet, small_setup: Setup) -> None:
    setup = small_setup.changed(workers=2, byzantine=0, tolerated=0, attack=None, aggregator="average")
    with pytest.raises(FleetError, match="a fleet of 3 worker actors cannot evenly hold 2 workers"):
        actors.simulate(setup, fleet=fleet)


def test_names_of_actors_hold_run_and_role(ray_cluster: str, small_setup: Setup) -> None:
    setup = small_setup.changed(actors={"workers_per_actor": 3, "cpus_per_actor": 0.5}, seed=4)
    with Fleet.for_setup(setup) as fleet:
        names = {actor.name for actor in list_actors(ray_cluster, filters=[("state", "=", "ALIVE")], limit=1000)}
        expected = {f"multi-krum/little seed 4: {role}" for role in ("server", "workers 0-2", "workers 3-4")}
        assert expected <= names
        assert len({place["pid"] for place in fleet.locations}) == 3
    time.sleep(1)
    alive = {actor.name for actor in list_actors(ray_cluster, filters=[("state", "=", "ALIVE")], limit=1000)}
    assert not expected & alive


def test_a_worker_that_raises_fails_the_run_with_its_reason_and_leaves_the_fleet_usable(
    fleet: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text(
        "from torch import nn\n\nfrom byzray.models import MLP\n\n\nclass Raising(nn.Module):\n"
        "    def forward(self, x):\n        if len(x) != 4:\n            return x\n"  # a single worker's batch
        "        raise ArithmeticError('no model today')\n\n\n"
        "class Broken(MLP):\n    vectorised = False\n\n"
        "    def build(self, shape, classes):\n        return nn.Sequential(super().build(shape, classes), Raising())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    setup = small_setup.changed(evaluation_interval=0)
    before = actors.simulate(setup, fleet=fleet)
    with pytest.raises(ArithmeticError, match="no model today"):
        actors.simulate(setup.changed(model="broken_model:Broken"), fleet=fleet)
    assert np.array_equal(before.parameters, actors.simulate(setup, fleet=fleet).parameters)


def test_the_data_set_is_held_once_whatever_the_number_of_actors(
    fleet: Fleet, small_setup: Setup, tmp_path: Path
) -> None:
    # 96 MB of examples. Were they copied, each actor's own memory (USS) would grow by as much.
    x = np.zeros((300, 80_000), np.float32)
    x[:, :5] = np.random.default_rng(0).normal(size=(300, 5))
    y = (x[:, 0] > 0).astype(np.int64)
    for name, count in (("few", 10), ("all", 300)):
        np.savez(tmp_path / f"{name}.npz", x_train=x[:count], y_train=y[:count], x_test=x[:2], y_test=y[:2])
    few, setup = (
        small_setup.changed(dataset={"name": "npz", "path": str(tmp_path / name)}, model="linear", loss="mse")
        for name in ("few.npz", "all.npz")
    )
    actors.simulate(few, fleet=fleet)  # what is loaded for gradients of this size is loaded
    processes = [psutil.Process(place["pid"]) for place in fleet.locations]
    before = [process.memory_full_info().uss for process in processes]
    actors.simulate(setup, fleet=fleet)
    growth = [process.memory_full_info().uss - known for process, known in zip(processes, before, strict=True)]
    assert max(growth) < 60 * 2**20


def test_a_fleet_for_which_the_cluster_is_too_small_is_refused_at_once(ray_cluster: str, small_setup: Setup) -> None:
    for reserved, needs in (
        ({"cpus_per_actor": 7.0}, "7 CPUs and 0 GPUs"),
        ({"gpus_per_actor": 1.0}, "CPUs and 1 GPU"),
    ):
        setup = small_setup.changed(actors={"workers_per_actor": 5, **reserved})
        with pytest.raises(FleetError, match=rf"no room for 2 actors of .*{needs}s? each: the cluster has 4 CPUs"):
            Fleet.for_setup(setup)


def test_a_fleet_without_room_reports_what_it_needs(
    ray_cluster: str, small_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.fleet.PLACEMENT_SECONDS", 1.0)
    setup = small_setup.changed(actors={"workers_per_actor": 5, "cpus_per_actor": 2.0})
    taken = placement_group([{"CPU": 2.5}])
    ray.get(taken.ready())
    try:
        with pytest.raises(
            FleetError, match=r"no room for 2 actors of 2 CPUs and 0 GPUs each after 1 s: the cluster has"
        ):
            Fleet.for_setup(setup)
    finally:
        remove_placement_group(taken)


def test_two_fleets_may_have_the_same_label(ray_cluster: str) -> None:
    label = "trimmed-mean/little seed 1"
    layout = Actors(cpus_per_actor=0.1)
    with Fleet(label, split(1, 1), layout) as first, Fleet(label, split(1, 1), layout) as second:
        assert first.locations[0]["pid"] != second.locations[0]["pid"]


@pytest.mark.parametrize(
    ("workers", "count", "expected"),
    [(5, 5, [1, 1, 1, 1, 1]), (27, 2, [14, 13]), (10, 4, [3, 3, 2, 2]), (3, 1, [3])],
)
def test_workers_are_split_evenly_and_in_order(workers: int, count: int, expected: list[int]) -> None:
    cohorts = split(workers, count)
    assert [len(cohort) for cohort in cohorts] == expected
    assert [worker for cohort in cohorts for worker in cohort] == list(range(workers))


def test_role_names() -> None:
    assert role_name(range(3, 4)) == "worker 3"
    assert role_name(range(0, 14)) == "workers 0-13"


@pytest.mark.parametrize(
    ("units", "count", "expected"),
    [
        ([2.0], 10, 0.2),
        ([16.0], 10, 1.0),
        ([2.0], 7, 0.2857),
        ([2.0, 2.0], 5, 0.6666),
        ([4.0, 1.0], 3, 1.0),
        ([1.0], 10, 0.1),
        ([1.0] * 3, 10, 0.25),
        ([1.0] * 4, 3, 1.0),
        ([], 3, 0.0),
    ],
)
def test_a_share_fits_as_often_as_needed(units: list[float], count: int, expected: float) -> None:
    share = largest_share(units, count)
    assert share == expected
    if units:
        assert sum(int(unit / share + 1e-9) for unit in units) >= count


def test_shares_are_those_of_the_layout_where_it_says_so(ray_cluster: str) -> None:
    assert shares(Actors(), 8, "auto") == (0.5, 0.0)
    assert shares(Actors(cpus_per_actor=0.3, gpus_per_actor=0.2), 8, "auto") == (0.3, 0.2)


def test_a_fleet_records_the_layout_that_it_gives_a_run(fleet: Fleet, small_setup: Setup) -> None:
    result = actors.simulate(small_setup, fleet=fleet)
    assert result.setup.actors == Actors(workers_per_actor=2, cpus_per_actor=0.1)
    assert result.parameters.flags.writeable
    with pytest.raises(FleetError, match="cannot evenly hold 4 workers; expected a fleet of 2"):
        actors.simulate(small_setup.changed(workers=6, tolerated=1), fleet=fleet)
