"""The soak's report: what grows is reported, what fluctuates is not."""

import numpy as np
import pytest
import soak


def samples(name: str = "", slope: float = 0.0) -> soak.Samples:
    """Ten minutes in which one quantity grows by `slope` per restart, and all of them are noisy."""
    rng, found = np.random.default_rng(0), soak.Samples()
    for index in range(200):
        noise = {one: 50 + rng.normal() * tolerance.growth / 2 for one, tolerance in soak.TOLERANCES.items()}
        found.rows.append(noise | ({name: noise[name] + slope * index} if name else {}))
        found.seconds.append(3.0 * index)
        found.restarts.append(index)
    return found


def test_noise_is_no_growth() -> None:
    assert soak.report(samples())[1] == []


@pytest.mark.parametrize("name", soak.TOLERANCES)
def test_a_leak_at_each_restart_is_found(name: str) -> None:
    text, growing = soak.report(samples(name, slope=2 * soak.TOLERANCES[name].growth / 100))
    assert growing == [name]
    assert "GROWS" in text


def test_what_cannot_be_measured_is_left_out() -> None:
    found = samples()
    for row in found.rows[::2]:
        row["actor MiB"] = float("nan")
    assert soak.report(found)[1] == []


def test_the_slope_is_that_of_the_second_half() -> None:
    values = np.array([*[10.0] * 50, *np.linspace(10, 20, 50)])
    found = soak.trend(values, list(range(100)), list(range(0, 200, 2)))
    assert found.growth == pytest.approx(10, rel=0.05)
    assert found.per_restart == pytest.approx(10 / 98, rel=0.05)
    assert found.per_hour == pytest.approx(3600 * 10 / 49, rel=0.05)
    assert found.first == 10
