"""benchmarks/rules.py calls every rule that needs no more than submissions and f."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import rules


@pytest.mark.parametrize("rule", rules.RULES)
def test_every_rule_is_timed(rule: str) -> None:
    found = rules.compare(rule, [], (11, 40, 2), repeats=1)
    assert list(found) == [rules.OURS]
    assert found[rules.OURS]["hindered"] is None
    assert found[rules.OURS]["difference"] in (0.0, None)
    assert found[rules.OURS]["seconds"]
