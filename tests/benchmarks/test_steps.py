"""Where the time of a step goes, as benchmarks/steps.py measures it: every part is met."""

import sys
from pathlib import Path

import pytest

from byzray import Setup
from byzray.data import load_data

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import steps


@pytest.mark.parametrize("rule", ["multi-krum", "median", "geometric-median"])
def test_every_part_takes_time(rule: str) -> None:
    setup = Setup.model_validate(
        {"aggregator": rule, "attack": "little", "byzantine": 2, "clip": 2.0, "actors": None, "model": {"name": "mlp"}}
    )
    found = steps.parts(setup, 2 * steps.INTERVAL, load_data(setup))
    assert set(found) == {*steps.pieces(setup), "update and all else"}
    assert {part for part, milliseconds in found.items() if not milliseconds > 0} == set()
