"""benchmarks/translated.py: the pairs of configurations on the pages say the same, and where they do not it is seen."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import translated

PAIRS = [one for peer in translated.PAGES for one in translated.configurations(peer)]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{one.peer}: {one.name}" for one in PAIRS])
def test_both_sides_of_a_page_say_the_same(pair: translated.Configuration) -> None:
    assert translated.disagreements(pair) == []


def test_each_page_has_two_pairs() -> None:
    assert [one.peer for one in PAIRS] == ["byzfl", "byzfl", "FLPoison", "FLPoison"]


@pytest.mark.parametrize(("written", "other"), [("batch_size: ", "batch_size: 1"), ("steps: ", "steps: 1")])
def test_a_difference_is_seen(written: str, other: str) -> None:
    for pair in PAIRS:
        assert written in pair.ours
        assert translated.disagreements(replace(pair, ours=pair.ours.replace(written, other)))


def test_a_table_has_the_means_of_both_sides() -> None:
    done = [
        translated.Run("mean", "byzfl", by, seed, accuracy, seconds)
        for by, seed, accuracy, seconds in (("byzfl", 1, 0.5, 3.0), ("byzfl", 2, 0.7, 5.0), ("byzray", 1, 0.25, 1.0))
    ]
    row = translated.table(done).splitlines()[-1]
    assert "60.00" in row
    assert "25.00" in row
    assert translated.seeds_of("2-4") == [2, 3, 4]
