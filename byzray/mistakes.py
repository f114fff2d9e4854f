"""Mistakes in a setup, in words: each with its path in the file, the value and what was expected."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Location = tuple[int | str, ...]

T = TypeVar("T")

# The keys that may stand at a place of some data, as far as they are known.
KnownKeys = Callable[[Location, dict[str, Any]], list[str]]

UNKNOWN_KEY = ("extra_forbidden", "invalid_key")

# Where pydantic's words can be bettered.
BOUNDS = {
    "greater_than": "a number >",
    "greater_than_equal": "a number >=",
    "less_than": "a number <",
    "less_than_equal": "a number <=",
}
PLAIN_WORDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "a text",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "List should have at least 1 item after validation, not 0": "at least one item",
}

# What keys and words are called elsewhere: in papers, in other tools, and in the conditions of sweeps.
MEANT = {
    "rule": "aggregator",
    "rules": "aggregators",
    "gar": "aggregator",
    "gpu": "cuda",
    "defense": "aggregator",
    "n": "workers",
    "f": "byzantine",
    "rate": "learning_rate",
    "lr": "learning_rate",
    "beta": "momentum.beta",
    "placement": "momentum.placement",
    "nesterov": "momentum.nesterov",
}


# Control characters but for tabs and newlines, marks that reverse the order of text, halves of surrogate pairs.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class WrongInput(Exception):
    """What the user gave is wrong; the message says what, and what was expected. The command ends with exit code 2."""


class Failure(Exception):
    """The work failed, through no mistake in the code; the message says all there is to say. Exit code 1."""


class BrokenContract(Failure, ValueError):
    """A rule or an attack of the user's own did what none must do; the message names it."""


class SetupError(WrongInput):
    """What is wrong with a setup: every mistake at once, each with its path, the value and what was expected.

    Attributes:
        source: where the setup comes from, a file for example.
        mistakes: one line for each.
    """

    def __init__(self, source: str, mistakes: list[str]) -> None:
        self.source = source
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(
            visible("\n".join([f"{source}: {count} in the setup", *(f"  {mistake}" for mistake in mistakes)]))
        )

    def __reduce__(self) -> tuple[type["SetupError"], tuple[str, list[str]]]:
        return SetupError, (self.source, self.mistakes)  # it travels from actors to the driver


def parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    """`text` as `parse` reads it.

    Raises:
        WrongInput: it cannot; the message names what was given as `name`.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise WrongInput(f"{name}: got {text!r}, {error}") from error


def lines(error: ValidationError) -> list[str]:
    """One line a mistake, ``path: got value, expected ...``, from an error of `byzray.Setup`."""
    found = []
    for one in error.errors(include_url=False):
        path = ".".join(str(part) for part in one["loc"]) or "setup"
        found.append(f"{path}: {one['msg']}")
    return found


def mistake(loc: Location, message: str, value: Any) -> InitErrorDetails:
    """One mistake, for pydantic to raise."""
    text = message if message.startswith(("unknown key", "got nothing")) else f"got {short(value)}, {message}"
    # The message is passed as context, since pydantic would read braces in it as a template.
    return InitErrorDetails(type=PydanticCustomError("setup", "{text}", {"text": text}), loc=loc, input=value)


def in_plain_words(found: Sequence[ErrorDetails], data: dict[str, Any], known: KnownKeys) -> list[InitErrorDetails]:
    """Pydantic's errors in the form "expected ..."; it has one for each alternative of a field, which become one.

    Args:
        found: the errors.
        data: what was validated.
        known: tells the keys that may stand at a place.
    """
    merged: list[tuple[Location, str, Any]] = []
    for one in found:
        loc, message = one["loc"], _expected(one, data, known)
        if loc[-1:] == ("[key]",):
            loc, message = loc[:-1], f"{message} as the key"
        elif len(loc) > 1 and one["type"] not in (*UNKNOWN_KEY, "missing") and _at(data, loc[:-1]) is one["input"]:
            loc = loc[:-1]  # its end names an alternative, not a key of the file
        if merged and merged[-1][0] == loc and merged[-1][2] is one["input"]:
            message = f"{merged.pop()[1]} or {message.removeprefix('expected ')}"
        merged.append((loc, message, one["input"]))
    return [mistake(*one) for one in merged]


def _at(value: Any, loc: Location) -> Any:
    """What lies at a path, or the path itself if nothing does."""
    for part in loc:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return loc
    return value


def _expected(one: ErrorDetails, data: dict[str, Any], known: KnownKeys) -> str:
    """What pydantic says of a mistake, in the form "expected ..."."""
    kind, message, context = one["type"], one["msg"], one.get("ctx", {})
    if kind in UNKNOWN_KEY:
        return _unknown_key(one["loc"], data, known)
    if kind == "setup":
        return str(context["text"])
    if kind == "missing":
        return "got nothing, expected a value, as there is no default"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind in BOUNDS:
        (bound,) = context.values()
        return f"expected {BOUNDS[kind]} {f'{bound:g}' if isinstance(bound, float) else bound}"
    if kind in ("model_type", "dict_type"):
        keys = known(one["loc"], data) if len(one["loc"]) == 1 else []
        return f"expected a mapping{' with ' if keys else ''}{', '.join(keys)}"
    wording = message.replace("Input should ", "").removeprefix("be ")
    return f"expected {PLAIN_WORDS.get(wording, wording)}"


def _unknown_key(loc: Location, data: dict[str, Any], known: KnownKeys) -> str:
    keys = known(loc[:-1], data)
    meant = suggestion(str(loc[-1]), keys)
    if meant:
        return f"unknown key, did you mean {meant!r}?"
    return f"unknown key, expected one of {', '.join(keys)}" if keys else "unknown key, there is no such option"


def suggestion(name: str, known: Sequence[str]) -> str | None:
    """Which of the known names was probably meant, if any."""
    meant = MEANT.get(name, "")
    if meant.partition(".")[0] in known:
        return meant
    return next(iter(get_close_matches(name, known, n=1)), None)


def short(value: Any) -> str:
    """A value as a message shows it: long ones are cut."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def visible(text: str) -> str:
    r"""`text` with what would steer a terminal spelt out: `\x1b` for an escape character."""
    return INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)
