"""Divergence: noticed at the right step, with its cause, and the end of the run if the setup says so."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from byzray.cohort import Cohort
from byzray.data import load_data
from byzray.divergence import reason, unsound
from byzray.server import Server
from byzray.setups import Setup

CPU = torch.device("cpu")


def start(setup: Setup) -> tuple[Server, Cohort]:
    data = load_data(setup)
    return Server(setup, data, CPU), Cohort(setup, range(setup.honest), data, CPU)


def advance(server: Server, cohort: Cohort, stop: int) -> None:
    while server.step_number < stop and not server.study.halted:
        contribution = cohort.step(server.point(), server.step_number, server.trained_TD)
        server.step([contribution])


def first_non_finite(setup: Setup) -> int:
    """The step after which the parameters are not finite any more, looked at one by one."""
    server, cohort = start(setup.changed(divergence="go-on"))
    for step in range(setup.steps):
        advance(server, cohort, step + 1)
        if not np.isfinite(server.theta_D.numpy()).all():
            return step
    raise AssertionError("it does not diverge")


NAN: dict[str, Any] = {"attack": "nan", "aggregator": "average"}
OVERFLOW: dict[str, Any] = {
    "model": "linear",
    "loss": "mse",
    "l1": 100,
    "learning_rate": {"schedule": {0: 0.1, 3: 1e38}},
}
GROWING: dict[str, Any] = {"aggregator": "median", "learning_rate": 1e12}

# A setup that diverges, and the reason with a study and without.
DIVERGING: dict[str, tuple[dict[str, Any], str, str]] = {
    "attack": (
        NAN,
        "the Byzantine submissions were not finite, and average let them through",
        "the aggregate was not finite, though the average loss was (0.",
    ),
    "rate": (
        OVERFLOW,
        "the aggregate was finite (norm ",
        "the aggregate was finite, but the update with learning rate 1e+38 overflowed",
    ),
    "growth": (
        GROWING,
        "the average loss (nan) and the mean of the honest submissions were not finite",
        "the average loss was not finite (nan)",
    ),
}


@pytest.mark.parametrize("mode", ["go-on", "stop"])
@pytest.mark.parametrize("studied", [True, False])
@pytest.mark.parametrize("case", DIVERGING)
def test_divergence_is_noticed_where_it_happens_and_explained(
    small_setup: Setup, case: str, studied: bool, mode: str
) -> None:
    changes, with_study, without = DIVERGING[case]
    setup = small_setup.changed(**changes, divergence=mode, study={"past": 2} if studied else None)
    expected = first_non_finite(setup)
    server, cohort = start(setup)
    advance(server, cohort, setup.steps)
    stopped = mode == "stop"
    # In mode `stop` it is known at once, else when rows are fetched.
    assert (server.study.diverged is not None) == stopped == server.study.halted
    rows = server.take_rows()
    assert server.study.diverged is not None
    assert server.study.diverged.step == expected
    assert server.study.diverged.reason.startswith(with_study if studied else without)
    assert rows[-1, 0] == (expected if stopped else setup.steps - 1)
    assert rows.shape == (rows[-1, 0] + 1, 24 if studied else 3)
    assert server.step_number == len(rows)


def test_the_norm_and_the_rate_of_an_overflow_are_told(small_setup: Setup) -> None:
    server, cohort = start(small_setup.changed(**OVERFLOW))
    advance(server, cohort, small_setup.steps)
    norm = server.take_rows()[3, 10]
    assert server.study.diverged == (
        3,
        f"the aggregate was finite (norm {norm:.3g}), but the update with learning rate 1e+38 overflowed",
    )


def test_honest_submissions_that_are_not_finite_are_blamed_before_the_attack(small_setup: Setup) -> None:
    """`little` follows them; and the loss was finite, as the gradient alone is too large."""
    server, cohort = start(small_setup.changed(aggregator="average"))
    advance(server, cohort, 2)
    contribution = cohort.step(server.point(), 2, server.trained_TD)
    server.trained_TD[1, 3] = math.inf
    server.step([contribution])
    loss = server.take_rows()[2, 2]
    assert server.study.diverged is not None
    assert server.study.diverged.step == 2
    expected = f"the mean of the honest submissions was not finite, though the average loss was ({loss:.3g})"
    assert server.study.diverged.reason == expected


def test_a_rule_of_ones_own_that_returns_nonsense_is_blamed(small_setup: Setup) -> None:
    """Not the Byzantine submissions, also where there are none and their metrics are NaN."""
    row = {"Average loss": 0.5, "Honest gradient norm": 1.0, "Defense gradient norm": math.nan}
    expected = "the aggregate was not finite, though the means of the submissions were"
    assert reason(small_setup, 2, {**row, "Attack gradient norm": 1.0}, False) == expected
    unattacked = small_setup.changed(byzantine=0, attack=None)
    assert reason(unattacked, 2, {**row, "Attack gradient norm": math.nan}, False) == expected


def rows_of(setup: Setup, stretch: int) -> tuple[NDArray[np.float64], Server]:
    server, cohort = start(setup)
    rows = []
    while server.step_number < setup.steps and not server.study.halted:
        advance(server, cohort, min(server.step_number + stretch, setup.steps))
        rows.append(server.take_rows())
    return np.concatenate(rows), server


@pytest.mark.parametrize("stretch", [1, 3, 100])
@pytest.mark.parametrize("case", DIVERGING)
def test_the_rows_of_a_stopped_run_are_the_first_of_one_that_goes_on(
    small_setup: Setup, case: str, stretch: int
) -> None:
    setup = small_setup.changed(**DIVERGING[case][0])
    whole, going_on = rows_of(setup, stretch)
    stopped, server = rows_of(setup.changed(divergence="stop"), stretch)
    assert server.study.diverged == going_on.study.diverged
    assert server.study.diverged is not None
    np.testing.assert_array_equal(stopped, whole[: server.study.diverged.step + 1])


@pytest.mark.parametrize("mode", ["go-on", "stop"])
def test_a_sound_run_is_not_touched(small_setup: Setup, mode: str) -> None:
    rows, server = rows_of(small_setup.changed(divergence=mode), 5)
    assert (server.study.diverged, server.study.halted, len(rows)) == (None, False, small_setup.steps)
    np.testing.assert_array_equal(rows, rows_of(small_setup, 12)[0])


@pytest.mark.parametrize("mode", ["go-on", "stop"])
def test_a_restored_state_starts_anew(small_setup: Setup, mode: str) -> None:
    setup = small_setup.changed(**GROWING, divergence=mode)
    expected = first_non_finite(setup)
    assert expected >= 2
    server, cohort = start(setup)
    advance(server, cohort, 1)
    sound = [{name: tensor.clone() for name, tensor in part.state().items()} for part in (server, cohort)]
    advance(server, cohort, setup.steps)
    server.take_rows()
    diverged = server.study.diverged
    assert diverged is not None
    broken = {name: tensor.clone() for name, tensor in server.state().items()}
    server.restore(sound[0], 1)
    cohort.restore(sound[1])
    assert (server.study.diverged, server.study.halted) == (None, False)
    advance(server, cohort, setup.steps)
    server.take_rows()
    assert server.study.diverged == diverged
    # What is not finite before does not diverge.
    server.restore(broken, 5)
    advance(server, cohort, 8)
    server.take_rows()
    assert (server.study.diverged, server.study.halted, server.step_number) == (None, False, 8)


@pytest.mark.parametrize("place", [0, 17, -1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_coordinate_is_enough(value: float, place: int) -> None:
    largest_D = torch.full((100_000,), torch.finfo(torch.float32).max)
    assert unsound(largest_D).item() == 0
    largest_D[place] = value
    assert math.isnan(unsound(largest_D).item())
