"""Conditions on setups, as sweep files and `--only` hold them: ``aggregator != 'bulyan' or n >= 4*f + 3``."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from simpleeval import AssignmentAttempted, EvalWithCompoundTypes, InvalidExpression, MultipleExpressions

from byzray.setups import Setup

# What a setup file may leave out.
DEFAULTS = Setup().describe()


class ConditionError(Exception):
    """A condition that cannot be evaluated; the message shows it, and says what was expected."""


class Condition:
    """An expression on the names of :func:`facts`, with comparisons, arithmetic, `and`, `or`, `not` and `in`.

    Raises:
        ConditionError: it is no expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        with _in_plain_words(text):
            self._parsed = EvalWithCompoundTypes.parse(text)

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is true of a setup.

        Raises:
            ConditionError: it names something else, compares what cannot be compared, or is neither true nor false.
        """
        evaluator = EvalWithCompoundTypes(names=dict(facts), functions={})
        with _in_plain_words(self.text, f"; expected an expression on {', '.join(facts)}"):
            value = evaluator.eval(self.text, previously_parsed=self._parsed)
        if not isinstance(value, bool):
            raise ConditionError(f"condition {self.text!r}: gives {value!r}, expected true or false")
        return value


@contextmanager
def _in_plain_words(text: str, expected: str = "") -> Iterator[None]:
    """Turns what simpleeval raises, and what it merely warns of, into ConditionErrors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except AssignmentAttempted:
        raise ConditionError(f"condition {text!r}: is an assignment, expected == to compare") from None
    except MultipleExpressions:
        raise ConditionError(f"condition {text!r}: is several, expected one, joined by and") from None
    except (SyntaxError, ValueError) as error:
        raise ConditionError(f"condition {text!r}: is no expression ({error})") from None
    except InvalidExpression as error:
        raise ConditionError(f"condition {text!r}: {error}{expected}") from None
    except (TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise ConditionError(f"condition {text!r}: cannot be evaluated ({error})") from None


def facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """What conditions can name of a setup, from its description or the content of a setup file.

    All fields of a setup, data set, model, aggregator and attack by their names alone, and n, f, honest, rate,
    placement and nesterov for short.
    """
    known = {**DEFAULTS, **content}
    for field in ("dataset", "model", "aggregator", "attack"):
        value = known[field]
        known[field] = value["name"] if isinstance(value, Mapping) and "name" in value else value
    known["attack"] = known["attack"] or "none"
    if content.get("tolerated") is None:
        known["tolerated"] = known["byzantine"]
    momentum = {**DEFAULTS["momentum"], **_mapping(known["momentum"])}
    rate = known["learning_rate"]
    workers, byzantine = known["workers"], known["byzantine"]
    counted = isinstance(workers, int) and isinstance(byzantine, int)
    return {
        **known,
        "n": workers,
        "f": byzantine,
        "honest": workers - byzantine if counted else None,
        "rate": rate.get("initial") if isinstance(rate, Mapping) else rate,
        "momentum": momentum,
        "placement": momentum["placement"],
        "nesterov": momentum["nesterov"],
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
