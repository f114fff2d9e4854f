"""YAML 1.2, in which 1e-8 is a number and `no` is a word, unlike in the YAML 1.1 of most loaders."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


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
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: the text is not YAML, or a mapping holds a key twice.
    """
    try:
        return _yaml().load(text)
    except YAMLError as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def write_yaml(value: Any) -> str:
    """`value` as YAML, keys in their order."""
    stream = io.StringIO()
    _yaml().dump(value, stream)
    return stream.getvalue()
