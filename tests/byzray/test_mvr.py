"""Momentum with variance reduction, against its definition in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from byzray import Setup
from byzray.cohort import Cohort
from byzray.data import load_data
from byzray.setups import Momentum
from byzray.simulation import LocalSimulation


def plain(setup: Setup) -> Setup:
    """The same workers without momentum, whose submissions are their gradients."""
    return setup.changed(momentum={"beta": 0.0})


def test_submissions_are_those_of_the_definition(small_setup: Setup) -> None:
    a = 0.3
    setup = small_setup.changed(momentum={"name": "mvr", "a": a}, clip=0.5, attack="empire", steps=8)
    data = load_data(setup)
    run = LocalSimulation(setup, data)
    workers = Cohort(plain(setup), range(5), data, torch.device("cpu"))
    gradients_5D, at_previous_5D = torch.zeros_like(run.server.trained_TD), torch.zeros_like(run.server.trained_TD)
    expected = np.zeros(gradients_5D.shape)
    previous_D = run.server.theta_D.clone()
    for step in range(8):
        here_D = run.server.theta_D.clone()
        workers.step(here_D, step, gradients_5D)
        workers.step(previous_D, step, at_previous_5D)
        g, before = gradients_5D.double().numpy(), at_previous_5D.double().numpy()
        expected = g + (1 - a) * (expected - before) if step else g.copy()
        run.advance(step + 1)
        submitted = run.state()["worker momentum"].double().numpy()
        np.testing.assert_allclose(submitted, expected, rtol=1e-4, atol=1e-6)
        previous_D = here_D


def test_it_is_dampened_momentum_where_the_point_stays(small_setup: Setup) -> None:
    """With a rate of almost 0 both gradients are the same, and what is left is momentum with dampening 1 - a."""
    still = small_setup.changed(learning_rate=1e-12, steps=6)
    reduced = LocalSimulation(still.changed(momentum={"name": "mvr", "a": 0.25}), load_data(still))
    dampened = LocalSimulation(still.changed(momentum={"beta": 0.75, "dampening": 0.75}), load_data(still))
    reduced.advance(6)
    dampened.advance(6)
    first = LocalSimulation(plain(still), load_data(still))
    first.advance(1)
    # The former begins with the whole first gradient, the latter with a quarter of it.
    begun = 0.75**5 * 0.75 * first.server.trained_TD
    expected = dampened.state()["worker momentum"] + begun
    torch.testing.assert_close(reduced.state()["worker momentum"], expected, rtol=1e-4, atol=1e-6)


def test_the_previous_point_does_not_move_batch_statistics(small_setup: Setup, tmp_path: Path) -> None:
    """Those are of this point's batches alone: where points are the same, they are those of the usual momentum."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3, 32, 32)).astype(np.float32), rng.integers(0, 2, 24)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    setup = small_setup.changed(
        dataset={"name": "npz", "path": str(tmp_path / "images.npz")},
        model={"name": "empire-cnn", "hidden": 4, "training": True},
        batch_size=2,
        learning_rate=1e-30,
        workers=3,
        byzantine=1,
        aggregator="median",
        attack="label-flipping",
    )
    runs = [LocalSimulation(setup.changed(momentum=one), load_data(setup)) for one in ({}, {"name": "mvr", "a": 0.5})]
    for run in runs:
        run.advance(3)
    usual, reduced = (run.state() for run in runs)
    names = [name for name in usual if name.startswith("buffer ")]
    assert any("running_var" in name for name in names)
    for name in names:
        assert torch.equal(usual[name], reduced[name]), name
    counts = [name for name in names if name.endswith("num_batches_tracked")]
    assert all(usual[name].tolist() == [3, 3, 3] for name in counts)
    assert not torch.equal(usual["worker momentum"], reduced["worker momentum"])


def test_it_is_written_by_its_own_fields(small_setup: Setup) -> None:
    momentum = small_setup.changed(momentum={"name": "mvr"}).describe()["momentum"]
    assert momentum == {"name": "mvr", "a": 0.1}
    assert Setup.model_validate(small_setup.changed(momentum=momentum).describe()).momentum.a == 0.1
    assert Momentum().model_dump() == {"beta": 0.9, "dampening": 0.0, "nesterov": False, "placement": "worker"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": {"name": "mvr", "beta": 0.9}}, "expected no 'beta' with mvr"),
        ({"momentum": {"name": "mvr", "placement": "server"}}, "expected no 'placement' with mvr"),
        ({"momentum": {"a": 0.1}}, "expected no 'a', which belongs to {name: mvr}"),
        ({"momentum": {"name": "mvr", "a": 0}}, "momentum.a"),
        ({"momentum": {"name": "mvr", "a": "x"}}, "momentum.a"),
        ({"momentum": {"name": "adam"}}, "momentum.name"),
        ({"momentum": {"name": "mvr"}, "local_steps": 2}, "expected local_steps = 1 with mvr, got 2"),
    ],
)
def test_what_does_not_go_together_is_refused(small_setup: Setup, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace(".", r"\.")):
        small_setup.changed(**changes)
