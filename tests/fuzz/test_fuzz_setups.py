"""Setups made at random: each is accepted, or refused with a message; what is accepted can be computed."""

import random
from pathlib import Path
from typing import Any

import fuzz_generator as generator
import pytest
from fuzz_harness import SEED, Failures, byzray, calls, scaled

from byzray import simulate
from byzray.data import load_data
from byzray.datasets import Digits, MissingData, Npz
from byzray.mistakes import SetupError
from byzray.models import MLP
from byzray.setups import Setup, load_setup
from byzray.splits import Sharded


def shown(place: Path, content: bytes, kind: str, failures: Failures, named: str = "") -> int | None:
    """The exit code of `byzray show` for such a file, which is reported if it is not as it should be."""
    (place / "setup.yaml").write_bytes(content)
    outcome = byzray("show", "setup.yaml", count=kind)
    failures.check(outcome.problem(named=named), repr(content[:1500]))
    return outcome.code


def test_valid_setups(place: Path) -> None:
    rng, failures = random.Random(f"valid {SEED}"), Failures("valid setups")
    for _ in range(scaled(100, 3000)):
        content = generator.text_of(generator.valid_setup(rng))
        code = shown(place, content, failures.kind, failures)
        expected = 0 if fits_its_data(load_setup("setup.yaml")) else 2
        if code != expected:
            failures.check(f"expected exit code {expected}, got {code}", repr(content))
    failures.tell()


def fits_its_data(setup: Setup) -> bool:
    """Whether a valid setup's model and split fit its data, as far as they are there."""
    if not needs_its_data(setup):
        return True
    try:
        load_data(setup)
    except MissingData:
        return True
    except SetupError:
        return False
    return True


def needs_its_data(setup: Setup) -> bool:
    """Whether it is known only when the data are read that model and split fit: of an archive, and of draws that may
    leave a worker without examples."""
    return isinstance(setup.dataset, Npz) or isinstance(setup.split, Sharded)


def test_setups_with_mistakes(place: Path) -> None:
    rng, failures = random.Random(f"mistakes {SEED}"), Failures("setups with mistakes")
    for _ in range(scaled(100, 4000)):
        content = generator.with_mistakes(generator.valid_setup(rng), rng)
        shown(place, generator.text_of(content), failures.kind, failures, "setup.yaml")
    failures.tell()


def test_setups_that_are_no_yaml(place: Path) -> None:
    rng, failures = random.Random(f"junk {SEED}"), Failures("setups with junk in the YAML")
    for _ in range(scaled(60, 2000)):
        shown(place, generator.junk_text(generator.valid_setup(rng), rng), failures.kind, failures, "setup.yaml")
    failures.tell()


@pytest.mark.parametrize("snippet", generator.SNIPPETS, ids=range(len(generator.SNIPPETS)))
def test_snippets(snippet: bytes, place: Path) -> None:
    failures = Failures("each snippet of odd YAML")
    shown(place, snippet, failures.kind, failures, "setup.yaml")
    failures.tell()


def test_no_default_for_a_misspelt_key(place: Path) -> None:
    """Wherever a key of a valid setup is misspelt, the setup is refused, and the message names the key."""
    rng, failures = random.Random(f"keys {SEED}"), Failures("misspelt keys")
    wanted = scaled(60, 1000)
    made = 0
    while made < wanted:
        content = generator.valid_setup(rng)
        if rng.random() < 0.5:
            content = Setup.model_validate(content).describe()
        for slip, changed in generator.misspelt_keys(content, rng):
            text = generator.text_of(changed)
            if shown(place, text, failures.kind, failures, slip) == 0:
                failures.check(f"accepted in spite of {slip!r}", repr(text))
            made += 1
    failures.tell()


def is_small(setup: Setup) -> bool:
    """Whether a step takes little time."""
    model = setup.model
    return (
        isinstance(setup.dataset, Digits | Npz)
        and (not isinstance(model, MLP) or sum(model.hidden) < 100)
        and setup.workers <= 24
        and setup.batch_size <= 32
        and setup.local_steps <= 4
        and setup.device != "cuda"
    )


def numbers_at_their_ends(content: generator.Content, rng: random.Random) -> generator.Content:
    """The setup with a number that is as large or as small as it may be, if that leaves it valid."""
    ends = [10**9, 2**31 - 1, 2**53, 2**63 - 1, 1e-320, 1e-30, 1e30, 1e308, 0, 1]
    paths = [path for path in generator.levels(content) if isinstance(generator.at(content, path), int | float)]
    if paths:
        path = rng.choice(paths)
        changed: Any = Setup.model_validate(content).describe()
        try:
            generator.at(changed, path[:-1])[path[-1]] = rng.choice(ends)
        except (LookupError, TypeError):
            return content
        if generator.is_valid(changed):
            return changed
    return content


def test_accepted_means_runnable(place: Path) -> None:
    """What `show` accepts runs for two steps without an exception, if it is small."""
    rng, failures = random.Random(f"runs {SEED}"), Failures("runs of accepted setups")
    wanted = scaled(40, 600)
    made = 0
    while made < wanted:
        content = generator.valid_setup(rng)
        if rng.random() < 0.4:
            content = numbers_at_their_ends(content, rng)
        (place / "setup.yaml").write_bytes(generator.text_of(content))
        setup = load_setup("setup.yaml")
        if is_small(setup):
            short = setup.changed(steps=min(setup.steps, 2))
            refusals = (SetupError,) if needs_its_data(setup) else ()
            problem = calls(lambda short=short: simulate(short), failures.kind, refusals)
            failures.check(problem, repr(content))
            made += 1
    failures.tell()
