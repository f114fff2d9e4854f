"""Errors of users, and the messages about mistakes in a setup: path in the file, value, what was expected."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Location = tuple[int | str, ...]

T = TypeVar("T")

# Returns the keys that are allowed at a path of some data, as far as they are known.
KnownKeys = Callable[[Location, dict[str, Any]], list[str]]

UNKNOWN_KEY = ("extra_forbidden", "invalid_key")

# Replacements for pydantic's wording.
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

# Names that papers, other tools and the conditions of sweeps use, and the names here.
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


# Control characters except tabs and newlines, marks that reverse the order of text, unpaired surrogates.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class WrongInput(Exception):
    """The user's input is wrong; the message says what was given and what was expected. Exit code 2."""


class Failure(Exception):
    """The work failed for a reason outside the code, which the message explains; no traceback. Exit code 1."""


class Interrupted(Exception):
    """The run stopped because it was asked to. Exit code 1."""


class BrokenContract(Failure, ValueError):
    """A user's own rule or attack broke a requirement on all rules or attacks; the message names both."""


class SetupError(WrongInput):
    """All mistakes in a setup, each with its path, the value and what was expected.

    Attributes:
        source: where the setup comes from, such as a file.
        mistakes: one line per mistake.
    """

    def __init__(self, source: str, mistakes: list[str]) -> None:
        self.source = source
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(
            visible("\n".join([f"{source}: {count} in the setup", *(f"  {mistake}" for mistake in mistakes)]))
        )

    def __reduce__(self) -> tuple[type["SetupError"], tuple[str, list[str]]]:
        return SetupError, (self.source, self.mistakes)  # pickled between actors and the driver


def parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    """Parse `text`.

    Raises:
        WrongInput: `parse` raised a ValueError; the message begins with `name`.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise WrongInput(f"{name}: got {text!r}, {error}") from error


def lines(error: ValidationError) -> list[str]:
    """One line per mistake, ``path: got value, expected ...``, from an error of `byzray.Setup`."""
    found = []
    for one in error.errors(include_url=False):
        path = ".".join(str(part) for part in one["loc"]) or "setup"
        found.append(f"{path}: {one['msg']}")
    return found


def with_value(value: Any, message: str) -> str:
    """A message after the value that it is about."""
    return f"got {short(value)}, {message}"


def with_label(label: str, reason: T) -> T | str:
    """Why a rule, an attack, a pre-aggregator or a model cannot work, after its label: ``krum needs n >= 2f+3 = ...``.

    The check of a user's own class may return a text of another form; what is no text is returned as it is.
    """
    if not isinstance(reason, str):
        return reason
    return f"{label}{' ' if reason.startswith('needs ') else ': '}{reason}"


def mistake(loc: Location, text: str, value: Any) -> InitErrorDetails:
    """One mistake, for pydantic to raise."""
    # The text is passed as context, since pydantic would read braces in it as a template.
    return InitErrorDetails(type=PydanticCustomError("setup", "{text}", {"text": text}), loc=loc, input=value)


def in_plain_words(found: Sequence[ErrorDetails], data: dict[str, Any], known: KnownKeys) -> list[InitErrorDetails]:
    """Pydantic's errors in the form "got ..., expected ...". Pydantic reports every alternative of a field; they become
    one error.

    Args:
        found: the errors.
        data: what was validated.
        known: returns the keys that are allowed at a path.
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
    found_with_values = []
    for loc, message, value in merged:
        complete = message.startswith(("unknown key", "got nothing"))
        text = message if complete else with_value(value, message)
        found_with_values.append(mistake(_as_written(loc, data), text, value))
    return found_with_values


def _as_written(loc: Location, data: dict[str, Any]) -> Location:
    """The path in the file, where an option that stands by itself, short for a list of it, has no number."""
    value = data.get(str(loc[0])) if loc[1:2] == (0,) else []
    alone = not isinstance(value, list | tuple) and not (isinstance(value, dict) and 0 in value)
    return (loc[0], *loc[2:]) if alone else loc


def _at(value: Any, loc: Location) -> Any:
    """The value at a path, or the path itself if there is none."""
    for part in loc:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if part != 0:  # an option that stands by itself is short for a list of it
                return loc
    return value


def _expected(one: ErrorDetails, data: dict[str, Any], known: KnownKeys) -> str:
    """Pydantic's message in the form "expected ..."."""
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
    """The known name that was probably meant, if any."""
    meant = MEANT.get(name, "")
    if meant.partition(".")[0] in known:
        return meant
    return next(iter(get_close_matches(name, known, n=1)), None)


def short(value: Any) -> str:
    """A value as messages show it, cut at 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def visible(text: str) -> str:
    r"""`text` with control characters escaped, which would otherwise act on a terminal: `\x1b` for an escape."""
    return INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)
