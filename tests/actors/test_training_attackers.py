"""Byzantine workers that train on actors: they poison their batches as in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actors
from actors import Fleet
from byzray import Setup, simulate
from byzray.mistakes import BrokenContract
from byzray.simulation import mean_buffers

ATTACKS = """
from pathlib import Path

from byzray.attacks import Attack
from byzray.sampling import Batch


class Honest(Attack):
    trains = True

    def __call__(self, honest_HD, view):
        return view.own_FD


class Drawing(Honest):
    folder: str

    def poison(self, batch, classes, worker, step, generator):
        drawn = int(generator.integers(2**60))
        with Path(self.folder, f"{worker} {step}").open("a") as file:
            file.write(f"{drawn}\\n")
        return Batch(batch.x, (batch.y + drawn) % classes)


class Loud(Honest):
    def poison(self, batch, classes, worker, step, generator):
        return Batch(batch.x * 1000 + 500, batch.y)


class Short(Honest):
    def poison(self, batch, classes, worker, step, generator):
        return Batch(batch.x[1:], batch.y[1:])
"""


@pytest.fixture(autouse=True)
def _attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training_attacks.py").write_text(ATTACKS)
    monkeypatch.syspath_prepend(tmp_path)


def drawn(folder: Path) -> dict[str, list[str]]:
    return {file.name: file.read_text().splitlines() for file in folder.iterdir()}


# Of three actors: all hold two or three workers, or each holds one.
PACKED: dict[str, Any] = {}
ONE_EACH = {"workers": 3, "byzantine": 1, "aggregator": "median"}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one worker an actor"])
def test_draws_are_those_of_one_process(fleet: Fleet, small_setup: Setup, tmp_path: Path, packed: bool) -> None:
    found = []
    setup = small_setup.changed(local_steps=2, **(PACKED if packed else ONE_EACH))
    for run, start in (("together", simulate), ("apart", lambda one: actors.simulate(one, fleet=fleet))):
        (folder := tmp_path / run).mkdir()
        start(setup.changed(attack={"name": "training_attacks:Drawing", "folder": str(folder)}))
        found.append(drawn(folder))
    together, apart = found
    assert set(together) == {f"{worker} {step}" for worker in range(setup.honest, setup.workers) for step in range(12)}
    assert apart == together


COSINE = {"initial": 0.1, "shape": "cosine", "warmup": 3}
MVR = {"momentum": {"name": "mvr", "a": 0.3}}


@pytest.mark.parametrize(
    "options",
    [
        PACKED,
        {**MVR, **PACKED},
        {**MVR, **ONE_EACH},
        {"momentum": {"placement": "update"}, "local_steps": 2},
        {"split": {"name": "dirichlet", "minimum": 3}, "weight_decay": 0.01, "learning_rate": COSINE},
    ],
    ids=["packed", "mvr, packed", "mvr, one worker an actor", "update, local steps", "examples of their own"],
)
def test_label_flippers_compute_what_they_compute_in_one_process(
    fleet: Fleet, small_setup: Setup, options: dict[str, Any]
) -> None:
    setup = small_setup.changed(attack="label-flipping", **options)
    apart, together = actors.simulate(setup, fleet=fleet), simulate(setup)
    np.testing.assert_allclose(apart.parameters, together.parameters, rtol=1e-4, atol=1e-6)
    assert apart.evaluations.equals(together.evaluations)
    assert list(apart.metrics.columns) == list(together.metrics.columns)
    names = list(apart.metrics.columns)
    np.testing.assert_allclose(apart.metrics[names], together.metrics[names], rtol=2e-3, atol=1e-5)


def test_statistics_of_byzantine_workers_are_not_part_of_an_evaluation(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3, 32, 32)).astype(np.float32), rng.integers(0, 2, 24)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    setup = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(tmp_path / "images.npz")},
            "model": {"name": "empire-cnn", "hidden": 4, "training": True},
            "batch_size": 2,
            "steps": 3,
            "learning_rate": 1e-30,  # the parameters stay, whatever is submitted
            "workers": 5,  # an actor holds an honest one and a Byzantine one
            "byzantine": 2,
            "attack": "empire",
            "aggregator": "median",
            "evaluation_interval": 1,
        }
    )
    used: list[dict[str, torch.Tensor]] = []

    def note(*arguments: Any) -> dict[str, torch.Tensor]:
        used.append(mean_buffers(*arguments))
        return used[-1]

    monkeypatch.setattr("actors.simulation.mean_buffers", note)
    loud, plain = (
        actors.simulate(setup.changed(attack=f"training_attacks:{attack}"), fleet=fleet)
        for attack in ("Loud", "Honest")
    )
    assert loud.evaluations.equals(plain.evaluations)
    assert len(used) == 8
    for first, second in zip(used[:4], used[4:], strict=True):
        assert first
        for name, buffer in first.items():
            assert torch.equal(buffer, second[name]), name


def test_a_batch_of_another_size_is_named(fleet: Fleet, small_setup: Setup) -> None:
    with pytest.raises(BrokenContract, match=r"^attack Short returned .* from poison, expected a Batch of x \(4, 5\)"):
        actors.simulate(small_setup.changed(attack="training_attacks:Short"), fleet=fleet)
    after = actors.simulate(small_setup, fleet=fleet)
    np.testing.assert_allclose(after.parameters, simulate(small_setup).parameters, rtol=1e-4, atol=1e-6)
