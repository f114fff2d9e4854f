"""YAML 1.2, in which 1e-8 is a number and `no` is a word, unlike in the YAML 1.1 of most loaders."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    return yaml


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: the file cannot be read or is not YAML; the message says why and where.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read as UTF-8: {error.reason} at byte {error.start}") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: the text is not YAML, or a mapping holds a key twice.
    """
    try:
        return _yaml().load(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        what = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"is not valid YAML: {where}{what}") from error
    except Exception as error:  # ruamel.yaml lets through what a wrong date, say, raises in Python
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error


def write_yaml(value: Any) -> str:
    """`value` as YAML, keys in their order."""
    stream = io.StringIO()
    _yaml().dump(value, stream)
    return stream.getvalue()
