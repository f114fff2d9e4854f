"""YAML 1.2, in which 1e-8 is a number and `no` is a word, unlike in the YAML 1.1 of most loaders."""

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import CollectionNode, Node, ScalarNode
from ruamel.yaml.scanner import Scanner

# In characters, of a text. The parser, which is written in Python, takes seconds for more.
LARGEST_TEXT = 100_000

# How many values a text may stand for: a few lines of aliases of aliases can stand for billions.
MOST_VALUES = 50_000

# How deep brackets may be nested; the scanner checks all open ones at each word.
DEEPEST = 50

INTEGER_BITS = 63  # without the sign; nothing here computes with larger ones


class _Scanner(Scanner):
    """Refuses brackets nested deeper than anybody means."""

    def fetch_flow_collection_start(self, token: Any, to_push: str) -> None:
        if len(self.flow_context) >= DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(token, to_push)


class _Constructor(SafeConstructor):
    """Refuses texts that stand for more than anybody means, and what cannot be printed or computed with."""

    def construct_document(self, node: Node) -> Any:
        sizes: dict[int, int] = {}
        _measure(node, sizes)
        return super().construct_document(node)

    def construct_scalar(self, node: ScalarNode) -> Any:
        if isinstance(node.value, str) and re.search("[\ud800-\udfff]", node.value):
            raise ConstructorError(problem="found half a surrogate pair", problem_mark=node.start_mark)
        return super().construct_scalar(node)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >> INTEGER_BITS:
            raise ConstructorError(problem="found an integer of more than 64 bits", problem_mark=node.start_mark)
        return value


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)


def _measure(node: Node, sizes: dict[int, int]) -> int:
    """How many values a node stands for, aliases followed; `sizes` holds what is known, 0 for those under way.

    Raises:
        ConstructorError: there are too many, or it contains itself.
    """
    known = sizes.get(id(node))
    if known == 0:
        raise ConstructorError(problem="found an alias of what it stands in", problem_mark=node.start_mark)
    if known is None:
        sizes[id(node)] = 0
        parts = node.value if isinstance(node, CollectionNode) else ()
        # The parts of a mapping are pairs of nodes.
        inner = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
        known = sizes[id(node)] = 1 + sum(_measure(one, sizes) for one in inner)
    if known > MOST_VALUES:
        raise ConstructorError(problem=f"found more than {MOST_VALUES} values", problem_mark=node.start_mark)
    return known


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _Scanner
    yaml.Constructor = _Constructor
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
        with path.open("rb") as file:  # no more than is needed to see that it is too much
            return parse_yaml(file.read(4 * LARGEST_TEXT + 1).decode("utf-8"))
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read as UTF-8: {error.reason} at byte {error.start}") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: the text is not YAML, is too long, or a mapping holds a key twice.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"is too long, expected at most {LARGEST_TEXT} characters")
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
