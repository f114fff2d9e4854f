"""Conditions on setups, as sweep files and `--only` hold them: ``aggregator != 'bulyan' or n >= 4*f + 3``."""

import warnings
from collections.abc import Mapping
from typing import Any

from simpleeval import AssignmentAttempted, EvalWithCompoundTypes, InvalidExpression

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
        try:
            self._parsed = EvalWithCompoundTypes.parse(text)
        except (InvalidExpression, SyntaxError, ValueError) as error:
            raise ConditionError(f"condition {text!r}: is no expression ({error})") from None

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is true of a setup.

        Raises:
            ConditionError: it names something else, compares what cannot be compared, or is neither true nor false.
        """
        evaluator = EvalWithCompoundTypes(names=dict(facts), functions={})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", AssignmentAttempted)
                value = evaluator.eval(self.text, previously_parsed=self._parsed)
        except AssignmentAttempted:
            raise ConditionError(f"condition {self.text!r}: is an assignment, expected == to compare") from None
        except InvalidExpression as error:
            raise ConditionError(
                f"condition {self.text!r}: {error}; expected an expression on {', '.join(facts)}"
            ) from None
        except (TypeError, ArithmeticError, LookupError) as error:
            raise ConditionError(f"condition {self.text!r}: cannot be evaluated ({error})") from None
        if not isinstance(value, bool):
            raise ConditionError(f"condition {self.text!r}: gives {value!r}, expected true or false")
        return value


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
