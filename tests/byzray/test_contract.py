"""Rules and attacks of the user's own that do what none must do: the run ends with their name, or warns of them."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from byzray import Setup, simulate
from byzray.aggregators import Aggregate, Aggregator, Median, SelectingAggregator
from byzray.attacks import Attack, Little
from byzray.mistakes import BrokenContract, Failure

Rule = Callable[[Tensor], Any]


def rule(aggregate: Rule) -> Aggregator:
    """A rule of a class of its own, called Own."""
    return type("Own", (Aggregator,), {"aggregate": lambda self, gradients_ND, f: aggregate(gradients_ND)})()


def selecting(select: Rule) -> Aggregator:
    return type("Own", (SelectingAggregator,), {"select": lambda self, gradients_ND, f: select(gradients_ND)})()


def attack(answer: Callable[[Tensor, int], Any]) -> Attack:
    return type(
        "Own", (Attack,), {"__call__": lambda self, honest_HD, byzantine, rule, f: answer(honest_HD, byzantine)}
    )()


def mean(gradients_ND: Tensor) -> Aggregate:
    return Aggregate(gradients_ND.mean(dim=0))


SEARCHED = {"name": "empire", "factor": "searched", "evaluations": 3}
ROWS = r"expected a tensor \(K,\) of torch.int64, rows of 0..6"
CHANGED = "changed the submissions it was given in place"
WRONG_RULES: dict[str, tuple[Aggregator, str]] = {
    "a tensor": (rule(lambda g: g.mean(dim=0)), r"returned Tensor, expected Aggregate\(vector_D\)"),
    "nothing": (rule(lambda g: None), r"returned NoneType, expected Aggregate\(vector_D\)"),
    "a list": (rule(lambda g: Aggregate(g[0].tolist())), r"returned Aggregate of list, expected of a tensor of shape"),
    "numpy": (rule(lambda g: Aggregate(g.numpy().mean(0))), r"returned Aggregate of ndarray, expected of a tensor"),
    "a matrix": (rule(lambda g: Aggregate(g[:1])), r"returned shape \(1, 34\), expected \(34,\)"),
    "a list of rows": (rule(lambda g: Aggregate(g[0], [0])), f"selected list, {ROWS}"),  # type: ignore[arg-type]
    "selects a list": (selecting(lambda g: [0, 1]), f"selected list, {ROWS}"),
    "selects by a mask": (selecting(lambda g: g[:, 0] < 9), f"selected a tensor of torch.bool, {ROWS}"),
    "selects nothing": (selecting(lambda g: torch.arange(0)), rf"selected a tensor of shape \(0,\), {ROWS}"),
    "selects beyond": (selecting(lambda g: torch.tensor([3, 7])), f"selected indices from 3 to 7, {ROWS}"),
    "selects below": (selecting(lambda g: torch.tensor([-1])), f"selected indices from -1 to -1, {ROWS}"),
}


@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("case", WRONG_RULES)
def test_a_rule_that_returns_something_else_is_named(small_setup: Setup, case: str, searched: bool) -> None:
    wrong, message = WRONG_RULES[case]
    setup = small_setup.changed(aggregator=wrong, **({"attack": SEARCHED} if searched else {}))
    with pytest.raises(BrokenContract, match=f"^aggregator Own {message}"):
        simulate(setup)


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
    setup = small_setup.changed(aggregator=rule(lambda g: Aggregate(g.nan_to_num().mean(dim=0))), attack="nan")
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
    def learnt(gradients_ND: Tensor) -> Aggregate:
        weights_N = torch.full((len(gradients_ND),), 1 / len(gradients_ND), requires_grad=True)
        return Aggregate(weights_N @ gradients_ND)

    found = simulate(small_setup.changed(aggregator=rule(learnt), attack=attack(lambda h, k: _leaf(h[:k]) * 2)))
    assert np.isfinite(found.parameters).all()


def _leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


GENERATOR = np.random.default_rng(0)
CALLS = 0


class OfGlobalGenerator(Aggregator):
    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        return Aggregate(gradients_ND.mean(dim=0) * GENERATOR.uniform())


class Counts(Aggregator):
    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        global CALLS
        CALLS += 1
        return mean(gradients_ND)


class Remembers(Aggregator):
    _last: Any = PrivateAttr(None)

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        self._last = gradients_ND.mean(dim=0) if self._last is None else 0.5 * self._last + gradients_ND.mean(dim=0)
        return Aggregate(self._last)


class RemembersInItsClass(Aggregator):
    past: ClassVar[list[float]] = []

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        self.past.append(float(gradients_ND.sum()))
        return mean(gradients_ND)


class Prepares(Aggregator):
    """Keeps what follows from the number of submissions alone: nothing to warn of."""

    _weights: Any = PrivateAttr(None)

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        if self._weights is None:
            self._weights = torch.full((len(gradients_ND),), 1 / len(gradients_ND))
        return Aggregate(self._weights @ gradients_ND)


class SeedsItsOwn(Aggregator):
    """Draws from a generator that it makes at every call: nothing to warn of."""

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        generator = torch.Generator().manual_seed(3)
        return Aggregate(
            gradients_ND[torch.randperm(len(gradients_ND), generator=generator)[: len(gradients_ND) - f]].mean(0)
        )


def draws(where: str) -> Rule:
    def aggregate(gradients_ND: Tensor) -> Aggregate:
        drawn = {
            "PyTorch": lambda: float(torch.rand(())),
            "numpy": lambda: np.random.rand(),  # noqa: NPY002
            "Python": random.random,
        }
        return Aggregate(gradients_ND.mean(dim=0) * drawn[where]())

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


@pytest.mark.parametrize("quiet", [Prepares(), SeedsItsOwn(), rule(mean), Median()], ids=lambda quiet: quiet.label())
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
