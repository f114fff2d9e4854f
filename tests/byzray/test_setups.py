"""Setup files: what they may say, and that a setup survives being written and read again."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler as schedulers

from byzray.aggregators import MultiKrum, RandomMixture
from byzray.attacks import Little
from byzray.mistakes import SetupError
from byzray.options import Options
from byzray.runs.directory import RunDirectory
from byzray.setups import LearningRate, Setup, Study, load_setup
from byzray.yaml import parse_yaml, write_yaml

SWEEPS = ("sweep", "search", "heterogeneous-sweep", "mixing-sweep")  # see tests/sweeps/test_definition.py
EXAMPLES = sorted(path for path in (Path(__file__).parents[2] / "examples").glob("*.yaml") if path.stem not in SWEEPS)

ATTACKED: dict[str, Any] = {"workers": 11, "byzantine": 2, "aggregator": "median", "attack": "little"}

# For every field another value than in ATTACKED, with what else has to change to keep the setup valid.
CHANGES: dict[str, dict[str, Any]] = {
    "dataset": {"dataset": "mnist"},
    "split": {"split": "dirichlet"},
    "model": {"model": {"name": "mlp", "hidden": [3, 5]}},
    "loss": {"loss": "cross-entropy"},
    "batch_size": {"batch_size": 5},
    "steps": {"steps": 299},
    "learning_rate": {"learning_rate": {"initial": 0.2, "half_life": 100}},
    "momentum": {"momentum": {"placement": "update"}},
    "l1": {"l1": 1e-9},
    "l2": {"l2": 1e-9},
    "weight_decay": {"weight_decay": 1e-9},
    "clip": {"clip": 2},
    "workers": {"workers": 12},
    "byzantine": {"byzantine": 1, "tolerated": 2},
    "tolerated": {"tolerated": 3},
    "pre": {"pre": "nnm"},
    "aggregator": {"aggregator": {"name": "multi-krum", "m": 3}},
    "attack": {"attack": {"name": "little", "factor": 1.4}},
    "evaluation_interval": {"evaluation_interval": 0},
    "study": {"study": "off"},
    "actors": {"actors": {"workers_per_actor": 2}},
    "device": {"device": "cpu"},
    "seed": {"seed": 2},
    "local_steps": {"local_steps": 2},
    "faults": {"faults": {"events": [{"kind": "crash", "workers": 0, "steps": 3}]}},
    "divergence": {"divergence": "stop"},
}


def load(tmp_path: Path, content: str, **overrides: Any) -> Setup:
    path = tmp_path / "setup.yaml"
    path.write_text(content, encoding="utf-8")
    return load_setup(path, {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.fixture
def examples_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))


@pytest.mark.usefixtures("examples_importable")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    setup = load_setup(path)
    again = load(tmp_path, setup.yaml())
    assert again == setup
    assert type(again.aggregator) is type(setup.aggregator)
    assert again.digest() == setup.digest()
    assert again.yaml() == setup.yaml()
    assert setup.changed() == setup
    for field, value in parse_yaml(path.read_text(encoding="utf-8")).items():
        if not isinstance(value, dict) and field not in ("dataset", "model", "pre", "aggregator", "learning_rate"):
            assert getattr(setup, field) == value


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"mnist", "fashion-mnist", "cifar10", "phishing", "digits", "own"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("byzantine: 3\nattack: nan", 3),
        ("byzantine: 3\nattack: nan\ntolerated: null", 3),
        ("byzantine: 3\nattack: nan\ntolerated: 4", 4),
        ("byzantine: 3\nattack: nan\ntolerated: 0", 0),
        ("tolerated: 4", 4),
        ("", 0),
    ],
)
def test_tolerated_defaults_to_byzantine(content: str, expected: int, tmp_path: Path) -> None:
    assert load(tmp_path, content).tolerated == expected


@pytest.mark.parametrize("number", ["1e-8", "1.0e-8", "1E-8", "0.00000001"])
def test_numbers_are_yaml_1_2(number: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"l2: {number}").l2 == 1e-8


@pytest.mark.parametrize("word", ["yes", "no", "on", "off"])
def test_words_are_yaml_1_2(word: str) -> None:
    assert parse_yaml(word) == word


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("on", Study()),
        ("true", Study()),
        ("off", None),
        ("false", None),
        ("null", None),
        ("{}", Study()),
        ("{past: 3}", Study(past=3)),
    ],
)
def test_study(written: str, expected: Study | None, tmp_path: Path) -> None:
    assert load(tmp_path, f"study: {written}").study == expected


@pytest.mark.parametrize("field", ["attack", "actors"])
@pytest.mark.parametrize("written", ["none", "null"])
def test_none(field: str, written: str, tmp_path: Path) -> None:
    assert getattr(load(tmp_path, f"{field}: {written}"), field) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.5", LearningRate(initial=0.5)),
        ("1", LearningRate(initial=1.0)),
        ("{initial: 0.5}", LearningRate(initial=0.5)),
        (
            "{initial: 0.5, half_life: 5000, every: 300}",
            LearningRate(initial=0.5, half_life=5000, every=300),
        ),
        ("{schedule: {0: 0.02, 8000: 0.004}}", LearningRate(schedule={0: 0.02, 8000: 0.004})),
        ("{initial: 0.5, shape: cosine, warmup: 10}", LearningRate(initial=0.5, shape="cosine", warmup=10)),
        (
            "{initial: 0.5, milestones: [20, 40], decay: 0.5}",
            LearningRate(initial=0.5, milestones=(20, 40), decay=0.5),
        ),
        ("{initial: 0.5, milestones: [20]}", LearningRate(initial=0.5, milestones=(20,), decay=0.1)),
    ],
)
def test_learning_rate_forms(written: str, expected: LearningRate, tmp_path: Path) -> None:
    assert load(tmp_path, f"learning_rate: {written}").learning_rate == expected


@pytest.mark.parametrize(("initial", "tau", "delta"), [(0.5, 5000, 300), (0.01, 167, 1500), (2.0, 0.5, 1), (0.1, 7, 3)])
def test_hyperbolic_decay(initial: float, tau: float, delta: int) -> None:
    rate = LearningRate(initial=initial, half_life=tau, every=delta)
    for t in [0, 1, delta - 1, delta, delta + 1, 2 * delta - 1, 2 * delta, 2999]:
        assert rate.at(t, 3000) == pytest.approx(initial / (math.floor(t / delta) * delta / tau + 1), rel=1e-15)


def test_rate_without_half_life_is_constant() -> None:
    assert {LearningRate(initial=0.3).at(t, 10_001) for t in (0, 1, 10_000)} == {0.3}


DIGEST_OF_DEFAULTS = "6a50f470f3"  # as in version 0.1

Rates = Callable[[torch.optim.Optimizer], schedulers.LRScheduler]

SCHEDULERS: dict[str, tuple[dict[str, Any], Rates]] = {
    "cosine": ({"shape": "cosine"}, lambda optimiser: schedulers.CosineAnnealingLR(optimiser, 30)),
    "milestones": (
        {"milestones": (4, 5, 20), "decay": 0.3},
        lambda optimiser: schedulers.MultiStepLR(optimiser, [4, 5, 20], 0.3),
    ),
    "warm-up": ({"warmup": 5}, lambda optimiser: schedulers.LinearLR(optimiser, 1 / 5, 1.0, 4)),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_rates_are_those_of_pytorch(case: str) -> None:
    options, make = SCHEDULERS[case]
    rate, steps = LearningRate(initial=0.4, **options), 30
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = make(optimiser)
    for step in range(steps):
        assert rate.at(step, steps) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(
    "form", [{"half_life": 7.0}, {"shape": "cosine"}, {"milestones": (3,)}, {"schedule": {0: 0.4, 3: 0.1}}], ids=str
)
def test_warmup_multiplies_every_form(form: dict[str, Any]) -> None:
    given = form if "schedule" in form else {"initial": 0.4, **form}
    plain, warmed = LearningRate(**given), LearningRate(**given, warmup=4)
    ratios = [warmed.at(step, 12) / plain.at(step, 12) for step in range(12)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 9])


def test_fields_that_came_later_leave_digests_as_they_were() -> None:
    assert Setup(learning_rate={"initial": 0.2}).describe()["learning_rate"] == {  # type: ignore[arg-type]
        "initial": 0.2,
        "half_life": None,
        "every": 1,
        "schedule": None,
    }
    described = Setup().describe()
    assert "weight_decay" not in described
    assert described["study"] == {"past": 1}
    assert Setup().digest() == DIGEST_OF_DEFAULTS
    assert Setup.model_validate(described).digest() == DIGEST_OF_DEFAULTS  # which says every: 1, without a half-life


def test_a_study_that_measures_what_it_would_anyway_is_the_same_setup() -> None:
    sharded = {"split": "iid", "workers": 3, "aggregator": "average"}
    usual = Setup.model_validate(sharded)
    assert Setup.model_validate({**sharded, "study": {"kappa": True}}).digest() == usual.digest()
    assert Setup.model_validate({**sharded, "study": {"kappa": False}}).digest() != usual.digest()
    assert Setup.model_validate({"study": {"kappa": False}}).digest() == DIGEST_OF_DEFAULTS


def test_schedule_in_any_order() -> None:
    rate = LearningRate(schedule={16000: 0.0008, 0: 0.02, 8000: 0.004})
    rates = {0: 0.02, 7999: 0.02, 8000: 0.004, 15999: 0.004, 16000: 0.0008, 10**9: 0.0008}
    assert {t: rate.at(t, 10**9 + 1) for t in rates} == rates
    ordered = LearningRate(schedule=dict(sorted(rate.schedule.items())))  # type: ignore[union-attr]
    # The text too: a run directory is recognised by it.
    assert Setup(learning_rate=rate).yaml() == Setup(learning_rate=ordered).yaml()


@pytest.mark.parametrize(
    ("content", "overrides", "expected"),
    [
        ("aggregator: multi-krum", {"aggregator.m": 2}, {"aggregator": {"name": "multi-krum", "m": 2}}),
        ("aggregator: {name: multi-krum, m: 3}", {"aggregator.m": 2}, {"aggregator": {"name": "multi-krum", "m": 2}}),
        (
            "aggregator: median",
            {"aggregator": "multi-krum", "aggregator.m": 2},
            {"aggregator": {"name": "multi-krum", "m": 2}},
        ),
        ("momentum: {beta: 0.5}", {"momentum.placement": "update"}, {"momentum": {"beta": 0.5, "placement": "update"}}),
        ("", {"momentum.placement": "update"}, {"momentum": {"placement": "update"}}),
        ("pre: nnm", {"aggregator": "krum"}, {"pre": ["nnm"], "aggregator": "krum"}),
        ("pre: [nnm, bucketing]", {"pre": "none"}, {}),
        (
            "pre: {name: bucketing, size: 3}",
            {"pre": ["nnm", "bucketing"]},
            {"pre": [{"name": "nnm"}, {"name": "bucketing", "size": 2}]},
        ),
        ("steps: 3", {"steps": 4}, {"steps": 4}),
        ("study: off", {"study.past": 3}, {"study": {"past": 3}}),
        ("study: on", {"study.past": 3}, {"study": {"past": 3}}),
        ("actors: none", {"actors.workers_per_actor": 3}, {"actors": {"workers_per_actor": 3}}),
        (
            "faults: {events: [{kind: hang, workers: 1, steps: 2}]}",
            {"faults.missing": "zero"},
            {"faults": {"missing": "zero", "events": [{"kind": "hang", "workers": [1], "steps": "2"}]}},
        ),
        (
            "learning_rate: 0.5",
            {"learning_rate.half_life": 9},
            {"learning_rate": {"initial": 0.5, "half_life": 9}},
        ),
        ("{byzantine: 2, attack: little}", {"byzantine": 0, "attack": "none"}, {}),
    ],
)
def test_overrides(content: str, overrides: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "setup.yaml"
    path.write_text(content)
    assert load_setup(path, overrides) == Setup.model_validate(expected)


def test_every_field_has_a_change() -> None:
    assert CHANGES.keys() == Setup.model_fields.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_the_digest_depends_on_every_field(field: str, tmp_path: Path) -> None:
    setup = Setup.model_validate(ATTACKED)
    changed = Setup.model_validate(ATTACKED | CHANGES[field])
    before, after = setup.describe(), changed.describe()
    assert {key for key in after if key not in before or after[key] != before[key]} == {field}
    assert changed.digest() != setup.digest()
    assert RunDirectory(tmp_path, changed).path != RunDirectory(tmp_path, setup).path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"l2": 0}, {"l2": 0.0}),
        ({"learning_rate": 1}, {"learning_rate": {"initial": 1.0}}),
        ({"aggregator": "median"}, {"aggregator": {"name": "median"}}),
        ({"study": "on"}, {"study": {"past": 1}}),
        ({}, {"byzantine": 0}),
    ],
)
def test_the_digest_ignores_how_a_setup_is_written(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Setup.model_validate(one).digest() == Setup.model_validate(other).digest()


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        ({}, "6a50f470f3"),
        (
            {
                "dataset": "mnist",
                "model": "full",
                "workers": 51,
                "byzantine": 24,
                "attack": "little",
                "aggregator": "median",
                "momentum": {"placement": "server"},
                "study": {"past": 4},
            },
            "19575b9f8d",
        ),
    ],
)
def test_directories_of_earlier_versions_keep_their_names(fields: dict[str, Any], digest: str) -> None:
    """The digests are those of version 0.1.0, whose setups had neither `faults` nor `divergence`."""
    setup = Setup.model_validate(fields)
    assert setup.digest() == digest
    assert setup.changed(faults="none", divergence="go-on").digest() == digest
    assert not {"faults", "divergence"} & parse_yaml(setup.yaml()).keys()


def test_label_and_directory_name() -> None:
    setup = Setup.model_validate(ATTACKED | {"seed": 7, "momentum": {"placement": "server"}})
    assert setup.label() == "median/little seed 7"
    assert RunDirectory.name(setup) == f"digits-median-little-f2-at-server-seed7-{setup.digest()}"
    unattacked = Setup()
    assert unattacked.label() == "multi-krum/no attack seed 1"
    assert RunDirectory.name(unattacked) == f"digits-multi-krum-unattacked-f0-at-worker-seed1-{unattacked.digest()}"


@pytest.mark.parametrize("path", ["seed", "momentum.beta", "learning_rate.initial", "study.past", "aggregator.m"])
def test_a_setup_is_immutable(path: str) -> None:
    setup: Any = Setup()
    *parents, last = path.split(".")
    part = setup
    for name in parents:
        part = getattr(part, name)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, last, 5)
    assert setup == Setup()


def test_changed_checks_anew() -> None:
    setup = Setup.model_validate(ATTACKED)
    assert setup.changed(seed=3).seed == 3
    assert setup.seed == 1
    with pytest.raises(ValidationError, match=r"needs n >= 2f\+1 = 13; got n = 11, f = 6"):
        setup.changed(tolerated=6)


def test_a_mixture_survives_a_round_trip(tmp_path: Path) -> None:
    rules = "[{rule: median, frequency: 2}, {rule: {name: multi-krum, m: 2}}]"
    setup = load(tmp_path, f"aggregator: {{name: random-mixture, rules: {rules}}}")
    assert isinstance(setup.aggregator, RandomMixture)
    assert [component.frequency for component in setup.aggregator.rules] == [2.0, 1.0]
    again = load(tmp_path, setup.yaml())
    assert again == setup
    assert again.digest() == setup.digest()


def test_a_class_that_inherits_a_name_is_not_taken_for_the_one_it_inherits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run would compute the inherited rule in place of the user's, under its name."""
    (tmp_path / "heirs_of_ours.py").write_text(
        "from byzray.aggregators import MultiKrum\n"
        "from byzray.attacks import Little\n"
        "class Mine(MultiKrum):\n    bias: float = 0.5\n"
        "class Named(Little):\n    name = 'a-name-of-its-own'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    written = {"byzantine": 2, "aggregator": {"name": "heirs_of_ours:Mine", "m": 2}, "attack": "heirs_of_ours:Named"}
    setup = Setup.model_validate(written)
    assert setup.aggregator.describe() | {"name": "heirs_of_ours:Mine", "bias": 0.5, "m": 2} == (
        setup.aggregator.describe()
    )
    assert setup.label() == "Mine/a-name-of-its-own seed 1"
    for again in (setup.changed(seed=1), load(tmp_path, setup.yaml())):
        assert type(again.aggregator) is type(setup.aggregator) is not MultiKrum
        assert type(again.attack) is type(setup.attack) is not Little
        assert again.digest() == setup.digest()


@pytest.mark.parametrize("default", [Setup().dataset, Setup().model, Setup().aggregator, Little()])
def test_options_of_this_package_go_by_their_registered_name(default: Options) -> None:
    assert default.describe()["name"] == default.name == default.label() != ""


@pytest.mark.parametrize("value", [{"a": [1, 1e-8, None, True, "yes", "1e-8", {"b": "x: y"}]}, "on", [], {"0": "#"}])
def test_written_yaml_reads_back(value: Any) -> None:
    assert parse_yaml(write_yaml(value)) == value


@pytest.mark.parametrize("content", ["steps: 1\nsteps: 2", "momentum: {beta: 0.5, beta: 0.9}"])
def test_a_key_twice_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="found duplicate key"):
        load(tmp_path, content)
