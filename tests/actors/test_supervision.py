"""How long silence may last."""

import math

from actors.supervision import LEAST_SECONDS, SLOWER, START_SECONDS, Patience


def test_without_a_deadline_it_follows_from_the_pace() -> None:
    patience = Patience()
    assert patience.step == patience.call == START_SECONDS
    assert patience.stretch(1) == START_SECONDS
    assert patience.stretch(1000) == math.inf  # nobody knows how long that takes
    patience.learn(100.0)  # the first step sets things up
    patience.learn(0.01)
    assert patience.step == LEAST_SECONDS
    assert patience.stretch(100) == LEAST_SECONDS + SLOWER * 100 * 0.01
    patience.learn(7.0)
    patience.learn(0.01)
    assert patience.step == SLOWER * 7.0
    assert patience.call == START_SECONDS


def test_a_first_step_that_takes_long_is_a_pace_too() -> None:
    patience = Patience()
    patience.learn(60.0)
    assert patience.step == SLOWER * 60.0


def test_silence_that_was_only_slowness_gets_through_in_the_end() -> None:
    patience = Patience()
    patience.learn(0.01)
    limits = []
    for _ in range(4):
        limits.append(patience.step)
        patience.double()
    assert limits == [LEAST_SECONDS * factor for factor in (1, 2, 4, 8)]
    patience.learn(200.0)
    patience.learn(0.01)
    assert patience.step == SLOWER * 200.0


def test_a_deadline_of_the_users_own_stays_as_it_is() -> None:
    patience = Patience(12.0)
    patience.learn(5.0)
    patience.double()
    assert patience.step == patience.call == 12.0
    assert patience.stretch(10) == 12.0 + SLOWER * 10 * 5.0


def test_evaluations_have_a_pace_of_their_own() -> None:
    patience = Patience(12.0)
    assert patience.evaluation == START_SECONDS
    patience.learn_evaluation(40.0)
    assert patience.evaluation == SLOWER * 40.0
    assert Patience(900.0).evaluation == 900.0
