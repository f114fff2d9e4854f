"""When something that does not respond counts as lost."""

import math

from actors.supervision import MIN_SECONDS, SLOWDOWN, START_SECONDS, Timeouts


def test_without_a_deadline_it_follows_from_the_pace() -> None:
    timeouts = Timeouts()
    assert timeouts.step == timeouts.call == START_SECONDS
    assert timeouts.stretch(1) == START_SECONDS
    assert timeouts.stretch(1000) == math.inf  # of unknown duration
    timeouts.learn(100.0)  # the first step includes set-up
    timeouts.learn(0.01)
    assert timeouts.step == MIN_SECONDS
    assert timeouts.stretch(100) == MIN_SECONDS + SLOWDOWN * 100 * 0.01
    timeouts.learn(7.0)
    timeouts.learn(0.01)
    assert timeouts.step == SLOWDOWN * 7.0
    assert timeouts.call == START_SECONDS


def test_a_first_step_that_takes_long_counts_too() -> None:
    timeouts = Timeouts()
    timeouts.learn(60.0)
    assert timeouts.step == SLOWDOWN * 60.0


def test_limits_double_at_each_timeout_until_a_step_is_done() -> None:
    timeouts = Timeouts()
    timeouts.learn(0.01)
    limits = []
    for _ in range(4):
        limits.append(timeouts.step)
        timeouts.double()
    assert limits == [MIN_SECONDS * factor for factor in (1, 2, 4, 8)]
    timeouts.learn(200.0)
    timeouts.learn(0.01)
    assert timeouts.step == SLOWDOWN * 200.0


def test_a_deadline_of_the_users_own_stays_as_it_is() -> None:
    timeouts = Timeouts(12.0)
    timeouts.learn(5.0)
    timeouts.double()
    assert timeouts.step == timeouts.call == 12.0
    assert timeouts.stretch(10) == 12.0 + SLOWDOWN * 10 * 5.0


def test_evaluations_have_a_pace_of_their_own() -> None:
    timeouts = Timeouts(12.0)
    assert timeouts.evaluation == START_SECONDS
    timeouts.learn_evaluation(40.0)
    assert timeouts.evaluation == SLOWDOWN * 40.0
    assert Timeouts(900.0).evaluation == 900.0
