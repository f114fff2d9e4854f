"""Whatever a user gets wrong: exit code 2 and one message that names the place, the value and what was expected."""

import contextlib
import io
import json
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from byzray import commands
from byzray.mistakes import SetupError
from byzray.setups import Setup, load_setup
from byzray.yaml import write_yaml

Call = Callable[..., str]

TINY = "{steps: 2, workers: 5, evaluation_interval: 0, model: {name: mlp, hidden: [4]}, aggregator: average}"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `byzray` in `tmp_path`, expects exit code 2 and no traceback; returns the message on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYZRAY_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["byzray", *arguments])
        with pytest.raises(SystemExit) as stop:
            commands.main()
        shown = capsys.readouterr()
        assert stop.value.code == 2, shown.err
        assert "Traceback" not in shown.out + shown.err
        assert shown.out == ""
        return " ".join(re.sub("[╭╮╰╯─│]", " ", shown.err).split())

    return call


def only_mistake(message: str) -> str:
    """The text of the single mistake in a setup."""
    head, _, text = message.partition("setup.yaml: 1 mistake in the setup ")
    assert head == "byzray: ", message
    return text


# The content of a setup file, and the whole message that it gets. Of long lists the beginning is enough.
SETUPS: dict[str, tuple[str | bytes, str]] = {
    "empty list": ("[]", "got [], expected a mapping of fields such as 'dataset: mnist'"),
    "scalar": ("mnist", "got 'mnist', expected a mapping of fields"),
    "not yaml": ("a: [1", "is not valid YAML: line 1, column 6: while parsing a flow sequence expected ',' or ']'"),
    "tab": ("momentum:\n\tbeta: 1", "is not valid YAML: line 2, column 1: .* found character '\\t' that cannot start"),
    "binary": (b"\x80\x81", "cannot be read as UTF-8: invalid start byte at byte 0"),
    "two documents": ("--- {}\n--- {}", "is not valid YAML: line 2, column 1: expected a single document"),
    "tag": ("steps: !!python/name:os.x", "is not valid YAML: line 1, column 8: could not determine a constructor"),
    "impossible date": ("steps: 2001-99-99", "is not valid YAML: month must be in 1..12"),
    "impossible boolean": ("steps: !!bool x", "is not valid YAML: 'x'"),
    "too many digits": (f"steps: {'9' * 5000}", "is not valid YAML: Exceeds the limit"),
    "too many bits": (f"steps: {2**63}", "is not valid YAML: line 1, column 8: found an integer of more than 64 bits"),
    "too many bits in hexadecimal": (f"seed: 0x{'f' * 5000}", "is not valid YAML: line 1, column 7: found an integer"),
    "half a surrogate pair": ('device: "\\ud800"', "is not valid YAML: line 1, column 9: found half a surrogate pair"),
    "aliases of aliases": (
        "a: &a [1, 1, 1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghij")),
        "is not valid YAML: line 8, column 4: found more than 50000 values",
    ),
    "merged aliases of aliases": (
        "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}, *{a}]}}\n" for a, b in pairwise("abcdefghij")),
        "is not valid YAML: line 8, column 12: found more than 50000 values",
    ),
    "alias of itself": (
        "study: &a {past: *a}",
        "is not valid YAML: line 1, column 8: found an alias of what it stands",
    ),
    "long text": ("# " + "x" * 100_000, "is too long, expected at most 100000 characters"),
    "key twice": ("steps: 1\nsteps: 2", 'is not valid YAML: line 2, column 1: .* found duplicate key "steps"'),
    "deep list": ("[" * 3000, "is nested too deeply"),
    "deep mapping": ("{a: " * 3000, "is nested too deeply"),
    "near key": ("step: 3", "step: unknown key, did you mean 'steps'?"),
    "far key": ("zzz: 3", "zzz: unknown key, expected one of dataset, model, loss,"),
    "numeric key": ("1000: 3", "1000: unknown key, expected one of dataset, model, loss,"),
    "key in section": ("momentum: {placment: worker}", "momentum.placment: unknown key, did you mean 'placement'?"),
    "integer from text": ("steps: '3'", "steps: got '3', expected an integer"),
    "integer from float": ("batch_size: 1.5", "batch_size: got 1.5, expected an integer"),
    "integer from boolean": ("workers: true", "workers: got True, expected an integer"),
    "integer from null": ("seed: null", "seed: got None, expected an integer"),
    "integer from date": ("steps: 2001-01-01", "steps: got datetime.date(2001, 1, 1), expected an integer"),
    "integer from list": ("steps: [[1]]", "steps: got [[1]], expected an integer"),
    "number from text": ("l1: much", "l1: got 'much', expected a number"),
    "number or null from text": ("clip: none", "clip: got 'none', expected a number"),
    "boolean from word": ("momentum: {nesterov: yes}", "momentum.nesterov: got 'yes', expected true or false"),
    "word": ("device: gpu", "device: got 'gpu', expected 'auto', 'cpu' or 'cuda'"),
    "nested word": ("momentum: {placement: x}", "momentum.placement: got 'x', expected 'worker', 'server' or 'update'"),
    "section from number": ("momentum: 0.9", "momentum: got 0.9, expected a mapping with name, beta, dampening,"),
    "actors from number": ("actors: 3", "actors: got 3, expected a mapping with workers_per_actor,"),
    "study from word": ("study: yes", "study: got 'yes', expected on, off, or a mapping with 'past'"),
    "study from number": ("study: 1", "study: got 1, expected on, off, or a mapping with 'past'"),
    "negative steps": ("steps: -1", "steps: got -1, expected a number >= 0"),
    "negative seed": ("seed: -1", "seed: got -1, expected a number >= 0"),
    "no batch": ("batch_size: 0", "batch_size: got 0, expected a number > 0"),
    "no workers": ("workers: 0", "workers: got 0, expected a number > 0"),
    "no local steps": ("local_steps: 0", "local_steps: got 0, expected a number > 0"),
    "negative factor": ("l2: -1e-8", "l2: got -1e-08, expected a number >= 0"),
    "no clip": ("clip: 0", "clip: got 0, expected a number > 0"),
    "too much momentum": ("momentum: {beta: 1}", "momentum.beta: got 1, expected a number < 1"),
    "NaN momentum": ("momentum: {beta: .nan}", "momentum.beta: got nan, expected a number < 1"),
    "too much dampening": ("momentum: {dampening: 2}", "momentum.dampening: got 2, expected a number <= 1"),
    "NaN": ("l2: .nan", "l2: got nan, expected a finite number"),
    "infinity": ("clip: .inf", "clip: got inf, expected a finite number"),
    "overflow": ("l1: 1e400", "l1: got inf, expected a finite number"),
    "no float32": ("l2: 1e39", "l2: got 1e+39, expected a number <= 1e+38"),
    "rate that is no float32": ("learning_rate: 1e39", "learning_rate: got 1e+39, expected a number <= 1e+38"),
    "NaN rate": ("learning_rate: .nan", "learning_rate: got nan, expected a finite number"),
    "negative rate": ("learning_rate: -1", "learning_rate: got -1, expected a number > 0"),
    "negative initial": ("learning_rate: {initial: -1}", "learning_rate.initial: got -1, expected a number > 0"),
    "rate from word": ("learning_rate: x", "learning_rate: got 'x', expected a number, or a mapping with 'initial'"),
    "rate from boolean": ("learning_rate: true", "learning_rate: got True, expected a number, or a mapping"),
    "no rate": ("learning_rate: {}", "learning_rate: got {}, expected either 'initial' .* or 'schedule'"),
    "two rates": ("learning_rate: {schedule: {0: 1}, initial: 1}", "learning_rate: got .* expected either 'initial'"),
    "half life of a schedule": (
        "learning_rate: {schedule: {0: 1}, half_life: 3}",
        "learning_rate: got .* expected no 'half_life', 'every', 'shape' or 'milestones' with 'schedule'",
    ),
    "late schedule": (
        "learning_rate: {schedule: {5: 1}}",
        "learning_rate: got {'schedule': {5: 1}}, expected .* starts at step 0",
    ),
    "empty schedule": ("learning_rate: {schedule: {}}", "learning_rate: got {'schedule': {}}, expected a .* at step 0"),
    "schedule from list": ("learning_rate: {schedule: [1]}", "learning_rate.schedule: got [1], expected a mapping"),
    "negative key": (
        "learning_rate: {schedule: {0: 1, -1: 2}}",
        "learning_rate.schedule.-1: got -1, expected a number >= 0 as the key",
    ),
    "unknown aggregator": ("aggregator: medain", "aggregator: got 'medain', .*: did you mean 'median'?"),
    "no aggregator": ("aggregator: zzz", "aggregator: got 'zzz', .*: expected one of aksel, average, bulyan,"),
    "braces and brackets": (
        "aggregator: '{0}[/red]'",
        "aggregator: got '{0}[/red]', there is no aggregator '{0}[/red]'",
    ),
    "unknown attack": ("{byzantine: 2, attack: litle}", "attack: got 'litle', .*: did you mean 'little'?"),
    "unknown model": ("model: mpl", "model: got 'mpl', there is no model 'mpl': did you mean 'mlp'?"),
    "unknown data set": ("dataset: minst", "dataset: got 'minst', there is no data set 'minst': did you mean 'mnist'?"),
    "choice from null": ("aggregator: null", "aggregator: got None, expected the aggregator's name, or a mapping with"),
    "choice without name": ("model: {hidden: [3]}", "model: got {'hidden': [3]}, expected the model's name, or"),
    "unknown option of a rule": ("aggregator: {name: krum, squard: true}", "aggregator.squard: .* mean 'squared'?"),
    "no options": ("aggregator: {name: median, k: 1}", "aggregator.k: unknown key, there is no such option"),
    "unknown option of an attack": ("{byzantine: 2, attack: {name: little, factr: 1}}", "attack.factr: .* 'factor'?"),
    "unknown option of a model": ("model: {name: mlp, widths: [3]}", "model.widths: unknown key, .* one of hidden"),
    "unknown option of a data set": ("dataset: {name: fashion-mnist, flp: none}", "dataset.flp: .* mean 'flip'?"),
    "missing option": ("dataset: npz", "dataset.path: got nothing, expected a value, as there is no default"),
    "text option": ("dataset: {name: npz, path: 3}", "dataset.path: got 3, expected a text"),
    "list option": ("model: {name: mlp, hidden: 3}", "model.hidden: got 3, expected a list"),
    "item of a list": ("model: {name: mlp, hidden: [8, 0]}", "model.hidden.1: got 0, expected a number > 0"),
    "architecture": (
        "model: {name: torchvision, architecture: resnet19}",
        "model.architecture: got 'resnet19', .* mean 'resnet1",
    ),
    "negative factor of an attack": (
        "{byzantine: 2, attack: {name: little, factor: -1}}",
        "attack.factor: got -1, expected a number > 0 or 'searched'",
    ),
    "target of an attack": (
        "{byzantine: 2, attack: {name: hidden, target: some}}",
        "attack.target: got 'some', expected an integer or 'all'",
    ),
    "m too large": (
        "{byzantine: 2, attack: nan, aggregator: {name: multi-krum, m: 8}}",
        "aggregator: multi-krum needs m <= n-f-2 = 7; got m = 8",
    ),
    "m of bulyan": (
        "aggregator: {name: bulyan, m: 10}",
        "aggregator: bulyan needs m <= n-f-2 = 9; got m = 10",
    ),
    "m too small": ("aggregator: {name: multi-krum, m: 0}", "aggregator.m: got 0, expected a number >= 1"),
    "all Byzantine": ("{byzantine: 11, attack: nan}", "byzantine: got 11, expected fewer than workers = 11: "),
    "tolerates too many": ("tolerated: 12", "tolerated: got 12, expected at most workers = 11"),
    "byzantine and what follows it": ("byzantine: .nan", "byzantine: got nan, expected an integer"),
    "no attack": ("byzantine: 2", "attack: got None, expected an attack for the byzantine = 2 workers"),
    "no attackers": ("attack: nan", "attack: got {'name': 'nan'}, expected none, as byzantine = 0"),
    "attack on one": (
        "{workers: 7, byzantine: 6, tolerated: 2, attack: little}",
        "attack: little needs honest >= 2; got honest = 1",
    ),
    "attack on too few": (
        "{byzantine: 6, tolerated: 8, attack: anti-cge, aggregator: cge}",
        "attack: anti-cge needs f <= honest; got f = 8, honest = 5",
    ),
    "unfit model": ("model: full", "model: full needs examples of 784 values; got 64"),
    "unfit loss": ("loss: bce", "loss: got 'bce', expected a model that returns probabilities; mlp returns log-prob"),
    "no such module": (
        "aggregator: 'nowhere_at_all:X'",
        "aggregator: got .* cannot import .* No module named 'nowhere_at_all'",
    ),
    "no such class": ("aggregator: 'own_classes:Nope'", "aggregator: got .* cannot import .* has no attribute 'Nope'"),
    "module that raises": (
        "attack: 'own_raises:X'",
        "attack: got .* cannot import .* 'own_raises:X': RuntimeError: as it happens",
    ),
    "module that exits": ("attack: 'own_exits:X'", "attack: got .* cannot import .* 'own_exits:X': SystemExit: 0"),
    "no class": (
        "model: 'own_classes:number'",
        "model: got .* 'own_classes:number' is no model: .* class derived from Model",
    ),
    "other kind": (
        "attack: 'own_classes:Rule'",
        "attack: got .* 'own_classes:Rule' is no attack: .* derived from Attack",
    ),
    "abstract": (
        "aggregator: 'own_classes:Half'",
        "aggregator: got .* 'own_classes:Half' is abstract: .* that implements aggregate",
    ),
    "option of a pre-aggregator": ("pre: [nnm, {name: bucketing, sizes: 3}]", "pre.1.sizes: .* did you mean 'size'?"),
    "option of the only one": ("pre: {name: bucketing, sizes: 3}", "pre.sizes: .* did you mean 'size'?"),
    "number as a key": ("momentum: {0: 3}", "momentum.0: unknown key"),
    "own option": ("aggregator: {name: 'own_classes:Rule', radis: 1}", "aggregator.radis: .* did you mean 'radius'?"),
    "own bound": ("aggregator: 'own_classes:Rule'", "aggregator: Rule needs n >= 99;"),
    "faults from number": ("faults: 3", "faults: got 3, expected a mapping with missing, events"),
    "faults without events": ("faults: {missing: zero}", "faults.events: got nothing, expected a value"),
    "no events": ("faults: {events: []}", "faults.events: got [], expected at least one item"),
    "key of faults": (
        "faults: {mising: zero, events: [{kind: hang, workers: 1, steps: 1}]}",
        "faults.mising: .* 'missin",
    ),
    "what is missing": (
        "faults: {missing: skip, events: [{kind: hang, workers: 1, steps: 1}]}",
        "faults.missing: got 'skip', expected 'recover', 'zero' or 'drop'",
    ),
    "kind of a fault": (
        "faults: {events: [{kind: slow, workers: 1, steps: 1}]}",
        "faults.events.0.kind: got 'slow', expected 'crash', 'hang' or 'silent'",
    ),
    "key of an event": (
        "faults: {events: [{kind: hang, workers: 1, steps: 1, step: 2}]}",
        "faults.events.0.step: unknown key, did you mean 'steps'?",
    ),
    "event without steps": (
        "faults: {events: [{kind: hang, workers: 1}]}",
        "faults.events.0.steps: got nothing, expected a value",
    ),
    **{
        f"steps of a fault {steps}": (
            f"faults: {{events: [{{kind: hang, workers: 1, steps: {steps}}}]}}",
            f"faults.events.0.steps: got {shown}, expected a step, a list of steps, or a text such as '10-20, 25'",
        )
        for steps, shown in [
            ("20-10", "'20-10'"),
            ("'1,'", "'1,'"),
            ("-1", "-1"),
            ("1.0", "1.0"),
            ("true", "True"),
            ("[]", "[]"),
            ("[1, 2-3]", "[1, '2-3']"),
            ("'٣'", "'٣'"),
        ]
    },
    "step twice": (
        "faults: {events: [{kind: hang, workers: 1, steps: '1-5, 3'}]}",
        "faults.events.0.steps: got '1-5, 3', expected each step once, step 3 is there twice",
    ),
    "worker of a fault": (
        "faults: {events: [{kind: hang, workers: [1, -1], steps: 1}]}",
        "faults.events.0.workers: got [1, -1], expected a worker, or a list of workers, by their numbers from 0",
    ),
    "worker twice": (
        "faults: {events: [{kind: hang, workers: [1, 1], steps: 1}]}",
        "faults.events.0.workers: got [1, 1], expected each worker once",
    ),
    "worker that is not honest": (
        "{byzantine: 2, attack: nan, faults: {events: [{kind: hang, workers: 9, steps: 1}]}}",
        "faults: expected honest workers, from 0 to 8; got worker 9",
    ),
    "step that is never reached": (
        "{steps: 5, faults: {events: [{kind: hang, workers: 1, steps: 3-7}]}}",
        "faults: expected steps below steps = 5; step 7 is never reached",
    ),
    "divergence": ("divergence: halt", "divergence: got 'halt', expected 'go-on' or 'stop'"),
    "mixture of nothing": ("aggregator: {name: random-mixture, rules: []}", "aggregator.rules: got [], .* one item"),
    "mixture without rules": ("aggregator: random-mixture", "aggregator.rules: got nothing, expected a value"),
    "mixture of names": (
        "aggregator: {name: random-mixture, rules: [median]}",
        "aggregator.rules.0: got 'median', expected a mapping",
    ),
    "mixture of an unknown rule": (
        "aggregator: {name: random-mixture, rules: [{rule: medan}]}",
        "aggregator.rules.0.rule: got 'medan', there is no aggregator 'medan': did you mean 'median'?",
    ),
    "frequency": (
        "aggregator: {name: random-mixture, rules: [{rule: median, frequency: 0}]}",
        "aggregator.rules.0.frequency: got 0, expected a number > 0",
    ),
    "nested mixture": (
        "aggregator: {name: random-mixture, rules: [{rule: {name: random-mixture, rules: [{rule: median}]}}]}",
        "aggregator.rules.0.rule: got .* a random mixture cannot contain another one",
    ),
    "rule of a mixture": (
        "{tolerated: 3, aggregator: {name: random-mixture, rules: [{rule: median}, {rule: bulyan}]}}",
        "aggregator: random-mixture: bulyan needs n >= 4f+3 = 15; got n = 11, f = 3",
    ),
}

OWN_CLASSES = """
from byzray.aggregators import Aggregator

number = 3

class Half(Aggregator):
    pass

class Rule(Aggregator):
    radius: float = 1.0

    def aggregate(self, submissions, f):
        return submissions.rows_ND.mean(dim=0)

    def check(self, n, f):
        return f"needs n >= 99; got n = {n}"
"""


@pytest.mark.parametrize(("content", "expected"), SETUPS.values(), ids=SETUPS)
def test_setup_file(content: str | bytes, expected: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "own_classes.py").write_text(OWN_CLASSES)
    (tmp_path / "own_raises.py").write_text("raise RuntimeError('as it happens')")
    (tmp_path / "own_exits.py").write_text("import sys; sys.exit(0)")
    text = only_mistake(refused("show", "setup.yaml"))
    # ".*" is a gap; all else is meant literally.
    assert re.match(".*".join(map(re.escape, expected.split(".*"))), text), text


@pytest.mark.parametrize(
    ("rule", "n", "f", "needed"),
    [
        ("median", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("trimmed-mean", 11, 0, "f >= 1; got f = 0"),
        ("trimmed-mean", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("phocas", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("meamed", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("multi-krum", 6, 2, "n >= 2f+3 = 7; got n = 6, f = 2"),
        ("krum", 6, 2, "n >= 2f+3 = 7; got n = 6, f = 2"),
        ("bulyan", 10, 2, "n >= 4f+3 = 11; got n = 10, f = 2"),
        ("minimum-diameter", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("aksel", 4, 2, "n >= 2f+1 = 5; got n = 4, f = 2"),
        ("cge", 2, 2, "n >= f+1 = 3; got n = 2, f = 2"),
    ],
)
def test_rule_out_of_its_bound(rule: str, n: int, f: int, needed: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(f"{{workers: {n}, tolerated: {f}, aggregator: {rule}}}")
    text = only_mistake(refused("show", "setup.yaml"))
    assert text == f"aggregator: {rule} needs {needed}"


@pytest.mark.parametrize(
    ("content", "mistakes"),
    [
        (
            "{steps: a, byzantine: -2, model: full, loss: bce, foo: 1, 2: 3, momentum: {beta: 2, x: 1}}",
            ["steps", "momentum.beta", "momentum.x", "byzantine", "foo", "2", "model", "loss"],
        ),
        # Neither the rule's bound nor the attack can be judged without a number of workers; the model can.
        ("{workers: x, tolerated: 5, aggregator: bulyan, attack: nan, model: conv}", ["workers", "attack", "model"]),
        ("{byzantine: 11, attack: nan, model: full, loss: mse}", ["model", "loss", "byzantine"]),
        ("{byzantine: 4, aggregator: bulyan, dataset: minst, model: full}", ["dataset", "aggregator", "attack"]),
        ("{workers: 3, byzantine: x, tolerated: y}", ["byzantine", "tolerated"]),
        # Whether faults fit depends on what is wrong already.
        ("{workers: x, steps: y, faults: {events: [{kind: hang, workers: 99, steps: 999}]}}", ["steps", "workers"]),
        # A wrong key with a wrong value.
        ("{learning_rate: {schedule: {0: 1, -1: x}}}", ["learning_rate.schedule.-1"] * 2),
    ],
)
def test_all_mistakes_at_once(content: str, mistakes: list[str], tmp_path: Path) -> None:
    path = tmp_path / "setup.yaml"
    path.write_text(content)
    with pytest.raises(SetupError) as error:
        load_setup(path)
    assert sorted(one.partition(":")[0] for one in error.value.mistakes) == sorted(mistakes)
    assert str(error.value).startswith(f"{path}: {len(mistakes)} mistakes in the setup\n")
    assert len(str(error.value).splitlines()) == len(mistakes) + 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "missing.yaml"], "missing.yaml: 1 mistake in the setup there is no such file"),
        (["show", "."], ".: is a directory, expected a setup file, such as the setup.yaml of a run"),
        (["show", "demo"], "demo: is a sweep, not a setup; run it with `byzray sweep demo`"),
        (
            ["run", "my sweep.yaml"],
            "my sweep.yaml: is a sweep, not a setup; run it with `byzray sweep 'my sweep.yaml'`",
        ),
        (["sweep", "setup.yaml"], "setup.yaml: is a setup, not a sweep; run it with `byzray run setup.yaml`"),
        (["run", "setup.yaml", "--set", "steps"], "--set: got 'steps', expected KEY=VALUE, such as momentum.placement"),
        (["run", "setup.yaml", "--set", "=3"], "--set: got '=3', expected KEY=VALUE"),
        (["run", "setup.yaml", "--set", "steps=[1"], "--set steps: the value '[1' is not valid YAML: line 1, column 3"),
        (["run", "setup.yaml", "--set", "steps="], "steps: got None, expected an integer"),
        (["run", "setup.yaml", "--set", "steps.x=1"], "steps.x: cannot be set, steps is 2, not a mapping"),
        (["run", "setup.yaml", "--set", "stps=1"], "stps: unknown key, did you mean 'steps'?"),
        (["run", "setup.yaml", "--seed", "-1"], "seed: got -1, expected a number >= 0"),
        (["run", "setup.yaml", "--seed", "1,2"], "Invalid value for '--seed': got '1,2', expected an integer"),
        (["run", "setup.yaml", "--restarts", "1.5"], "got '1.5', expected an integer >= 0"),
        (["run", "setup.yaml", "--deadline", "0"], "got '0', expected a number from 1 to 1,000,000"),
        (["sweep", "demo", "--cpus", "all"], "Invalid value for '--cpus': got 'all', expected a number >= 0.0001"),
        (["sweep", "demo", "--cpus", "inf"], "Invalid value for '--cpus': got 'inf', expected a number >= 0.0001"),
        (["sweep", "demo", "--gpus", "nan"], "Invalid value for '--gpus': got 'nan', expected a number >= 0"),
        (["run", "setup.yaml", "--set", "rule=median"], "rule: unknown key, did you mean 'aggregator'?"),
        (["run", "setup.yaml", "--set", "n=9"], "n: unknown key, did you mean 'workers'?"),
        (["run", "setup.yaml", "--set", "beta=0.5"], "beta: unknown key, did you mean 'momentum.beta'?"),
        (["run", "setup.yaml", "--seeds", "3"], "--seeds"),
        (["run"], "Missing argument 'SETUP.yaml'"),
        (["rum", "setup.yaml"], "No such command 'rum'"),
        (["list", "rules"], "got 'rules', did you mean 'aggregators'?"),
        (["list", "attack"], "got 'attack', did you mean 'attacks'?"),
        (
            ["list", "files"],
            "got 'files', expected one of aggregators, preaggregators, attacks, splits, models, datasets, sweeps",
        ),
        (["conformance", ".", "--device", "gpu"], "got 'gpu', did you mean 'cuda'?"),
        (["conformance", "missing"], "missing: expected a directory of vectors"),
        (["conformance", "setup.yaml"], "setup.yaml: expected a directory of vectors"),
        (["conformance", "."], ".: holds no vectors, expected at least one of aggregators.json, attacks.json,"),
        (
            ["run", "setup.yaml", "--in-process", "--output", "setup.yaml"],
            "cannot be used as a run directory: [Errno 20] Not a directory: 'setup.yaml/digits-average-unattacked",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_line(arguments: list[str], expected: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    (tmp_path / "my sweep.yaml").write_text("{base: {steps: 2}, axes: {aggregator: [median]}}")
    message = refused(*arguments)
    assert expected in message
    assert "Input should" not in message  # pydantic's own words


def test_no_gpu(refused: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # wherever there is one
    (tmp_path / "setup.yaml").write_text(TINY)
    message = refused("run", "setup.yaml", "--in-process", "--set", "device=cuda")
    assert "device: got 'cuda', but PyTorch sees no GPU here; expected 'auto' or 'cpu'" in message
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize(
    ("json_text", "expected"),
    [
        ("{", "JSONDecodeError"),
        ("null", "TypeError"),
        ("[1]", "TypeError"),
        ('[{"n": 1}]', "KeyError: 'f'"),
        ("[]", "holds no cases"),
        (json.dumps([{"n": 3, "f": 1, "rule": "nope", "args": {}}]), "there is no aggregator 'nope'"),
        (json.dumps([{"n": 3, "f": 1, "rule": "median", "args": {}, "input": "nope"}]), "nope"),
    ],
)
def test_malformed_vectors(json_text: str, expected: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "aggregators.json").write_text(json_text)
    np.savez(tmp_path / "aggregators.npz", x=np.ones((3, 2)))
    message = refused("conformance", str(tmp_path))
    assert message.startswith(f"byzray: {tmp_path}")
    assert expected in message


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04broken"])
def test_vectors_without_arrays(content: bytes | None, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "attacks.json").write_text("[]")
    if content is not None:
        (tmp_path / "attacks.npz").write_bytes(content)
    assert f"{tmp_path / 'attacks.json'}, or an array it names" in refused("conformance", str(tmp_path))


@pytest.mark.parametrize(
    ("dataset", "files"),
    [
        (
            "mnist",
            [f"MNIST/raw/{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")],
        ),
        ("fashion-mnist", ["FashionMNIST/raw/train-images-idx3-ubyte"]),
        ("cifar10", ["cifar-10-batches-py/data_batch_1", "cifar-10-batches-bin/data_batch_1.bin"]),
        ("cifar100", ["cifar-100-python/train"]),
        ("phishing", ["phishing/phishing"]),
        ("{name: npz, path: own.npz}", ["own.npz"]),
    ],
)
@pytest.mark.parametrize("given", ["variable", "option"])
def test_missing_data(dataset: str, files: list[str], given: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    root, options = (
        (tmp_path / "data", []) if given == "variable" else (tmp_path / "d", ["--data", str(tmp_path / "d")])
    )
    message = refused("run", "setup.yaml", "--in-process", "--set", f"dataset={dataset}", *options)
    assert "that do not exist" in message or "that does not exist" in message
    assert "--data DIR or the variable BYZRAY_DATA" in message
    for file in files:
        assert str(root / file) in message
    assert not list((tmp_path / "results").iterdir())


X, Y = np.zeros((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2])
ARRAYS: dict[str, Any] = {"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"y_test": None}, "array 'y_test': found only x_train, y_train, x_test, expected this array as well"),
        (
            {"x_train": X.astype(complex)},
            "array 'x_train': found values of type complex128, expected uint8 or floating",
        ),
        ({"x_train": X.astype(int)}, "array 'x_train': found values of type int64, expected uint8 or floating"),
        ({"x_train": X[:, 0]}, "array 'x_train': found shape (6,), expected one row an example"),
        ({"x_train": X[:5]}, "array 'y_train': found shape (6,), expected (5,), one label for each example"),
        ({"y_train": Y.astype(float)}, "array 'y_train': found labels of type float64, expected integers"),
        ({"y_train": Y - 1}, "array 'y_train': found label -1, expected labels >= 0"),
        ({"y_test": Y[:2] + 5}, "array 'y_test': found label 6, expected labels in 0..2"),
        ({"x_train": X + np.nan}, "array 'x_train': found 24 values that are infinite or NaN"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "array 'x_train': found no examples, expected at least one"),
        ({"x_test": X[:2].astype(np.uint8)}, "array 'x_test': found examples of uint8, expected float32"),
        ({"x_test": X[:2, :3]}, "array 'x_test': found examples of (3,), expected (4,)"),
        ({"y_train": Y + 10**6}, "array 'y_train': found label 1000002, expected labels >= 0 and < 100000"),
        ({"x_train": np.array([None, 1])}, "array 'x_train': found what numpy cannot read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_npz(changes: dict[str, Any], expected: str, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    arrays = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    message = refused("run", "setup.yaml", "--in-process", "--set", "dataset={name: npz, path: own.npz}")
    assert f"1 mistake in the setup dataset: {tmp_path / 'own.npz'}: {expected}" in message


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_no_archive(content: bytes, refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    (tmp_path / "own.npz").write_bytes(content)
    message = refused("run", "setup.yaml", "--in-process", "--set", "dataset={name: npz, path: own.npz}")
    assert f"dataset: {tmp_path / 'own.npz'}: found" in message
    assert "expected a numpy archive (.npz)" in message


def test_model_does_not_fit_the_file(refused: Call, tmp_path: Path) -> None:
    """What a data set of the user's own holds is known only after it was read."""
    (tmp_path / "setup.yaml").write_text(TINY)
    np.savez(tmp_path / "own.npz", **ARRAYS)
    options = ["--set", "dataset={name: npz, path: own.npz}", "--set", "model=full"]
    message = refused("run", "setup.yaml", "--in-process", *options)
    assert "model: full needs examples of 784 values; got 4" in message


def test_truncated_idx(refused: Call, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 3, 28, 28) + bytes(2 * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 3) + bytes(3))
    message = refused("run", "setup.yaml", "--in-process", "--set", "dataset=mnist")
    assert f"dataset: {raw / 'train-images-idx3-ubyte'} is damaged: found 1584 bytes of another form" in message
    assert "delete it and get it again" in message


# Property tests: no data and no text makes a setup file raise anything but SetupError.

NAMES = ["median", "multi-krum", "random-mixture", "mlp", "little", "npz", "os:path", "nowhere_at_all:X", "on", "none"]
KEYS = ["name", "m", "rule", "rules", "frequency", "schedule", "initial", "past", "hidden", "factor", "path"]
WORDS = st.sampled_from(NAMES + KEYS)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":"))
    | st.dates()
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(-1, 3) | st.booleans(), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(list(Setup.model_fields))


@contextlib.contextmanager
def setup_file(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "setup.yaml"
        path.write_bytes(content)
        yield path


def loads_or_is_refused(content: bytes) -> None:
    with setup_file(content) as path:
        try:
            setup = load_setup(path)
        except SetupError as error:
            mistakes = error.mistakes
        else:
            path.write_text(setup.yaml(), encoding="utf-8")
            assert load_setup(path) == setup
            return
    assert mistakes
    assert all(mistakes)
    assert "Input should" not in str(mistakes)  # pydantic's own words


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS | WORDS, DATA, max_size=5) | DATA)
def test_any_data(data: Any) -> None:
    loads_or_is_refused(write_yaml(data).encode())


SIGNS = st.sampled_from("{}[]|>'\"\\#~&*!?-,\n\t ")
SNIPPETS = st.sampled_from(
    [
        "steps: ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "<<: ",
        "!!bool ",
        "!!int ",
        "!!timestamp ",
        "%YAML 1.1\n",
        "\n---\n",
        "\n...\n",
    ]
) | st.sampled_from(["2001-99-01", "0x", "0o9", "1e", "1_", ".nan"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(SIGNS | SNIPPETS | st.text(max_size=5), max_size=12).map(
        lambda parts: "".join(parts).encode(errors="ignore")
    )
)
def test_any_text(content: bytes) -> None:
    loads_or_is_refused(content)


@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_any_bytes(content: bytes) -> None:
    loads_or_is_refused(content)


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_override(text: str) -> None:
    """On the command line: exit code 0 or 2, whatever stands behind `--set`."""
    out, err = io.StringIO(), io.StringIO()
    with setup_file(b"{}") as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["byzray", "show", str(path), f"--set={text}"])
        patch.setattr(sys, "path", list(sys.path))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            commands.main()
    assert stop.value.code in (0, 2), err.getvalue()


def test_a_folder_without_permission(refused: Call, tmp_path: Path, without_privileges: None) -> None:
    (tmp_path / "setup.yaml").write_text(TINY)
    (tmp_path / "closed").mkdir(mode=0o500)
    message = refused("run", "setup.yaml", "--in-process", "--output", "closed/out")
    assert "Permission denied" in message
