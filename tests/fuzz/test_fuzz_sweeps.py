"""Sweep files made at random, and what is wrong with them: each is planned, or refused with a message."""

import copy
import random
from pathlib import Path
from typing import Any

import fuzz_generator as generator
import pytest
from fuzz_harness import SEED, Failures, byzray, scaled

BASE: generator.Content = {
    "steps": 20,
    "workers": 11,
    "byzantine": 2,
    "attack": "empire",
    "aggregator": "multi-krum",
    "model": "mlp",
}

AXES: dict[str, list[Any]] = {
    "aggregator": ["multi-krum", "median", {"name": "multi-krum", "m": 1}],
    "momentum.placement": ["update", "server", "worker"],
    "momentum.beta": [0.0, 0.9],
    "learning_rate.initial": [0.1, 1],
    "model.hidden": [[4], [8, 8]],
    "attack.factor": [1.1, 2.0],
    "study": ["on", "off"],
    "study.past": [1, 5],
    "batch_size": [2, 4],
    "l2": [0.0, 1e-4],
}

RANGES: dict[str, generator.Content] = {
    "learning_rate.initial": {"loguniform": [0.01, 1.0]},
    "momentum.beta": {"uniform": [0.0, 0.9]},
    "batch_size": {"integer": [2, 8]},
    "momentum.placement": {"choice": ["update", "worker"]},
}

CONDITIONS = ["n >= 2*f + 1", "aggregator != 'bulyan'", "f == 2 and not nesterov", "placement in ['update', 'worker']"]


def valid_sweep(rng: random.Random) -> generator.Content:
    """The content of a sweep file without mistakes."""
    axes = rng.sample(list(AXES), rng.randint(0, 3))
    axes = [key for key in axes if not (key == "study" and "study.past" in axes)]
    content: generator.Content = {"base": copy.deepcopy(BASE), "axes": {key: AXES[key] for key in axes}}
    if rng.random() < 0.5:
        content["together"] = [{"clip": [None, 5], "evaluation_interval": [5, 10]}]
    if rng.random() < 0.5:
        content["seeds"] = rng.choice(["1-3", "1,4", [2, 3], 5])
    if rng.random() < 0.3:
        content["reference"] = rng.random() < 0.5
    if rng.random() < 0.3:
        content["early_stopping"] = {"grace_steps": 5, "reduction_factor": 3}
    free = [key for key in RANGES if key not in axes]
    if rng.random() < 0.5 and free:
        over = {key: RANGES[key] for key in rng.sample(free, 1)}
        content["sample"] = {"count": rng.randint(1, 4), "over": over}
        if rng.random() < 0.3:
            content["sample"]["search"] = "optuna"
            content["axes"] = {}
            content.pop("together", None)
    if rng.random() < 0.5 and content.get("sample", {}).get("search") != "optuna":
        content["conditions"] = rng.sample(CONDITIONS, rng.randint(1, 2))
    return copy.deepcopy(content)


def planned(place: Path, content: bytes, kind: str, failures: Failures, named: str = "") -> int | None:
    """The exit code of `byzray sweep --plan` for such a file, which is reported if it is not as it should be."""
    (place / "own.yaml").write_bytes(content)
    outcome = byzray("sweep", "own.yaml", "--plan", "--output", "out", count=kind)
    failures.check(outcome.problem(named=named), repr(content[:1500]))
    return outcome.code


def test_valid_sweeps(place: Path) -> None:
    rng, failures = random.Random(f"sweeps {SEED}"), Failures("valid sweeps")
    for _ in range(scaled(20, 500)):
        content = generator.text_of(valid_sweep(rng))
        if planned(place, content, failures.kind, failures) != 0:
            failures.check("is valid, but was refused", content.decode())
    failures.tell()


def test_sweeps_with_mistakes(place: Path) -> None:
    rng, failures = random.Random(f"wrong sweeps {SEED}"), Failures("sweeps with mistakes")
    for _ in range(scaled(40, 1200)):
        content = generator.with_mistakes(valid_sweep(rng), rng)
        text = generator.text_of(content) if rng.random() < 0.7 else generator.junk_text(content, rng)
        planned(place, text, failures.kind, failures, "own.yaml")
    failures.tell()


def test_no_default_for_a_misspelt_key(place: Path) -> None:
    """Dotted keys of axes and ranges included."""
    rng, failures = random.Random(f"sweep keys {SEED}"), Failures("misspelt keys of sweeps")
    wanted = scaled(30, 500)
    made = 0
    while made < wanted:
        for slip, changed in generator.misspelt_keys(valid_sweep(rng), rng):
            text = generator.text_of(changed)
            if planned(place, text, failures.kind, failures, slip) == 0:
                failures.check(f"accepted in spite of {slip!r}", repr(text))
            made += 1
    failures.tell()


def axis(number: int) -> str:
    return ", ".join(str(one) for one in range(1, number + 1))


# Sweeps that ask for more than anybody computes, and expressions that do.
EXCESSIVE: dict[str, str] = {
    "seeds": "seeds: 1-1000000000",
    "runs": "{axes: {l2: [" + ", ".join(["0", "0.1", "0.2", "0.3"]) + "]}, seeds: 1-9000}",
    "seeds of many digits": f"seeds: {'9' * 5000}",
    "seed of many digits": f"seeds: 1-{'9' * 30}",
    "odd digits": "seeds: ²-³",
    "axes": "axes: {" + ", ".join(f"{key}: [{axis(100)}]" for key in ("steps", "batch_size", "workers", "l2")) + "}",
    "no values": "axes: {" + ", ".join(f"{key}: [{axis(100)}]" for key in ("steps", "batch_size", "seed", "l2")) + "}",
    "draws": "sample: {count: 1000000000, over: {l2: {uniform: [0, 1]}}}",
    "optuna": "sample: {count: 1, search: optuna, over: {l2: {uniform: [5, 6]}, steps: {choice: [x]}}}",
    "wide range": "sample: {count: 2, over: {l2: {uniform: [-1e308, 1e308]}}}",
    "wide integers": "sample: {count: 2, over: {batch_size: {integer: [1, 9223372036854775807]}}}",
    "least range": "sample: {count: 2, over: {l2: {loguniform: [1e-320, 1e308]}}}",
    "itself": "base: own.yaml",
    "folder": "base: .",
    "no file": "base: nowhere.yaml",
    "NUL": 'base: "a\\0b"',
    "long": f"base: {'x' * 5000}",
    "home": "base: ~nobody_of_that_name/x.yaml",
}

# Expressions that ask for too much, and other odd ones.
EXPRESSIONS: dict[str, str] = {
    "power": "9**9**9 > 1",
    "powers": "(3999999**3999999) > 1",
    "negative power": "0 ** -1 == 1",
    "complex power": "(0 - 1) ** 0.5 > 1",
    "factors": "3999999**99999 * 3999999**99999 > n",
    "text": "'%999999999d' % n == 1",
    "texts": "'%*d' % (999999999, n) == 1",
    "shift": "1 << 9999999 > n",
    "repeated": "[1] * 99999999 == 1",
    "nested": "(" * 1000 + "n" + ")" * 1000 + " == 1",
    "minus": "-" * 3000 + "n == 1",
    "nots": "not " * 3000 + "n",
    "sum": " + ".join(["n"] * 5000) + " == 1",
    "comprehension": "[x for x in [y for y in [1]*9999 for z in [1]*9999]] == 1",
    "starred": "[*n] == 1",
    "lambda": "(lambda: 1)() == 1",
    "attribute": "n.real == 1",
    "misspelt attribute": "momentum.bta == 1",
    "dunder": "n.__class__ == 1",
    "function": "open(1) == 1",
    "method": "'a'.ljust(999999999) == 1",
    "format": "f'{n:999999999}' == 1",
    "format method": "'{0:999999999}'.format(n) == 1",
    "control": "\x01",
    "empty": "",
    "slice": "'abc'[::0] == 1",
    "index": "'abc'[9] == 1",
    "hash": "{[]: 1} == 1",
    "surrogate": "'\\ud800'",
    "walrus": "(n := 3) == 3",
    "digits": "n == " + "9" * 5000,
    "huge digits": "2**200000",
    "misspelt and not looked at": "n == 11 or nestrov",
    "not true or false": "n",
}


@pytest.mark.parametrize("content", EXCESSIVE.values(), ids=EXCESSIVE)
def test_excess(content: str, place: Path) -> None:
    failures = Failures("sweeps that ask for too much")
    code = planned(place, f"{content}\n".encode(), failures.kind, failures, "own")
    # These are odd, but right.
    right = {EXCESSIVE[name] for name in ("least range", "wide integers")}
    if content not in right and code == 0:
        failures.check("was accepted", content)
    failures.tell()


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_expressions(expression: str, place: Path) -> None:
    """In a file and on the command line."""
    failures = Failures("odd expressions")
    if planned(place, generator.text_of({"conditions": [expression]}), failures.kind, failures, "own.yaml") == 0:
        failures.check("was accepted", expression)
    (place / "own.yaml").write_text("{}")
    arguments = ["sweep", "own.yaml", "--plan", "--output", "out", "--only", expression]
    failures.check(byzray(*arguments, count=failures.kind).problem((2,)), repr(expression))
    failures.tell()
