"""Setups and sweeps made at random, valid ones and wrong ones.

What a setup may hold is read off the pydantic models and the registries, so that new fields and options are met by
themselves.
"""

import copy
import io
import math
import random
import re
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from byzray.options import Options
from byzray.setups import REGISTRIES, Setup
from byzray.yaml import write_yaml

Content = dict[str, Any]

# Texts that stand for something elsewhere.
TEXTS = {"path": ["small.npz", "./small.npz"], "architecture": ["squeezenet1_0", "resnet18"]}

# Their workers and steps are written in several forms, which the types do not tell.
FAULTS: list[Content] = [
    {"missing": missing, "events": [{"kind": kind, "workers": workers, "steps": steps}]}
    for missing in ("recover", "zero", "drop")
    for kind in ("crash", "hang", "silent")
    for workers, steps in ((0, 0), ([0, 1], "0-1"), (0, [0, 1]))
]

# Fields that are right or wrong together.
TOGETHER = (("byzantine", "attack", "workers"), ("byzantine", "tolerated", "aggregator", "attack"))
ABOUT_DATA = ("dataset", "model", "loss")


def value_of(annotation: Any, metadata: list[Any], name: str, rng: random.Random) -> Any:
    """A value, likely a valid one, for something annotated like this."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return value_of(arguments[0], [*metadata, *arguments[1:]], name, rng)
    if origin in (Union, types.UnionType):
        return value_of(rng.choice(arguments), metadata, name, rng)
    if origin is Literal:
        return rng.choice(arguments)
    if origin in (list, tuple):
        inner = next(one for one in arguments if one is not Ellipsis)
        return [value_of(inner, [], name, rng) for _ in range(rng.randint(0, 3))]
    if origin is dict:
        return {value_of(arguments[0], [], name, rng): value_of(arguments[1], [], name, rng) for _ in range(2)}
    if annotation is type(None):
        return None
    if annotation is bool:
        return rng.random() < 0.5
    if annotation in (int, float):
        return _number(annotation, metadata, rng)
    if annotation is str:
        return rng.choice(TEXTS.get(name, ["x"]))
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return _option(annotation, rng)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _section(annotation, rng)
    return {}


def _number(kind: type[int] | type[float], metadata: list[Any], rng: random.Random) -> int | float:
    low, high = -math.inf, math.inf
    for one in _flat(metadata):
        low = max(low, getattr(one, "ge", -math.inf), getattr(one, "gt", -math.inf))
        high = min(high, getattr(one, "le", math.inf), getattr(one, "lt", math.inf))
    start = low if math.isfinite(low) else -3
    if kind is int:
        return int(start) + rng.choice([0, 1, 1, 2, 3, 5, 11, 16])
    reach = high - start if math.isfinite(high) else rng.choice([0.1, 1.0, 30.0])
    return rng.choice([start + reach * rng.random(), start + reach / 2, start, float(f"{rng.random():.1e}"), 1])


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _flat(one.metadata)
        elif isinstance(one, annotated_types.GroupedMetadata):
            yield from one
        else:
            yield one


def _option(base: type[Options], rng: random.Random) -> Any:
    registry = next(one for one in REGISTRIES.values() if issubclass(base, one.base))
    name = rng.choice([one for one in registry.classes if one != "file"])  # a partition fits one data set alone
    options = _section(registry.classes[name], rng)
    return name if not options and rng.random() < 0.5 else {"name": name, **options}


def _section(model: type[BaseModel], rng: random.Random) -> Content:
    return {
        name: value_of(one.annotation, one.metadata, name, rng)
        for name, one in model.model_fields.items()
        if one.is_required() or rng.random() < 0.4
    }


def field_value(name: str, rng: random.Random) -> Any:
    """A value, likely a valid one, of a field of a setup."""
    short: dict[str, list[Any]] = {
        "learning_rate": [0.1, 1, {"schedule": {0: 0.5, 3: 0.25}}],
        "study": ["on", "off", True, False, None],
        "attack": ["none", None],
        "actors": ["none", None],
        "faults": FAULTS,
    }
    if name in short and rng.random() < (0.9 if name == "faults" else 0.3):
        return rng.choice(short[name])
    one = Setup.model_fields[name]
    return value_of(one.annotation, one.metadata, name, rng)


def is_valid(content: Content) -> bool:
    """Whether it is a setup."""
    try:
        Setup.model_validate(content)
    except ValidationError:
        return False
    return True


def valid_setup(rng: random.Random) -> Content:
    """The content of a setup file without mistakes: fields are changed at random as long as it stays valid."""
    content: Content = {}
    names = list(Setup.model_fields)
    for _ in range(rng.randint(1, 30)):
        kind = rng.random()
        chosen = rng.choice(TOGETHER) if kind < 0.3 else ABOUT_DATA if kind < 0.5 else (rng.choice(names),)
        changed = {**content, **{name: field_value(name, rng) for name in chosen}}
        if is_valid(changed):
            content = changed
    return content


def levels(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything within, the root's included."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from levels(value, (*path, key))


def at(content: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for part in path:
        content = content[part]
    return content


def misspelt(key: str, rng: random.Random) -> str:
    """The key with a slip of the pen that makes another word of it."""
    while True:
        place = rng.randrange(len(key))
        slip = rng.choice(
            [
                key[:place] + key[place + 1 :],
                key[: place + 1] + key[place:],
                key[:place] + rng.choice("abcxyz_") + key[place + 1 :],
                key[:place] + key[place:].swapcase(),
                key.replace("_", "-"),
                key + "s",
                key + " ",
            ]
        )
        if slip and slip != key:
            return slip


def misspelt_keys(content: Content, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """For each key of each mapping, the misspelt key and the content with it."""
    for path in levels(content):
        mapping = at(content, path)
        for key in mapping if isinstance(mapping, dict) else ():
            slip = misspelt(key, rng) if isinstance(key, str) else None
            if slip is None or slip in mapping:
                continue
            changed = copy.deepcopy(content)
            inner = at(changed, path)
            # In the same place among the others.
            renamed = {slip if one == key else one: value for one, value in inner.items()}
            inner.clear()
            inner.update(renamed)
            yield slip, changed


JUNK: list[Any] = [
    None,
    True,
    False,
    "",
    " ",
    "x",
    "on",
    "off",
    "none",
    "1",
    "Δ∇ñ漢字🜂",
    "a" * 20000,
    "\x00",
    "\x1b[31mred",
    "\ud800",
    "[/red]{0}%s",
    ":",
    "a:",
    ":b",
    "..:x",
    "os:path",
    "os:path.join",
    "~nobody_of_that_name/x.npz",
    "/" * 5000,
    "x" * 300 + "/y.npz",
    "a\nb",
    -1,
    0,
    1,
    2,
    -(2**63),
    2**31,
    2**32,
    2**63,
    2**64,
    10**18,
    10**400,
    10**4000,
    -0.0,
    0.5,
    1e-320,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    [],
    {},
    [[]],
    [None],
    {"": 0},
    {"name": None},
    {"name": ""},
    {"name": "median", "name ": 1},
    {None: 1},
    {1: {2: 3}},
    {1.5: 1, True: 2},
    b"\x00\xff",
    {"schedule": {0: 1, 10**30: 2}},
    {"schedule": {"0": 1}},
    [1] * 3000,
    {f"k{i}": i for i in range(1500)},
    {"name": "random-mixture", "rules": [{"rule": "median", "frequency": 1e308}] * 9},
]


def junk(rng: random.Random) -> Any:
    """Something that is rarely right."""
    if rng.random() < 0.85:
        return copy.deepcopy(rng.choice(JUNK))
    nested: Any = rng.choice(JUNK)
    for _ in range(rng.choice([1, 3, 30, 150])):
        nested = [nested] if rng.random() < 0.5 else {rng.choice(["name", "a", "rule"]): nested}
    return nested


def with_mistakes(content: Content, rng: random.Random) -> Content:
    """The content with one mistake or several."""
    content = copy.deepcopy(content)
    mistakes: list[Callable[[Content], None]] = [
        lambda inner: _replace(inner, junk(rng), rng),
        lambda inner: _replace(inner, junk(rng), rng),
        lambda inner: _add(inner, rng),
        lambda inner: _rename(inner, rng),
        lambda inner: _drop(inner, rng),
        lambda inner: _replace(inner, rng.choice([[], {}, None]), rng),
    ]
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        mappings = [found for path in levels(content) if isinstance(found := at(content, path), dict)]
        rng.choice(mistakes)(rng.choice(mappings))
    return content


def _replace(mapping: Content, value: Any, rng: random.Random) -> None:
    mapping[rng.choice([*mapping, *Setup.model_fields])] = value


def _add(mapping: Content, rng: random.Random) -> None:
    mapping[rng.choice(["", "zzz", "step", "name", 3, None, True, 0.5, "a.b", "é", "x" * 3000, "\ud800"])] = junk(rng)


def _rename(mapping: Content, rng: random.Random) -> None:
    texts = [key for key in mapping if isinstance(key, str) and key]
    if texts:
        key = rng.choice(texts)
        mapping[misspelt(key, rng)] = mapping.pop(key)


def _drop(mapping: Content, rng: random.Random) -> None:
    if mapping:
        del mapping[rng.choice(list(mapping))]


def bomb(levels: int, width: int, merge: bool = False) -> str:
    """Aliases of aliases: few lines that stand for `width` to the power of `levels` values."""
    lines = ["a0: &a0 {steps: 1}" if merge else "a0: &a0 [1]"]
    for level in range(levels):
        inner = ", ".join([f"*a{level}"] * width)
        lines.append(f"a{level + 1}: &a{level + 1} " + (f"{{<<: [{inner}]}}" if merge else f"[{inner}]"))
    return "\n".join(lines) + "\n"


# What YAML knows and a setup has no use for, or what only looks like YAML.
SNIPPETS: list[bytes] = [
    b"steps: 1\nsteps: 2\n",
    b"momentum: {beta: 0.5, beta: 0.6}\n",
    b"? [a, b]\n: 1\n",
    b"? {a: b}\n: 1\n",
    b"workers: !!int '7'\n",
    b"workers: !!float 7\n",
    b"workers: !!python/object/apply:os.system ['true']\n",
    b"workers: !!binary aGVsbG8=\n",
    b"aggregator: !!set {median}\n",
    b"model: !!omap [name: mlp]\n",
    b"model: !!pairs [name: mlp]\n",
    b"model: !own {name: mlp}\n",
    b"steps: 2001-01-01\n",
    b"steps: 2001-01-01 25:61:61\n",
    b"steps: 1e400\n",
    b"steps: " + b"9" * 5000 + b"\n",
    b"steps: " + b"9" * 4000 + b"\n",
    b"seed: 0x" + b"f" * 5000 + b"\n",
    b"steps: 0o7777777777777777777777777777\n",
    b"l2: .nan\n",
    b"l2: -.INF\n",
    b"l2: 1_000\n",
    b"base: &b {beta: 0.5}\nmomentum: *b\n",
    b"momentum: &m {beta: 0.5}\nstudy: {<<: *m}\n",
    b"momentum: &m {self: *m}\n",
    b"aggregator: &a [*a]\n",
    b"steps: *nowhere\n",
    b"<<: {steps: 3}\n",
    b"<<: [1]\n",
    b"%YAML 1.1\n---\nsteps: 1:30\nl2: 1:30.5\n",
    b"%YAML 3.7\n---\nsteps: 1\n",
    b"%TAG ! tag:x,2000:\n---\nsteps: !x 1\n",
    b"---\nsteps: 1\n---\nsteps: 2\n",
    b"...\n",
    b"\tsteps: 1\n",
    b"momentum:\n\tbeta: 0.5\n",
    b"momentum:\r\n  beta: 0.5\r\n",
    b"steps: 1\rworkers: 7\r",
    b"\xef\xbb\xbfsteps: 1\n",
    "steps: 1\n".encode("utf-16"),
    "steps: 1\n".encode("utf-32"),
    b"steps: \xff\xfe\n",
    b"steps: 1\x00\n",
    b"steps: \x1b[31m\n",
    b'aggregator: "\\ud800"\n',
    b'"\\ud800": 1\n',
    b'"\\0": 1\n',
    b'"steps\\n": 1\n',
    "stéps: 1\n".encode("latin-1"),
    "ste\u0301ps: 1\n".encode(),
    "\u202esteps: 1\n".encode(),
    b"steps" + b" " * 9000 + b": 1\n",
    b"x" * 1500 + b": 1\n",
    b'"' + b"x" * 50000 + b'": 1\n',
    b"'unclosed\n",
    b'"unclosed\n',
    b"aggregator: |\n  median\n",
    b"aggregator: >-\n  median\n",
    b"- steps\n- 1\n",
    b"null\n",
    b"1\n",
    b"",
    b"\n" * 5000,
    b"# comment\n" * 2000,
    b"[" * 400,
    b"{a: " * 400,
    b"[" * 100_000,
    b"- " * 3000 + b"1",
    b"? " * 3000,
    b"a: " + b"[" * 300 + b"]" * 300 + b"\n",
    b"momentum: {beta: " * 60 + b"1" + b"}" * 60 + b"\n",
    b"model: {name: mlp, hidden: [" + b"1," * 20000 + b"]}\n",
    b"".join(b"k%d: %d\n" % (i, i) for i in range(4000)),
    b"x: [" + b"1," * 500_000 + b"]\n",
    bomb(3, 4).encode(),
    bomb(9, 9).encode(),
    b"aggregator: {name: median, x: 1}\n" + bomb(30, 10).encode(),
    bomb(4, 4, merge=True).encode(),
    bomb(9, 9, merge=True).encode(),
    b"model: " + b"".join(b"&n%d [*n%d, " % (i, i) for i in range(50)) + b"]" * 50,
    bomb(6, 6).encode() + b"learning_rate: {schedule: *a6}\naggregator: *a6\nmodel: {name: mlp, hidden: *a6}\n",
]


def text_of(content: Any) -> bytes:
    """The content as a file holds it; lone surrogates, which UTF-8 cannot hold, as escapes."""
    return write_yaml(content).encode("utf-8", "backslashreplace")


def junk_text(content: Content, rng: random.Random) -> bytes:
    """A setup file with something in it that is no proper YAML, or more YAML than anyone asked for."""
    text, snippet = text_of(content), rng.choice(SNIPPETS)
    lines = text.splitlines(keepends=True)
    kind = rng.randrange(5)
    if kind == 0:
        return snippet
    if kind == 1:
        place = rng.randrange(len(lines) + 1)
        return b"".join([*lines[:place], snippet, *lines[place:]])
    if kind == 2:
        return text + snippet
    if kind == 3:
        return mutated(text, rng)
    return mutated(text + snippet, rng)


NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"9",
    b"65536",
    b"4294967295",
    b"99999999999999999999",
    b"1e999",
    b"NaN",
    b"-0.5",
    b"9" * 400,
]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changes anywhere, often near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(len(changed) + 1)
        if rng.random() < 0.3:
            place = min(place, rng.randrange(128))
        size = min(rng.choice([1, 2, 8, 64, 1000]), len(changed) - place)
        kind = rng.randrange(12)
        if kind <= 2 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind <= 4 and place < len(changed):
            changed[place] = rng.choice([rng.randrange(256), rng.randrange(32, 127)])
        elif kind <= 6 and (numbers := list(re.finditer(rb"-?\d+(\.\d+)?", changed[:10_000]))):
            start, end = rng.choice(numbers).span()
            changed[start:end] = rng.choice(NUMBERS)
        elif kind == 7:
            del changed[place:]
        elif kind == 8:
            changed[place:place] = rng.randbytes(rng.choice([1, 4, 100]))
        elif kind == 9:
            del changed[place : place + size]
        elif kind == 10:
            other = rng.randrange(len(changed) + 1)
            changed[other:other] = changed[place : place + size]
        else:
            changed[place : place + size] = rng.choice([b"\x00", b"\xff", b"9", b"-"]) * size
    return bytes(changed)


def mutated_archive(content: bytes, rng: random.Random) -> bytes:
    """A zip archive with a change in one of its files, its sums in order: no checksum stops what reads it."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as known, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        chosen = rng.choice(known.namelist())
        for name in known.namelist():
            archive.writestr(name, mutated(known.read(name), rng) if name == chosen else known.read(name))
    return written.getvalue()
