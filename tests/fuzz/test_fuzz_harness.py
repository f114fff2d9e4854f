"""The harness sees what it is there to see."""

import itertools
import sys
import time
from collections.abc import Callable

import fuzz_harness
import numpy as np
import pytest
from fuzz_harness import Failures, byzray, calls


def exits(code: int, text: str) -> Callable[[], None]:
    def main() -> None:
        sys.stderr.write(text)
        sys.exit(code)

    return main


@pytest.mark.parametrize(
    ("main", "problem"),
    [
        (exits(0, ""), None),
        (exits(2, "byzray: own.yaml: 1 mistake"), None),
        (exits(2, "byzray: other.yaml: 1 mistake"), "does not name"),
        (exits(1, "byzray: failed"), "exit code 1"),
        (exits(2, "byzray: "), "without a message"),
        (exits(2, "byzray: own.yaml: a\nbyzray: own.yaml: b"), "not one message"),
        (exits(1, "Traceback (most recent call last):"), "traceback"),
        (lambda: time.sleep(60), "took longer than"),
        (lambda: all(number >= 0 for number in itertools.count()), "took longer than"),
        (lambda: np.ones(2**40), "MemoryError|_ArrayMemoryError"),
    ],
)
def test_problems(main: Callable[[], None], problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_harness.commands, "main", main)
    try:
        found = byzray("show", limit=0.1).problem(named="own.yaml")
    except MemoryError as error:  # the command itself turns it into a traceback
        found = type(error).__name__
    assert (found is None) == (problem is None)
    assert problem is None or any(one in str(found) for one in problem.split("|"))


def test_calls() -> None:
    counts = dict(fuzz_harness.COUNTS)
    assert calls(lambda: None, "x") is None
    assert calls(lambda: int("x"), "x", (ValueError,)) is None
    assert "ValueError: invalid literal" in str(calls(lambda: int("x"), "x"))
    assert "without a message" in str(calls(lambda: next(iter([])), "x", (StopIteration,)))
    assert (fuzz_harness.COUNTS["x"].accepted, fuzz_harness.COUNTS["x"].refused) == (1, 3)
    fuzz_harness.COUNTS.clear()
    fuzz_harness.COUNTS.update(counts)


def test_failures_are_told() -> None:
    failures = Failures("some")
    failures.tell()
    failures.check(None, "fine")
    failures.check("broken", "this one")
    with pytest.raises(pytest.fail.Exception, match=r"1 cases of 'some' failed.*\nbroken\n    this one"):
        failures.tell()
