"""What users get wrong about rules, pre-aggregators, attacks, splits, rates and momentum: one message each."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from byzray.mistakes import lines
from byzray.setups import Setup
from byzray.yaml import parse_yaml

# Pairs of lines: a setup, and its whole message.
PAIRS = [pair.splitlines() for pair in Path(__file__).with_name("bad_options.txt").read_text().split("\n\n")]


def test_there_are_pairs() -> None:
    assert len(PAIRS) >= 60
    assert all(len(pair) == 2 for pair in PAIRS)


@pytest.mark.parametrize(("content", "expected"), PAIRS, ids=[content for content, _ in PAIRS])
def test_one_message(content: str, expected: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Setup.model_validate(parse_yaml(content))
    assert lines(raised.value) == [expected.strip()]
