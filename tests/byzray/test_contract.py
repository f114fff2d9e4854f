"""Rules and attacks of the user's own that do what none must do: the run ends with their name, or warns of them."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr, ValidationError
from torch import Tensor

from byzray import Setup, simulate
from byzray.aggregators import Aggregate, Aggregator, Median, Selecting, Weighting
from byzray.aggregators._base import rows_of, weights_of
from byzray.aggregators.krum import Krum
from byzray.attacks import Attack, Little, View
from byzray.data import load_data
from byzray.mistakes import BrokenContract, Failure
from byzray.preaggregators import PreAggregator
from byzray.simulation import LocalSimulation
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Matrix, Submissions

Rule = Callable[[Tensor], Any]


def rule(aggregate: Rule) -> Aggregator:
    """A rule of a class of its own, called Own, that works on the matrix."""
    return type("Own", (Aggregator,), {"aggregate": lambda self, submissions, f: aggregate(submissions.rows_ND)})()


def stepping(step: Rule) -> Aggregator:
    """The same, but what implements the step: it returns whatever the outcome is."""
    return type("Own", (Aggregator,), {"step": lambda self, given, step_, state: (step(given.rows_ND), state)})()


def selecting(rows: Rule) -> Aggregator:
    return type("Own", (Selecting,), {"rows": lambda self, submissions, f: rows(submissions.rows_ND)})()


def weighting(weights: Rule) -> Aggregator:
    return type("Own", (Weighting,), {"weights": lambda self, submissions, f: weights(submissions.rows_ND)})()


def mixing(weights: Rule) -> PreAggregator:
    return type("Own", (PreAggregator,), {"weights": lambda self, submissions, step: weights(submissions.rows_ND)})()


def attack(answer: Callable[[Tensor, int], Any]) -> Attack:
    return type("Own", (Attack,), {"__call__": lambda self, honest_HD, view: answer(honest_HD, view.byzantine)})()


def mean(rows_ND: Tensor) -> Tensor:
    return rows_ND.mean(dim=0)


SEARCHED = {"name": "empire", "factor": "searched", "evaluations": 3}
VECTOR = r"expected a tensor \(D,\)"
ROWS = r"expected a tensor \(K,\) of torch.int64 or a list, rows of 0..6"
WEIGHTS = r"expected 7 numbers, a tensor \(N,\) or a list"
CHANGED = "changed the submissions it was given in place"
WRONG_RULES: dict[str, tuple[Aggregator, str]] = {
    "nothing": (rule(lambda g: None), f"returned NoneType, {VECTOR}"),
    "a list": (rule(lambda g: g[0].tolist()), f"returned list, {VECTOR}"),
    "numpy": (rule(lambda g: g.numpy().mean(0)), f"returned ndarray, {VECTOR}"),
    "an aggregate": (rule(lambda g: Aggregate(g[0])), f"returned Aggregate, {VECTOR}"),
    "a matrix": (rule(lambda g: g[:1] * 1), r"returned shape \(1, 34\), expected \(34,\)"),
    "complex": (rule(lambda g: g[0] * 1j), "returned torch.complex64, expected torch.float32"),
    "a step with nothing": (stepping(lambda g: None), f"returned NoneType, {VECTOR}"),
    "a step with a matrix": (stepping(lambda g: g[:1] * 1), r"returned shape \(1, 34\), expected \(34,\)"),
    "an aggregate of a list": (stepping(lambda g: Aggregate(g[0].tolist())), f"returned list, {VECTOR}"),
    "an aggregate of a matrix": (stepping(lambda g: Aggregate(g * 1)), r"returned shape \(7, 34\), expected \(34,\)"),
    "selects a number": (selecting(lambda g: 3), f"selected int, {ROWS}"),
    "selects other things": (selecting(lambda g: [0, 1.5]), f"selected list, {ROWS}"),
    "selects by a list of bools": (selecting(lambda g: [True] * 7), f"selected list, {ROWS}"),
    "selects by a mask": (selecting(lambda g: g[:, 0] < 9), f"selected a tensor of torch.bool, {ROWS}"),
    "selects nothing": (selecting(lambda g: torch.arange(0)), rf"selected a tensor of shape \(0,\), {ROWS}"),
    "selects an empty list": (selecting(lambda g: []), rf"selected a tensor of shape \(0,\), {ROWS}"),
    "selects beyond": (selecting(lambda g: torch.tensor([3, 7])), f"selected indices from 3 to 7, {ROWS}"),
    "selects beyond by a list": (selecting(lambda g: [3, 7]), f"selected indices from 3 to 7, {ROWS}"),
    "selects below": (selecting(lambda g: torch.tensor([-1])), f"selected indices from -1 to -1, {ROWS}"),
    "weighs with a number": (weighting(lambda g: 0.5), f"returned float as weights, {WEIGHTS}"),
    "weighs with words": (weighting(lambda g: ["1"] * 7), f"returned list as weights, {WEIGHTS}"),
    "weighs too few": (weighting(lambda g: [0.5] * 6), rf"returned a tensor of shape \(6,\) as weights, {WEIGHTS}"),
    "weighs with integers": (
        weighting(lambda g: torch.ones(7, dtype=torch.int64)),
        f"returned a tensor of torch.int64 as weights, {WEIGHTS}",
    ),
    "an aggregate of a row": (stepping(lambda g: Aggregate(mean(g), rows_K=3)), f"selected int, {ROWS}"),  # type: ignore[arg-type]
    "an aggregate of a mask": (
        stepping(lambda g: Aggregate(mean(g), rows_K=g[:, 0] < 9)),
        f"selected a tensor of torch.bool, {ROWS}",
    ),
    "an aggregate of no rows": (
        stepping(lambda g: Aggregate(mean(g), rows_K=torch.arange(0))),
        rf"selected a tensor of shape \(0,\), {ROWS}",
    ),
    "an aggregate of rows beyond": (
        stepping(lambda g: Aggregate(mean(g), rows_K=torch.tensor([3, 7]))),
        f"selected indices from 3 to 7, {ROWS}",
    ),
    "an aggregate of too few weights": (
        stepping(lambda g: Aggregate(mean(g), weights_N=torch.ones(6))),
        rf"returned a tensor of shape \(6,\) as weights, {WEIGHTS}",
    ),
    "an aggregate of a weight": (
        stepping(lambda g: Aggregate(mean(g), weights_N=0.5)),  # type: ignore[arg-type]
        f"returned float as weights, {WEIGHTS}",
    ),
    "an aggregate of integer weights": (
        stepping(lambda g: Aggregate(mean(g), weights_N=torch.ones(7, dtype=torch.int64))),
        f"returned a tensor of torch.int64 as weights, {WEIGHTS}",
    ),
}


@pytest.mark.filterwarnings("ignore:Casting complex values")  # where a search compares them
@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", WRONG_RULES)
def test_a_rule_that_returns_something_else_is_named(small_setup: Setup, case: str, searched: bool) -> None:
    wrong, message = WRONG_RULES[case]
    setup = small_setup.changed(aggregator=wrong, **({"attack": SEARCHED} if searched else {}))
    with pytest.raises(BrokenContract, match=f"^aggregator Own {message}"):
        simulate(setup)


WRONG_MIXTURES: dict[str, tuple[Rule, str]] = {
    "a list": (lambda g: [[1.0] * 7] * 7, "list"),
    "one of integers": (lambda g: torch.eye(7, dtype=torch.int64), "a tensor of torch.int64"),
    "too few": (lambda g: torch.eye(7)[:4], r"a tensor of shape \(4, 7\)"),
    "one row": (lambda g: torch.ones(7) / 7, r"a tensor of shape \(7,\)"),
}


@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", WRONG_MIXTURES)
def test_a_pre_aggregator_that_returns_something_else_is_named(small_setup: Setup, case: str, searched: bool) -> None:
    wrong, found = WRONG_MIXTURES[case]
    setup = small_setup.changed(pre=[mixing(wrong)], **({"attack": SEARCHED} if searched else {}))
    expected = r"expected a tensor \(M, N\) of shape \(7, 7\)"
    with pytest.raises(BrokenContract, match=f"^pre-aggregator Own returned {found} as weights, {expected}$"):
        simulate(setup)


# Each of them means the last five of seven rows.
ACCEPTED: dict[str, Aggregator] = {
    "a tensor": rule(lambda g: mean(g[2:])),
    "a tensor from a step": stepping(lambda g: mean(g[2:])),
    "an aggregate from a step": stepping(lambda g: Aggregate(mean(g[2:]))),
    "an aggregate formed later": stepping(lambda g: Aggregate(lambda: mean(g[2:]))),
    "a list of rows": selecting(lambda g: [2, 3, 4, 5, 6]),
    "a tuple of rows": selecting(lambda g: (2, 3, 4, 5, 6)),
    "rows of 32 bits": selecting(lambda g: torch.arange(2, 7, dtype=torch.int32)),
    "a list of weights": weighting(lambda g: [0, 0, *[0.2] * 5]),
    "weights of 32 bits": weighting(lambda g: torch.tensor([0, 0, *[0.2] * 5])),
    "weights that are learnt": weighting(lambda g: torch.tensor([0, 0, *[0.2] * 5], requires_grad=True)),
}


@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", ACCEPTED)
def test_any_of_these_may_be_returned(small_setup: Setup, case: str, searched: bool) -> None:
    changes = {"attack": SEARCHED} if searched else {}
    accepted = ACCEPTED[case]
    found = simulate(small_setup.changed(aggregator=accepted, **changes))
    expected = simulate(small_setup.changed(aggregator=rule(lambda g: mean(g[2:])), **changes))
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-4, atol=1e-6)
    acceptance = found.metrics["Attack acceptation ratio"].to_numpy()
    known = isinstance(accepted, Selecting | Weighting)
    np.testing.assert_allclose(acceptance, 0.4 if known else np.nan, rtol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [lambda g: torch.eye(7), lambda g: torch.eye(7).double().requires_grad_()],
    ids=["of 32 bits", "that are learnt"],
)
def test_a_pre_aggregator_may_return_weights_of_any_precision(small_setup: Setup, weights: Rule) -> None:
    found = simulate(small_setup.changed(pre=[mixing(weights)]))
    np.testing.assert_allclose(found.parameters, simulate(small_setup).parameters, rtol=1e-4, atol=1e-6)


SHARES = [0.0, 0.0, *[0.2] * 5]
KNOWN: dict[str, Rule] = {
    "rows": lambda g: Aggregate(mean(g[2:]), rows_K=torch.arange(2, 7)),
    "rows of 32 bits": lambda g: Aggregate(mean(g[2:]), rows_K=torch.arange(2, 7, dtype=torch.int32)),
    "a list of rows": lambda g: Aggregate(mean(g[2:]), rows_K=[2, 3, 4, 5, 6]),  # type: ignore[arg-type]
    "weights": lambda g: Aggregate(mean(g[2:]), weights_N=torch.tensor(SHARES, dtype=torch.float64)),
    "weights of 32 bits": lambda g: Aggregate(mean(g[2:]), weights_N=torch.tensor(SHARES)),
    "a list of weights": lambda g: Aggregate(mean(g[2:]), weights_N=SHARES),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("pre", [[], [mixing(lambda g: torch.eye(7))]], ids=["alone", "mixed"])
@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", KNOWN)
def test_what_an_aggregate_holds_of_each_row_is_known(
    small_setup: Setup, case: str, searched: bool, pre: list[PreAggregator]
) -> None:
    setup = small_setup.changed(pre=pre, **({"attack": SEARCHED} if searched else {}))
    found = simulate(setup.changed(aggregator=stepping(KNOWN[case])))
    expected = simulate(setup.changed(aggregator=rule(lambda g: mean(g[2:]))))
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.metrics["Attack acceptation ratio"], 0.4, rtol=1e-6)


def test_lists_go_where_the_submissions_are() -> None:
    elsewhere = Matrix(torch.empty(7, 3, device="meta"))
    for own in (rule(mean), Median()):
        assert rows_of(own, [2, 3], elsewhere).device == elsewhere.device
        assert weights_of(own, [1.0] * 7, elsewhere).device == elsewhere.device
    here = Matrix(torch.zeros(7, 3))
    assert rows_of(rule(mean), (2, 3), here).tolist() == [2, 3]
    assert weights_of(rule(mean), (1,) * 7, here).tolist() == [1.0] * 7


# Mistakes that have nothing to do with an earlier version


def helper(rows_ND: Tensor, f: int) -> Tensor:
    return rows_ND[f]


SLIPS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "a typo": (lambda given: given.row_ND.mean(dim=0), AttributeError, "no attribute 'row_ND'"),
    "a typo in a tensor": (lambda given: given.rows_ND.maen(dim=0), AttributeError, "no attribute 'maen'"),
    "a forgotten argument": (lambda given: helper(), TypeError, "missing 2 required positional arguments"),  # type: ignore[call-arg]
    "None": (lambda given: None + given.rows_ND, TypeError, "unsupported operand"),  # type: ignore[operator]
}


@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=str)
@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_keeps_pythons_own_words(small_setup: Setup, case: str, searched: bool, pre: list[str]) -> None:
    slip, kind, message = SLIPS[case]
    wrong = type("Own", (Aggregator,), {"aggregate": lambda self, submissions, f: slip(submissions)})()
    setup = small_setup.changed(aggregator=wrong, pre=pre, **({"attack": SEARCHED} if searched else {}))
    with pytest.raises(kind, match=message) as caught:
        simulate(setup)
    assert not isinstance(caught.value, BrokenContract)
    assert "0.1" not in str(caught.value)
    assert caught.value.__notes__ == ["raised by aggregator Own"]


# Classes written for byzray 0.1

OLD_RULES: dict[str, Callable[[Any], Any]] = {
    "a method": lambda g: Aggregate(g.mean(dim=0)),
    "an index": lambda g: Aggregate(g[0] * 1),
    "a length": lambda g: Aggregate(torch.full((len(g),), 1 / len(g)) @ g),
    "a function": lambda g: Aggregate(torch.mean(g, dim=0)),
    "an operator": lambda g: Aggregate((g * 2).mean(dim=0)),
    "a loop": lambda g: Aggregate(sum(row for row in g)),  # type: ignore[arg-type]
    "a shape": lambda g: Aggregate(torch.zeros(g.shape[1])),
}
OLD_RULE = (
    r"aggregator Own is written for byzray 0\.1: a rule is given Submissions, whose matrix is submissions\.rows_ND, "
    r"and returns a tensor; see docs/porting\.md$"
)


@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=str)
@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", OLD_RULES)
def test_a_rule_for_an_earlier_byzray_is_told_what_changed(
    small_setup: Setup, case: str, searched: bool, pre: list[str]
) -> None:
    old = type("Own", (Aggregator,), {"aggregate": lambda self, gradients_ND, f: OLD_RULES[case](gradients_ND)})()
    setup = small_setup.changed(aggregator=old, pre=pre, **({"attack": SEARCHED} if searched else {}))
    with pytest.raises(BrokenContract, match=f"^{OLD_RULE}"):
        simulate(setup)


class GoesOn(Median):
    name: ClassVar[str] = "Own"

    def aggregate(self, gradients_ND: Any, f: int) -> Any:
        return Aggregate(0.5 * super().aggregate(gradients_ND, f).vector_D)  # type: ignore[attr-defined]


def test_a_derived_rule_for_an_earlier_byzray_is_told_what_changed(small_setup: Setup) -> None:
    with pytest.raises(BrokenContract, match=f"^{OLD_RULE}"):
        simulate(small_setup.changed(aggregator=GoesOn()))


def test_an_attack_for_an_earlier_byzray_is_told_what_changed(small_setup: Setup) -> None:
    class Own(Attack):
        def __call__(self, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:  # type: ignore[override]
            return -honest_HD[:byzantine]

    old = Own()
    expected = (
        r"^attack .*Own is written for byzray 0\.1: an attack is called with \(honest_HD, view\), which has byzantine, "
        r"defence and step\.f; see docs/porting\.md$"
    )
    with pytest.raises(BrokenContract, match=expected):
        simulate(small_setup.changed(attack=old))


def test_a_selecting_rule_for_an_earlier_byzray_is_told_what_changed(
    small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "byzray_test_old.py").write_text("from byzray.aggregators import SelectingAggregator\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValidationError, match=r"since byzray 0\.2 it is Selecting, which implements rows.*docs/porting\.md"
    ):
        small_setup.changed(aggregator="byzray_test_old:Last")


# States


class Stated(Aggregator):
    """The mean; its state is what the test says."""

    first: Callable[[], Any]
    then: Callable[[State], Any]
    name: ClassVar[str] = "Own"

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return self.first()

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        return Aggregate(mean(submissions.rows_ND)), self.then(state)


class StatedAttack(Attack):
    first: Callable[[], Any]
    then: Callable[[State], Any]
    name: ClassVar[str] = "Own"

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return self.first()

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        return -honest_HD[: view.byzantine], self.then(state)


def two() -> State:
    return {"one": torch.zeros(2), "other": torch.zeros((), dtype=torch.int64)}


WRONG_STATES: dict[str, tuple[Callable[[], Any], Callable[[State], Any], str]] = {
    "none at the start": (lambda: None, lambda state: state, "None as its state, expected tensors by their names"),
    "numbers": (lambda: {"one": 1.0}, lambda state: state, r"\{'one': 1\.0\} as its state, expected tensors by"),
    "a list": (two, lambda state: list(state), r"\['one', 'other'\] as its state, expected tensors by their names"),
    "nothing": (two, lambda state: {}, "a state of nothing, expected one, other"),
    "one too few": (two, lambda state: {"one": state["one"]}, "a state of one, expected one, other"),
    "one too many": (dict, lambda state: {"more": torch.zeros(2)}, "a state of more, expected none"),
    "another name": (two, lambda s: {"one": s["one"], "some": s["other"]}, "a state of one, some, expected one, other"),
    "another shape": (
        two,
        lambda state: state | {"one": torch.zeros(3)},
        r"a state that changes its form: 'one' is \(3,\) torch\.float32, expected \(2,\) torch\.float32",
    ),
    "another type": (
        two,
        lambda state: state | {"other": state["other"] + 0.5},
        r"a state that changes its form: 'other' is \(\) torch\.float32, expected \(\) torch\.int64",
    ),
}


@pytest.mark.parametrize("kind", ["aggregator", "attack"])
@pytest.mark.parametrize("case", WRONG_STATES)
def test_a_state_of_another_form_is_refused(small_setup: Setup, case: str, kind: str) -> None:
    first, then, message = WRONG_STATES[case]
    wrong = (Stated if kind == "aggregator" else StatedAttack)(first=first, then=then)
    with pytest.raises(BrokenContract, match=f"^{kind} Own returned {message}"):
        simulate(small_setup.changed(**{kind: wrong}))


@pytest.mark.parametrize("attacked", [Little(), SEARCHED], ids=["little", "searched"])
def test_a_state_that_is_changed_in_place_is_noticed(small_setup: Setup, attacked: Any) -> None:
    """A search would otherwise leave something there at every evaluation."""
    wrong = Stated(first=two, then=lambda state: {**state, "one": state["one"].add_(1)})
    expected = "^aggregator Own changed the state it was given in place, expected that it returns another"
    with pytest.raises(BrokenContract, match=expected):
        simulate(small_setup.changed(aggregator=wrong, attack=attacked))


def test_a_state_that_an_attack_changes_in_place_is_noticed(small_setup: Setup) -> None:
    wrong = StatedAttack(first=two, then=lambda state: {**state, "one": state["one"].add_(1)})
    expected = "^attack Own changed the state it was given in place, expected that it returns another"
    with pytest.raises(BrokenContract, match=expected):
        simulate(small_setup.changed(attack=wrong))


def test_a_state_of_truth_values_goes_on_where_a_run_is_continued(small_setup: Setup) -> None:
    def first() -> State:
        return {"flags": torch.tensor([True, False, True])}

    def turn(state: State) -> State:
        return {"flags": state["flags"].roll(1) ^ state["flags"]}

    for kind, own in (("aggregator", Stated), ("attack", StatedAttack)):
        setup = small_setup.changed(**{kind: own(first=first, then=turn)})
        whole, part, again = (LocalSimulation(setup, load_data(setup)) for _ in range(3))
        whole.advance(9)
        part.advance(5)
        again.restore({name: tensor.clone() for name, tensor in part.state().items()}, 5)
        again.advance(9)
        name = "rule.flags" if kind == "aggregator" else "attack.flags"
        assert part.state()[name].dtype is torch.bool
        assert not torch.equal(part.state()[name], whole.state()[name])
        assert torch.equal(again.state()[name], whole.state()[name])


class StepsAhead(Attack):
    """Flips the signs, stronger from step to step, and adds noise that it draws from the step."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"strength": torch.ones((), dtype=torch.float64)}

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        noise_D = torch.from_numpy(view.step.generator("noise").normal(size=honest_HD.shape[1])).to(honest_HD.dtype)
        attack_D = -state["strength"].item() * mean(honest_HD) + 1e-2 * noise_D
        return attack_D.expand(view.byzantine, -1), {"strength": state["strength"] * 1.1}


@pytest.mark.parametrize("attacked", [SEARCHED, StepsAhead()], ids=["searched", "with a state"])
def test_draws_and_states_of_own_classes_go_on_where_a_run_is_continued(small_setup: Setup, attacked: Any) -> None:
    setup = small_setup.changed(aggregator=RemembersByItsState(), attack=attacked)
    data = load_data(setup)
    whole, first, second, other = (LocalSimulation(one, data) for one in (*[setup] * 3, setup.changed(seed=9)))
    whole.advance(12)
    first.advance(5)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()}, 5)
    second.advance(12)
    assert np.array_equal(second.parameters(), whole.parameters())
    assert {"rule.last", "rule.before"} <= set(first.state())
    assert ("attack.strength" in first.state()) == isinstance(attacked, StepsAhead)
    other.advance(12)
    assert not np.array_equal(other.parameters(), whole.parameters())
    without = LocalSimulation(setup, data)
    state = {name: torch.zeros_like(t) if name == "rule.before" else t for name, t in first.state().items()}
    without.restore(state, 5)
    without.advance(12)
    assert not np.array_equal(without.parameters(), whole.parameters())


def test_what_a_state_hands_on_from_name_to_name_arrives(small_setup: Setup) -> None:
    """The new state lies in the old one's memory where that is written to."""
    simulation = LocalSimulation(small_setup.changed(aggregator=RemembersByItsState()), load_data(small_setup))
    seen = []
    for step in range(4):
        simulation.advance(step + 1)
        state = simulation.server.defence_state
        seen.append(state["last"].clone())
        before_D = seen[step - 1] if step else torch.zeros_like(state["before"])
        assert torch.equal(state["before"], before_D)
        assert not torch.equal(state["last"], state["before"])


class Late(Aggregator):
    """The mean of the step before."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"last": torch.zeros_like(like_D)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        return Aggregate(state["last"]), {"last": mean(submissions.rows_ND)}


class LateAttack(Attack):
    """The mean of the step before, as the state holds it."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"last": torch.zeros_like(like_D)}

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        return state["last"].expand(view.byzantine, -1), {"last": mean(honest_HD)}


def test_what_is_returned_may_lie_in_the_state(small_setup: Setup) -> None:
    """It is read before the new state is written there."""
    setup = small_setup.changed(aggregator=Late(), attack=LateAttack(), momentum={"beta": 0.0})
    simulation = LocalSimulation(setup, load_data(setup))
    server = simulation.server
    thetas, aggregates, attacks = [server.theta_D.clone()], [], []
    last_D = honest_D = torch.zeros_like(thetas[0])
    for step in range(4):
        simulation.advance(step + 1)
        thetas.append(server.theta_D.clone())
        aggregates.append(last_D)
        attacks.append(honest_D)
        last_D, honest_D = server.defence_state["last"].clone(), server.adversary.state["last"].clone()
        torch.testing.assert_close(thetas[step + 1], thetas[step] - 0.1 * aggregates[step])
        assert torch.equal(server.submissions_ND[5:], attacks[step].expand(2, -1))
        assert torch.equal(last_D, mean(server.submissions_ND))
        assert not torch.equal(last_D, aggregates[step])
        assert not torch.equal(honest_D, attacks[step])


IN_PLACE: dict[str, Rule] = {
    "PyTorch": lambda g: mean(g.sub_(1)),
    "a view": lambda g: mean(g[1:].zero_()),
    "numpy": lambda g: mean(torch.from_numpy(_sorted_in_place(g.numpy()))),
    "data": lambda g: mean(g.data.mul_(2)),
}


def _sorted_in_place(values: Any) -> Any:
    values.sort(axis=0)
    return values


@pytest.mark.parametrize("case", IN_PLACE)
def test_a_rule_that_changes_the_submissions_is_named(small_setup: Setup, case: str) -> None:
    with pytest.raises(BrokenContract, match=f"^aggregator Own {CHANGED}.*clone"):
        simulate(small_setup.changed(aggregator=rule(IN_PLACE[case])))


def test_nan_is_no_change(small_setup: Setup) -> None:
    setup = small_setup.changed(aggregator=rule(lambda g: g.nan_to_num().mean(dim=0)), attack="nan")
    assert np.isfinite(simulate(setup).parameters).all()


WRONG_ATTACKS: dict[str, tuple[Any, str]] = {
    "a list": (lambda h, k: [h[0]] * k, r"returned list, expected a tensor of shape \(2, 34\)"),
    "numpy": (lambda h, k: h[:k].numpy(), r"returned ndarray, expected a tensor of shape \(2, 34\)"),
    "one vector": (lambda h, k: -h[0], r"returned shape \(34,\), expected \(2, 34\)"),
    "complex": (lambda h, k: h[:k] * 1j, "returned torch.complex64, expected torch.float32"),
    "in place": (lambda h, k: h.neg_()[:k], CHANGED),
}


@pytest.mark.parametrize("case", WRONG_ATTACKS)
def test_an_attack_that_does_something_else_is_named(small_setup: Setup, case: str) -> None:
    answer, message = WRONG_ATTACKS[case]
    with pytest.raises(BrokenContract, match=f"^attack Own {message}"):
        simulate(small_setup.changed(attack=attack(answer)))


def test_an_error_in_a_rule_says_whose_it_is(small_setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        simulate(small_setup.changed(aggregator=rule(lambda g: 1 / 0)), output=tmp_path)
    assert failure.value.__notes__ == ["raised by aggregator Own"]
    (directory,) = tmp_path.iterdir()
    assert "raised by aggregator Own" in (directory / "log.txt").read_text()


def test_theta_does_not_remember_how_a_rule_computed(small_setup: Setup) -> None:
    def learnt(rows_ND: Tensor) -> Tensor:
        return torch.full((len(rows_ND),), 1 / len(rows_ND), requires_grad=True) @ rows_ND

    found = simulate(small_setup.changed(aggregator=rule(learnt), attack=attack(lambda h, k: _leaf(h[:k]) * 2)))
    assert np.isfinite(found.parameters).all()


def _leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


GENERATOR = np.random.default_rng(0)
CALLS = 0


class OfGlobalGenerator(Aggregator):
    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return mean(submissions.rows_ND) * GENERATOR.uniform()


class Counts(Aggregator):
    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        global CALLS
        CALLS += 1
        return mean(submissions.rows_ND)


class Remembers(Aggregator):
    _last: Any = PrivateAttr(None)

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        mean_D = mean(submissions.rows_ND)
        self._last = mean_D if self._last is None else 0.5 * self._last + mean_D
        return self._last * 1


class RemembersInItsClass(Aggregator):
    past: ClassVar[list[float]] = []

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        self.past.append(float(submissions.rows_ND.sum()))
        return mean(submissions.rows_ND)


class Prepares(Aggregator):
    """Keeps what follows from the number of submissions alone: nothing to warn of."""

    _weights: Any = PrivateAttr(None)

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        if self._weights is None:
            self._weights = torch.full((submissions.n,), 1 / submissions.n)
        return self._weights @ submissions.rows_ND


class SeedsItsOwn(Aggregator):
    """Draws from a generator that it makes at every call: nothing to warn of."""

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return mean(submissions.rows_ND[torch.randperm(submissions.n, generator=generator)[: submissions.n - f]])


class RemembersByItsState(Aggregator):
    """Averages the last two means, and adds noise that it draws from the step: nothing to warn of."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"last": torch.zeros_like(like_D), "before": torch.zeros_like(like_D)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        mean_D = mean(submissions.rows_ND)
        noise_D = torch.from_numpy(step.generator("noise").normal(size=len(mean_D))).to(mean_D.dtype)
        vector_D = (mean_D + state["last"] + state["before"]) / 3 + 1e-2 * noise_D
        return Aggregate(vector_D), {"last": mean_D, "before": state["last"]}


def draws(where: str) -> Rule:
    def aggregate(rows_ND: Tensor) -> Tensor:
        drawn = {
            "PyTorch": lambda: float(torch.rand(())),
            "numpy": lambda: np.random.rand(),  # noqa: NPY002
            "Python": random.random,
        }
        return mean(rows_ND) * drawn[where]()

    return aggregate


WARNED: dict[str, tuple[Aggregator, str]] = {
    **{
        where: (rule(draws(where)), f"draws from the global random state of {where},")
        for where in ("PyTorch", "numpy", "Python")
    },
    "a generator": (OfGlobalGenerator(), r"remembers something from one call to the next \(GENERATOR\)"),
    "a global": (Counts(), r"remembers something from one call to the next \(CALLS\)"),
    "an attribute": (Remembers(), r"remembers something from one call to the next \(_last\)"),
    "its class": (RemembersInItsClass(), r"remembers something from one call to the next \(past\)"),
}


@pytest.mark.parametrize("attacked", [Little(), SEARCHED], ids=["little", "searched"])
@pytest.mark.parametrize("case", WARNED)
def test_what_a_continued_run_would_compute_otherwise_is_warned_of_once(
    small_setup: Setup, case: str, attacked: Any
) -> None:
    warned, message = WARNED[case]
    setup = small_setup.changed(aggregator=warned, attack=attacked)
    with pytest.warns(UserWarning, match=f"^aggregator {warned.label()} {message}") as caught:
        simulate(setup)
    assert [one.filename for one in caught] == [__file__]
    events: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(setup, progress=lambda update: events.extend(update.events))
    assert [event.partition(", which byzray neither seeds nor saves")[0] for event in events] == [
        str(caught[0].message).partition(", which byzray neither seeds nor saves")[0]
    ]


QUIET = [Prepares(), SeedsItsOwn(), RemembersByItsState(), rule(mean), Median()]


@pytest.mark.parametrize("quiet", QUIET, ids=lambda quiet: quiet.label())
def test_of_others_nothing_is_said(small_setup: Setup, quiet: Aggregator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(small_setup.changed(aggregator=quiet, attack=SEARCHED))


def test_an_attack_that_draws_is_warned_of_also_in_the_log(small_setup: Setup, tmp_path: Path) -> None:
    noise = attack(lambda h, k: torch.randn(k, h.shape[1]))
    with pytest.warns(UserWarning, match="^attack Own draws from the global random state of PyTorch,"):
        result = simulate(small_setup.changed(attack=noise), output=tmp_path)
    assert result.directory is not None
    assert (result.directory / "log.txt").read_text().count("neither seeds nor saves") == 1


def test_broken_contracts_are_told_without_a_traceback() -> None:
    assert issubclass(BrokenContract, Failure)


class Lonely(Aggregator):
    """Returns the aggregate without a state."""

    def step(self, submissions: Submissions, step: Step, state: State) -> Any:
        return submissions.rows_ND[0].clone()


class LonelyAttack(Attack):
    """Returns the submissions without a state."""

    def step(self, honest_HD: Tensor, view: View, state: State) -> Any:
        return honest_HD[: view.byzantine]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": Lonely()}, "aggregator Lonely returned Tensor from step, expected an aggregate and a state"),
        ({"attack": LonelyAttack()}, "attack LonelyAttack returned Tensor from step, expected submissions and a state"),
    ],
)
def test_a_step_returns_a_pair(small_setup: Setup, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BrokenContract, match=message):
        simulate(small_setup.changed(**changes))


class Older(Krum):
    """Of byzray 0.1: it would be Krum."""

    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        return torch.arange(f)


def test_a_method_of_an_earlier_version_is_refused_rather_than_ignored(small_setup: Setup) -> None:
    message = r"written for an earlier version: select is rows\(submissions, f\) since byzray 0.2, see docs/porting.md"
    with pytest.raises(ValueError, match=message):
        small_setup.changed(aggregator=Older())
    with pytest.raises(ValueError, match=message):
        small_setup.changed(aggregator=f"{__name__}:Older")
