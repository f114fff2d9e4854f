"""Sweep files: what they stand for, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from byzray import Setup
from sweeps.conditions import Condition, ConditionError, condition_variables
from sweeps.definition import load_sweep, parse_seeds
from sweeps.grid import SweepError

GOOD = """
base: {dataset: digits, steps: 20, workers: 11, byzantine: 4}
axes:
  aggregator: [multi-krum, median, {name: multi-krum, m: 2}, bulyan]
  attack: [little, empire]
  momentum.placement: [update, worker]
together:
  - {learning_rate: [0.1, 0.2], batch_size: [4, 8]}
conditions: ["aggregator != 'bulyan' or n >= 4*f + 3"]
seeds: 1-2
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_axes_multiply_and_groups_go_in_step(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, GOOD))
    setups = sweep.setups()
    attacked = [setup for setup in setups if setup.attack is not None]
    assert sweep.name == "mine"
    assert sweep.seeds == (1, 2)
    assert len(attacked) == 3 * 2 * 2 * 2
    assert {(setup.learning_rate.initial, setup.batch_size) for setup in setups} == {(0.1, 4), (0.2, 8)}
    assert {setup.aggregator.describe().get("m") for setup in attacked} == {None, 2}
    references = [setup for setup in setups if setup.attack is None]
    assert len(references) == 2  # one for each rate and batch size
    assert {(one.workers, one.byzantine, one.aggregator.label()) for one in references} == {(7, 0, "average")}
    assert all(setup.actors is None for setup in setups)


def test_the_examples() -> None:
    examples = Path(__file__).parents[2] / "examples"
    grid = load_sweep(str(examples / "sweep.yaml"))
    assert (len(grid.setups()), grid.seeds) == (2 + 9 + 12, (1, 2, 3))
    search = load_sweep(str(examples / "search.yaml"))
    assert search.search is not None
    assert search.search.examples()


def test_references_can_be_left_out(tmp_path: Path) -> None:
    setups = load_sweep(write(tmp_path, f"{GOOD}reference: false\n")).setups()
    assert len(setups) == 24
    assert all(setup.attack is not None for setup in setups)


def test_a_base_file_lies_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "{dataset: digits, workers: 5, aggregator: median, actors: {workers_per_actor: 2}}"
    )
    (setup,) = load_sweep(write(tmp_path, "{base: base.yaml, axes: {steps: [7]}}")).setups()
    assert (setup.workers, setup.steps) == (5, 7)
    assert setup.actors is not None
    assert setup.actors.workers_per_actor == 2


def test_draws_are_the_same_each_time_and_within_their_ranges(tmp_path: Path) -> None:
    text = """
base: {dataset: digits, workers: 5, aggregator: median}
axes: {steps: [5, 6]}
sample:
  count: 20
  over:
    l2: {loguniform: [1e-6, 1e-2]}
    batch_size: {integer: [2, 3]}
    momentum.beta: {uniform: [0.5, 0.6]}
    momentum.placement: {choice: [update, worker]}
"""
    once, again = (load_sweep(write(tmp_path, text)).setups() for _ in range(2))
    assert once == again
    assert len(once) == 40
    assert len({setup.l2 for setup in once}) == 20  # each draw meets each value of the axes
    assert all(1e-6 <= setup.l2 <= 1e-2 and 0.5 <= setup.momentum.beta <= 0.6 for setup in once)
    assert {setup.batch_size for setup in once} == {2, 3}
    assert {setup.momentum.placement for setup in once} == {"update", "worker"}
    other = load_sweep(write(tmp_path, text.replace("count: 20", "count: 20\n  seed: 1"))).setups()
    assert other != once


BASE = "base: {dataset: digits, steps: 20, workers: 11, byzantine: 4, attack: little}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 3", "seed: unknown key, did you mean 'seeds'?"),
        ("seeds: 5-1", "seeds: got '5-1', expected seeds such as 1-5 or 1,3,7-9"),
        ("seeds: []", "seeds: got [], expected"),
        ("axes: {momentum.placement: [update], momentum: [{beta: 0.9}]}", "got momentum and momentum.placement"),
        ("sample: {count: 2, over: {l2: {uniform: [0, .inf]}}}", "sample.over.l2.uniform.1: got inf"),
        (
            BASE + "axes: {evaluation_interval: [0, 1]}\nearly_stopping: {}",
            "expected evaluation_interval >= 1",
        ),
        ("conditions: ['n > 1; n > 100']", "is more than one, expected one"),
        ("conditions: ['n = 11']", "is an assignment, expected a comparison with =="),
        ("seeds: [1, x]", "seeds.1: got 'x', expected an integer"),
        ("axes: [1]", "axes: got [1], expected"),
        ("axes: {aggregator: median}", "axes.aggregator: got 'median', expected a list"),
        ("axes: {aggregator: []}", "expected at least one value of aggregator"),
        ("axes: {agregator: [median]}", "agregator: unknown key, did you mean 'aggregator'?"),
        ("axes: {aggregator: [medan]}", "aggregator='medan': aggregator: got 'medan', there is no aggregator 'medan'"),
        (BASE + "axes: {aggregator: [median, bulyan]}", "aggregator='bulyan': aggregator: bulyan needs n >= 4f+3"),
        ("axes: {momentum.placement: [wrker]}", "momentum.placement='wrker': momentum.placement: got 'wrker'"),
        (
            "axes: {workers.x: [1]}\nbase: {workers: 5}",
            "workers.x=1: workers.x: cannot be set, workers is 5, not a mapping",
        ),
        ("axes: {seed: [1, 2]}", "seeds in 'seeds'"),
        ("axes: {steps: [1]}\ntogether: [{steps: [2]}]", "expected each parameter in one place"),
        (
            "together: [{steps: [1], batch_size: [2, 3]}]",
            "expected the same number of values for each key, got 1 of steps, 2 of batch_size",
        ),
        ("conditions: [nn > 3]", "condition 'nn > 3': 'nn' is unknown, did you mean 'n'?"),
        ("conditions: [n]", "condition 'n': its value is 11, expected true or false"),
        ("conditions: ['n >']", "condition 'n >': is not an expression"),
        ("conditions: ['n > 100']", "no setup meets the conditions"),
        ("base: nowhere.yaml", "there is no such file"),
        ("base: 3", "base: got 3, expected a text or a mapping"),
        ("sample: {count: 0, over: {l2: {uniform: [0, 1]}}}", "sample.count: got 0, expected a number > 0"),
        ("sample: {count: 2}", "sample.over: got nothing"),
        (
            "sample: {count: 2, over: {l2: {uniform: [1, 0]}}}",
            "expected uniform: [LEAST, GREATEST] with LEAST < GREATEST",
        ),
        ("sample: {count: 2, over: {l2: {loguniform: [0, 1]}}}", "with LEAST > 0"),
        ("sample: {count: 2, over: {l2: {unifrm: [0, 1]}}}", "did you mean 'uniform'?"),
        ("sample: {count: 2, over: {l2: {uniform: [0, 1], choice: [1]}}}", "expected exactly one of uniform"),
        ("sample: {count: 2, over: {l2: {uniform: [-2, -1]}}}", "l2: got -"),
        ("sample: {count: 2, search: optuna, over: {l2: {uniform: [-2, -1]}}}", "l2: got -"),
        ("sample: {count: 2, search: optuna, over: {l2: {uniform: [0, 1]}}}\naxes: {steps: [1]}", "expected no axes"),
        ("sample: {count: 2, search: grid, over: {l2: {uniform: [0, 1]}}}", "sample.search: got 'grid', expected"),
        ("early_stopping: {grace: 3}", "early_stopping.grace: unknown key"),
        ("early_stopping: {reduction_factor: 1}", "early_stopping.reduction_factor: got 1, expected a number > 1"),
        ("- 1", "expected a mapping of fields"),
        ("{", "is not valid YAML"),
    ],
)
def test_a_wrong_file_gets_one_message(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SweepError) as caught:
        load_sweep(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "in the sweep" in str(caught.value)


def test_a_mistake_that_many_setups_share_is_reported_once(tmp_path: Path) -> None:
    text = BASE + "axes: {steps: [1, 2, 3], aggregator: [bulyan]}"
    with pytest.raises(SweepError) as caught:
        load_sweep(write(tmp_path, text))
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("steps=1, aggregator='bulyan' (and 2 more): aggregator: bulyan needs")


def test_there_is_no_such_sweep() -> None:
    with pytest.raises(SweepError, match="there is no such sweep: expected demo, paper, appendix, or a YAML file"):
        load_sweep("papers")


def test_a_seed_counts_once_and_the_bases_is_the_default(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path, "seeds: [2, 1, 2]\n")).seeds == (2, 1)
    assert load_sweep(write(tmp_path, "base: {seed: 7}\n")).seeds == (7,)
    assert load_sweep(write(tmp_path, "{}")).seeds == (1,)


def test_a_layout_of_the_base_stays_but_for_the_workers(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, "base: {actors: {cpus_per_actor: 0.5}}\n")).laid_out(4)
    (setup,) = sweep.setups()
    assert setup.actors is not None
    assert (setup.actors.workers_per_actor, setup.actors.cpus_per_actor) == (4, 0.5)


def test_optuna_has_no_only(tmp_path: Path) -> None:
    text = "sample: {count: 2, search: optuna, over: {l2: {uniform: [0, 1]}}}"
    with pytest.raises(SweepError, match="--only: cannot select"):
        load_sweep(write(tmp_path, text)).setups(("f == 3",))


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-3", [1, 2, 3]), ("1, 4-5,1", [1, 4, 5]), ("0-0", [0])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1;2", "1.5"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="expected seeds such as"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("aggregator == 'median' and attack == 'little'", True),
        ("aggregator in ('krum', 'bulyan')", False),
        ("n == 11 and f == 4 and honest == 7 and tolerated == 4", True),
        ("rate == 0.2 and not nesterov and placement == 'worker'", True),
        ("momentum.beta > 0.95", False),
        ("dataset != 'digits' or n >= 2*f + 3", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    content = {"aggregator": "median", "attack": {"name": "little"}, "byzantine": 4, "learning_rate": 0.2}
    assert Condition(text).holds(condition_variables(content)) is holds


MVR = {"momentum": {"name": "mvr", "a": 0.3}}


@pytest.mark.parametrize(
    ("content", "text", "holds"),
    [
        ({}, "momentum.name == 'mvr'", False),
        ({}, "momentum.name == 'heavy-ball' and momentum.beta == 0.9", True),
        ({"momentum": {"beta": 0.5}}, "momentum.name == 'mvr' or momentum.beta == 0.5", True),
        (MVR, "momentum.name == 'mvr' and momentum.a == 0.3", True),
        ({"momentum": {"name": "mvr"}}, "momentum.a == 0.1", True),
        ({"momentum": "mvr"}, "momentum.name == 'mvr' and momentum.a == 0.1", True),
        ({"momentum": "heavy-ball"}, "momentum.name == 'heavy-ball' and momentum.beta == 0.9", True),
        (MVR, "momentum.name != 'mvr' and momentum.beta > 0.5", False),
        (MVR, "placement == 'worker' and not nesterov", True),
    ],
)
def test_conditions_on_the_momentum(content: dict[str, Any], text: str, holds: bool) -> None:
    assert Condition(text).holds(condition_variables(content)) is holds
    described = Setup.model_validate(content).describe()  # as `--only` sees it
    assert Condition(text).holds(condition_variables(described)) is holds


@pytest.mark.parametrize(
    "content",
    [MVR, {"momentum": "mvr"}, Setup.model_validate(MVR).describe()],
    ids=["a mapping", "a name", "a description"],
)
@pytest.mark.parametrize("option", ["beta", "dampening"])
def test_an_option_of_the_other_momentum_is_not_there(content: dict[str, Any], option: str) -> None:
    with pytest.raises(ConditionError, match=option):
        Condition(f"momentum.{option} >= 0").holds(condition_variables(content))


def test_an_axis_of_momenta_is_told_apart_by_a_condition(tmp_path: Path) -> None:
    text = """
base: {dataset: digits, workers: 5, aggregator: median}
axes: {momentum: [mvr, {name: mvr, a: 0.5}, {beta: 0.5}], local_steps: [1, 2]}
conditions: ["momentum.name != 'mvr' or local_steps == 1"]
"""
    setups = load_sweep(write(tmp_path, text)).setups()
    assert [(one.momentum.name, one.momentum.a, one.local_steps) for one in setups] == [
        ("mvr", 0.1, 1),
        ("mvr", 0.5, 1),
        ("heavy-ball", None, 1),
        ("heavy-ball", None, 2),
    ]


PRE = "base: {dataset: digits, workers: 11, byzantine: 1, attack: little, aggregator: median, pre: %s}\n"


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("[{name: bucketing, size: 2}, nnm]", ["bucketing", "nnm"]),
        ("[nnm, bucketing]", ["nnm", "bucketing"]),
        ("bucketing", ["bucketing"]),
        ("{name: bucketing, size: 2}", ["bucketing"]),
    ],
)
def test_an_axis_may_be_an_option_of_a_pre_aggregator(tmp_path: Path, pre: str, expected: list[str]) -> None:
    text = f"{PRE % pre}axes: {{pre.bucketing.size: [1, 3]}}\nreference: false"
    setups = load_sweep(write(tmp_path, text)).setups()
    assert [[part.label() for part in one.pre] for one in setups] == [expected, expected]
    position = expected.index("bucketing")
    assert [one.describe()["pre"][position] for one in setups] == [{"name": "bucketing", "size": k} for k in (1, 3)]


def test_a_condition_on_an_option_of_a_pre_aggregator(tmp_path: Path) -> None:
    text = f"{PRE % '[bucketing, nnm]'}axes: {{pre.bucketing.size: [1, 2, 3]}}\nreference: false\n"
    setups = load_sweep(write(tmp_path, f"{text}conditions: ['pre.bucketing.size > 1']")).setups()
    assert [one.describe()["pre"][0]["size"] for one in setups] == [2, 3]


@pytest.mark.parametrize(
    ("pre", "axis", "message"),
    [
        ("nnm", "pre.bucketing.size: [2]", "pre.bucketing.size: cannot be set, pre is 'nnm', without 'bucketing'"),
        ("none", "pre.bucketing.size: [2]", "pre.bucketing.size: cannot be set, pre is 'none', without 'bucketing'"),
        ("[bucketing]", "pre.bucketing.sizes: [2]", "pre.0.sizes: unknown key, did you mean 'size'?"),
        ("[bucketing]", "pre.bucketing.size: [0]", "pre.0.size: got 0, expected a number > 0"),
        ("[3, bucketing]", "pre.bucketing.size: [2]", "pre.0: got 3, expected"),
    ],
)
def test_a_wrong_axis_of_a_pre_aggregator_gets_one_message(tmp_path: Path, pre: str, axis: str, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        load_sweep(write(tmp_path, f"{PRE % pre}axes: {{{axis}}}"))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "n.__class__ == 1", "open('x') == 1", "9**9**9 > 1"])
def test_conditions_cannot_do_anything_else(text: str) -> None:
    with pytest.raises(ConditionError):
        Condition(text).holds(condition_variables({}))


def test_only_keeps_the_reference_of_what_it_keeps(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, GOOD))
    chosen = sweep.setups(("aggregator == 'median' and batch_size == 4",))
    assert [setup.attack is None for setup in chosen] == [True, False, False, False, False]
    assert [setup.attack is None for setup in sweep.setups(("attack == 'none'",))] == [True, True]
    with pytest.raises(SweepError, match="--only: no setup meets f == 3, expected at least one"):
        sweep.setups(("f == 3",))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("learning_rate.shape == 'cosine'", [0.3]),
        ("learning_rate.shape != 'cosine' and rate > 0.1", [0.2]),
        ("learning_rate.warmup == 4", [0.1]),
    ],
)
def test_conditions_over_forms_of_the_rate(condition: str, expected: list[float]) -> None:
    rates: list[Any] = [0.2, {"initial": 0.3, "shape": "cosine"}, {"initial": 0.1, "warmup": 4}]
    setups = [Setup.model_validate({"learning_rate": rate}) for rate in rates]
    known = [condition_variables(setup.describe()) for setup in setups]
    assert [one["rate"] for one in known if Condition(condition).holds(one)] == expected
