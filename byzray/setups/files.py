"""Setup files: reading them and replacing values."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from byzray.mistakes import SetupError, lines, short
from byzray.setups.fields import Setup, listed
from byzray.yaml import read_yaml


def load_setup(path: str | Path, overrides: dict[str, Any] | None = None) -> Setup:
    """Read a setup file. The user's own classes are imported from Python's module search path.

    Args:
        path: a YAML file.
        overrides: values by dotted key (``momentum.placement``) that replace those of the file.

    Raises:
        SetupError: the file cannot be read or is not a valid setup; it lists every mistake.
    """
    source = str(path)
    content = read_content(Path(path))
    try:
        for dotted, value in (overrides or {}).items():
            content = overridden(content, dotted, value)
    except ValueError as error:
        raise SetupError(source, [str(error)]) from error
    try:
        return Setup.model_validate(content)
    except ValidationError as error:
        raise SetupError(source, lines(error)) from error


def read_content(path: Path) -> dict[str, Any]:
    """The content of a setup file, not yet checked.

    Raises:
        SetupError: it cannot be read, or is not a mapping.
    """
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise SetupError(str(path), [str(error)]) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SetupError(str(path), [f"got {short(content)}, expected a mapping of fields such as 'dataset: mnist'"])
    return content


def overridden(content: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """The content of a setup file with the value at a dotted key (``momentum.placement``) replaced.

    Raises:
        ValueError: a parent of the key is not a mapping.
    """
    changed = dict(content)
    *parents, last = dotted.split(".")
    if parents[:1] == ["pre"] and len(parents) == 2:
        changed["pre"] = _with_option(changed.get("pre"), parents[1], last, value)
        return changed
    here = changed
    for depth, part in enumerate(parents):
        inner = _in_full(part, here.get(part))
        if not isinstance(inner, dict):
            where = ".".join(parents[: depth + 1])
            raise ValueError(f"{dotted}: cannot be set, {where} is {short(inner)}, not a mapping")
        here[part] = dict(inner)
        here = here[part]
    here[last] = value
    return changed


def _with_option(pre: Any, name: str, option: str, value: Any) -> list[Any]:
    """The pre-aggregators with an option replaced in all of one name: ``pre.bucketing.size``.

    Raises:
        ValueError: none has that name.
    """
    parts = [_in_full("pre", part) for part in listed(pre)]
    meant = [isinstance(part, dict) and part.get("name") == name for part in parts]
    if not any(meant):
        raise ValueError(f"pre.{name}.{option}: cannot be set, pre is {short(pre)}, without {name!r}")
    return [{**part, option: value} if this else part for part, this in zip(parts, meant, strict=True)]


def _in_full(key: str, value: Any) -> Any:
    """The mapping for a short form: `{name: median}` for `aggregator: median`."""
    if value is None or value in ("none", "on", "off") or isinstance(value, bool):
        return {}
    if key == "learning_rate" and isinstance(value, int | float):
        return {"initial": value}
    return {"name": value} if isinstance(value, str) else value
