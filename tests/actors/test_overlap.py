"""What actors do earlier or later than one process does changes no bit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from byzray import Setup
from byzray.aggregators import Aggregator
from byzray.attacks import Attack, View
from byzray.cohort import Cohort
from byzray.data import load_data
from byzray.metrics import Moments
from byzray.server import Server
from byzray.submissions import Submissions

CPU = torch.device("cpu")


class Copycat(Attack):
    """Submits what the second honest worker does, as a view that torch does not track."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return torch.from_numpy(honest_HD.numpy()[1]).expand(view.byzantine, -1)


class Favourite(Aggregator):
    """The first submission: a view of it, which rules should not return."""

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.rows_ND[0]


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": {"placement": "worker", "nesterov": True}},
        {"momentum": {"placement": "server", "nesterov": True}},
        {"momentum": {"placement": "update"}},
        {"attack": f"{__name__}:Copycat", "aggregator": f"{__name__}:Favourite"},
        {"study": None},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_a_step_is_studied_alike_once_the_next_submissions_came_in(small_setup: Setup, options: dict[str, Any]) -> None:
    setup = small_setup.changed(**options)
    data = load_data(setup)
    at_once, later = (Server(setup, data, CPU) for _ in range(2))
    cohorts = [Cohort(setup, range(setup.honest), data, CPU) for _ in range(2)]
    for step in range(4):
        contributions = [
            cohort.step(server.point(), step, server.trained_TD)
            for cohort, server in zip(cohorts, (at_once, later), strict=True)
        ]
        at_once.step(contributions[:1])
        observed = later.update()
        later.trained_TD.fill_(float("nan"))
        later.record(observed, contributions[1:])
    assert torch.equal(at_once.theta_D, later.theta_D)
    np.testing.assert_array_equal(at_once.take_rows(), later.take_rows())


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("drawn", [[0, 1, 2, 3], [2], [9]], ids=["every step", "one", "another"])
def test_batches_drawn_ahead_are_those_of_their_step(small_setup: Setup, local_steps: int, drawn: list[int]) -> None:
    setup = small_setup.changed(local_steps=local_steps)
    data = load_data(setup)
    plain, ahead = (Cohort(setup, range(2, 4), data, CPU) for _ in range(2))
    point_D = Server(setup, data, CPU).point()
    out, out_ahead = (torch.empty(2, plain.gradients.network.dimension) for _ in range(2))
    for step in (1, 2, 3, 3):  # the last one again, as after a resumption
        if step in drawn:
            ahead.draw(step)
        losses = plain.step(point_D, step, out).losses_K
        assert torch.equal(losses, ahead.step(point_D, step, out_ahead).losses_K)
        assert torch.equal(out, out_ahead)


@pytest.mark.parametrize("spoilt", [None, float("inf"), float("nan")])
def test_a_single_worker_reports_the_moments_of_its_gradient(small_setup: Setup, spoilt: float | None) -> None:
    setup = small_setup.changed(momentum={"placement": "worker", "beta": 0})
    data = load_data(setup)
    alone = Cohort(setup, range(1), data, CPU)
    point_D = Server(setup, data, CPU).point()
    if spoilt is not None:
        point_D[0] = spoilt
    out = torch.empty(1, alone.gradients.network.dimension)
    reported = alone.step(point_D, 0, out).sampled
    assert reported is not None
    expected = Moments.of(out)  # without memory, momentum is the gradient
    assert torch.equal(reported.mean_D.nan_to_num(7), expected.mean_D.nan_to_num(7))
    assert torch.equal(reported.scatter.nan_to_num(7), expected.scatter.nan_to_num(7))
