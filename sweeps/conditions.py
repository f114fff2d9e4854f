"""Conditions on setups in sweep files and `--only`, such as ``aggregator != 'bulyan' or n >= 4*f + 3``."""

import ast
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from simpleeval import (
    DEFAULT_OPERATORS,
    AssignmentAttempted,
    EvalWithCompoundTypes,
    InvalidExpression,
    MultipleExpressions,
    NameNotDefined,
    NumberTooHigh,
)

from byzray.mistakes import short, suggestion
from byzray.setups import REGISTRIES, LearningRate, Setup

# The values of fields that a setup file omits.
DEFAULTS = Setup().model_dump()
RATE = {name: field.default for name, field in LearningRate.model_fields.items()}

# A bound on integers, as arithmetic with huge ones can take hours.
MOST_BITS = 1000

# Conditions cannot use calls, comprehensions or f-strings, which could take any time and memory.
REFUSED = (ast.Call, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.JoinedStr, ast.FormattedValue)


class ConditionError(Exception):
    """A condition cannot be evaluated; the message shows it, and what was expected."""


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MOST_BITS:
        raise NumberTooHigh(f"the power {short(base)} ** {short(exponent)} is too large")
    return base**exponent


def _product(one: Any, other: Any) -> Any:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        raise TypeError(f"cannot multiply {short(one)} by {short(other)}")
    if isinstance(one, int) and isinstance(other, int) and one.bit_length() + other.bit_length() > MOST_BITS:
        raise NumberTooHigh(f"the product of {short(one)} and {short(other)} is too large")
    return one * other


def _remainder(one: Any, other: Any) -> Any:
    if isinstance(one, str):  # formats
        raise TypeError(f"cannot divide {short(one)}")
    return one % other


OPERATORS = {**DEFAULT_OPERATORS, ast.Pow: _power, ast.Mult: _product, ast.Mod: _remainder}
for shift in (ast.LShift, ast.RShift):
    del OPERATORS[shift]


class Condition:
    """An expression on :func:`condition_variables`, with comparisons, arithmetic, `and`, `or`, `not` and `in`.

    Raises:
        ConditionError: it is not an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        with _in_plain_words(text):
            self._parsed = EvalWithCompoundTypes.parse(text)
            self._names = [node.id for node in ast.walk(self._parsed) if isinstance(node, ast.Name)]

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether a setup with these variables meets the condition.

        Raises:
            ConditionError: a name is unknown, values cannot be compared, or the result is neither true nor false.
        """
        evaluator = EvalWithCompoundTypes(operators=OPERATORS, names=dict(facts), functions={})
        for node in REFUSED:
            del evaluator.nodes[node]
        with _in_plain_words(self.text, f"; expected an expression on {', '.join(facts)}"):
            for name in self._names:  # evaluation checks only some: `or` stops early
                if name not in facts:
                    meant = suggestion(name, list(facts))
                    if meant is not None:
                        raise ConditionError(f"condition {self.text!r}: {name!r} is unknown, did you mean {meant!r}?")
                    raise NameNotDefined(name, self.text)
            value = evaluator.eval(self.text, previously_parsed=self._parsed)
        if not isinstance(value, bool):
            raise ConditionError(f"condition {self.text!r}: its value is {short(value)}, expected true or false")
        return value


@contextmanager
def _in_plain_words(text: str, expected: str = "") -> Iterator[None]:
    """Turn the errors and warnings of simpleeval into ConditionErrors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except AssignmentAttempted:
        raise ConditionError(f"condition {text!r}: is an assignment, expected a comparison with ==") from None
    except MultipleExpressions:
        raise ConditionError(f"condition {text!r}: is more than one, expected one; join them by and") from None
    except (SyntaxError, ValueError) as error:
        raise ConditionError(f"condition {text!r}: is not an expression ({error})") from None
    except InvalidExpression as error:
        raise ConditionError(f"condition {text!r}: {error}{expected}") from None
    except (TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise ConditionError(f"condition {text!r}: cannot be evaluated ({error})") from None


class Named(str):
    """A name with options as attributes: ``split == 'dirichlet' and split.alpha < 0.5``."""

    options: Mapping[str, Any]

    def __new__(cls, name: str, options: Mapping[str, Any]) -> "Named":
        made = super().__new__(cls, name)
        made.options = options
        return made

    def __getattr__(self, option: str) -> Any:
        try:
            return self.options[option]
        except KeyError:
            raise AttributeError(option) from None


def named(field: str, value: Any) -> Any:
    """The value of an option in a setup file as conditions see it; any other value is returned unchanged."""
    given = {"name": value} if isinstance(value, str) else value
    if not (isinstance(given, Mapping) and isinstance(given.get("name"), str)):
        return value
    defaults: dict[str, Any] = {}
    if given["name"] in REGISTRIES[field].names:
        fields = REGISTRIES[field][given["name"]].model_fields
        defaults = {name: one.default for name, one in fields.items() if not one.is_required()}
    return Named(given["name"], {**defaults, **given})


def condition_variables(content: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of conditions, from a setup's description or the content of a setup file.

    They are all fields of a setup: data set, model, split, aggregator and attack by name, with their options as
    attributes; pre-aggregators as ``arc+nnm``, with each as an attribute; and the short names n, f, honest, rate,
    placement and nesterov.
    """
    known = {**DEFAULTS, **content}
    for field in ("dataset", "model", "split", "aggregator", "attack"):
        known[field] = named(field, known[field])
    known["attack"] = known["attack"] or "none"
    pre = known["pre"] if isinstance(known["pre"], list) else [known["pre"]]
    parts = [named("pre", part) for part in pre if part not in (None, "none")]
    known["pre"] = Named("+".join(map(str, parts)) or "none", {str(part): part for part in parts})
    if content.get("tolerated") is None:
        known["tolerated"] = known["byzantine"]
    written = {"name": known["momentum"]} if isinstance(known["momentum"], str) else _mapping(known["momentum"])
    given = {"name": "heavy-ball", **written}
    heavy = given["name"] == "heavy-ball"
    momentum = {**(DEFAULTS["momentum"] if heavy else {"a": 0.1, "placement": "worker", "nesterov": False}), **given}
    rate = known["learning_rate"]
    workers, byzantine = known["workers"], known["byzantine"]
    counted = isinstance(workers, int) and isinstance(byzantine, int)
    return {
        **known,
        "n": workers,
        "f": byzantine,
        "honest": workers - byzantine if counted else None,
        "rate": rate.get("initial") if isinstance(rate, Mapping) else rate,
        "learning_rate": {**RATE, **(rate if isinstance(rate, Mapping) else {"initial": rate})},
        "momentum": momentum,
        "placement": momentum["placement"],
        "nesterov": momentum["nesterov"],
    }


def sorted_by(known: Mapping[str, Any]) -> dict[str, Any]:
    """The values by which TensorBoard can sort runs, from :func:`condition_variables`: plain values, and the options
    of pre-aggregators and of the split under dotted names."""
    shown = ("dataset", "split", "pre", "aggregator", "attack", "n", "f", "rate", "nesterov", "placement", "seed")
    values = {key: str(known[key]) if isinstance(known[key], str) else known[key] for key in shown}
    for field, one in [("split", known["split"]), *((f"pre.{part}", part) for part in known["pre"].options.values())]:
        values |= {f"{field}.{option}": value for option, value in one.options.items() if option != "name"}
    return values


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
