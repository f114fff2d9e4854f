"""Byzantine workers that train: they have places in cohorts and streams; losses, moments and counts leave them out."""

from typing import Any

import numpy as np
import pytest
import torch

from byzray import Setup, simulate
from byzray.attacks import Attack, View
from byzray.cohort import Cohort
from byzray.simulation import LocalSimulation, load_data

FLIPPING = {"attack": "label-flipping", "aggregator": "average"}


@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_label_flippers_submit_what_the_honest_code_computes_on_flipped_labels(
    small_setup: Setup, placement: str
) -> None:
    setup = small_setup.changed(
        **FLIPPING, momentum={"placement": placement, "dampening": 0.5}, clip=0.7, local_steps=2
    )
    data = load_data(setup)
    run = LocalSimulation(setup, data)
    run.advance(3)
    # The same seven workers, all honest, where those of the last two have flipped labels.
    honest = setup.changed(byzantine=0, tolerated=2, attack=None)
    cohort = Cohort(honest, range(7), data, torch.device("cpu"))
    draw = cohort.stream.batch

    def flipped(workers: range, step: int, local_step: int = 0) -> Any:
        batch = draw(workers, step, local_step)
        y = batch.y.clone()
        y[5 * setup.batch_size :] = 1 - y[5 * setup.batch_size :]
        return batch._replace(y=y)

    cohort.stream.batch = flipped  # type: ignore[method-assign]
    other = LocalSimulation(honest.changed(aggregator="average"), data)
    other.cohort = cohort
    other.advance(3)
    assert np.array_equal(run.parameters(), other.parameters())


def test_honest_batches_and_byzantine_ones_make_up_the_stream(small_setup: Setup) -> None:
    setup = small_setup.changed(**FLIPPING)
    data = load_data(setup)
    stream = LocalSimulation(setup, data).cohort.stream
    everybody = LocalSimulation(setup.changed(byzantine=0, tolerated=2, attack=None), data).cohort.stream
    assert np.array_equal(stream.indices(range(7), 3), everybody.indices(range(7), 3))


def test_losses_moments_and_counts_are_those_of_the_honest(small_setup: Setup) -> None:
    setup = small_setup.changed(attack="label-flipping", aggregator="median", steps=1)
    data = load_data(setup)
    cohort = Cohort(setup, setup.trained, data, torch.device("cpu"))
    run = LocalSimulation(setup, data)
    rows = torch.zeros_like(run.server.trained_TD)
    contribution = cohort.step(run.server.theta_D, 0, rows)
    assert contribution.sampled is not None
    assert contribution.sampled.size == 5
    torch.testing.assert_close(contribution.sampled.mean_D, rows[:5].mean(dim=0))
    row = dict(zip(run.columns(), run.advance(1)[0], strict=True))
    assert row["Average loss"] == pytest.approx(contribution.losses_K[:5].mean().item(), rel=1e-6)
    assert row["Honest gradient norm"] == pytest.approx(rows[:5].mean(dim=0).norm().item(), rel=1e-5)
    assert row["Attack gradient norm"] == pytest.approx(rows[5:].mean(dim=0).norm().item(), rel=1e-5)
    two = small_setup.changed(attack="label-flipping", steps=2)
    assert simulate(two).metrics["Training point count"].tolist() == [0, 5 * 4]


class Negating(Attack):
    """Sends the negative of what its workers computed."""

    trains = True

    def __call__(self, honest_HD: torch.Tensor, view: View) -> torch.Tensor:
        assert view.own_FD is not None
        return -view.own_FD


class Honest(Negating):
    """Sends what its workers computed."""

    def __call__(self, honest_HD: torch.Tensor, view: View) -> torch.Tensor:
        assert view.own_FD is not None
        return view.own_FD


def test_an_attack_does_not_overwrite_the_momentum_of_its_workers(small_setup: Setup) -> None:
    data = load_data(small_setup)
    still = small_setup.changed(learning_rate=1e-30)  # the points are the same, whatever is submitted
    runs = [LocalSimulation(still.changed(attack=attack), data) for attack in (Negating(), Honest())]
    for run in runs:
        run.advance(6)
    first, second = (run.state()["worker momentum"] for run in runs)
    assert first.shape == (7, len(runs[0].parameters()))
    assert torch.equal(first, second)


def test_they_come_with_missing_submissions_too(small_setup: Setup) -> None:
    for missing in ("drop", "zero"):
        faults = {"missing": missing, "events": [{"kind": "silent", "workers": [1], "steps": "2-4"}]}
        setup = small_setup.changed(attack="label-flipping", aggregator="median", faults=faults)
        result = simulate(setup)
        assert np.isfinite(result.parameters).all()
        assert result.metrics["Attack gradient norm"].notna().all()
