"""What a step computes once, and what lies in the same memory: equal Byzantine rows, spreads, momentum buffers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from byzray import Setup, parallel
from byzray.aggregators import AGGREGATORS
from byzray.attacks import Attack, Empire, Little, View
from byzray.attacks._line import LineAttack
from byzray.data import load_data
from byzray.defence import Defence
from byzray.deviations import Spread, spread
from byzray.mistakes import BrokenContract
from byzray.simulation import LocalSimulation
from byzray.step import Step


class Expanded(Attack):
    """A little is enough; its rows are one, expanded."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return Little()(honest_HD, view)


class Written(Attack):
    """The same, with each row in memory of its own."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return Little()(honest_HD, view).clone(memory_format=torch.contiguous_format)


class Spoils(Attack):
    """Changes the mean that it shares with the study."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return view.spread(honest_HD).mean_D.mul_(-1).expand(view.byzantine, -1)


RULES = sorted(name for name in AGGREGATORS.classes if name not in ("random-mixture", "fltrust", "minimum-diameter"))
FAULTS = {"missing": "zero", "events": [{"kind": "crash", "workers": 1, "steps": "2-3"}]}


@pytest.mark.parametrize("faults", [None, FAULTS], ids=["all", "some missing"])
@pytest.mark.parametrize("worthwhile", [1, math.inf], ids=["compiled", "plain"])
@pytest.mark.parametrize("rule", RULES)
def test_equal_rows_are_treated_as_if_each_were_written(
    rule: str, worthwhile: float, faults: dict[str, Any] | None, small_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "WORTHWHILE", worthwhile)
    setup = small_setup.changed(aggregator=rule, workers=11, byzantine=2, steps=5, actors=None, faults=faults)
    data = load_data(setup)
    expanded, written = (LocalSimulation(setup.changed(attack=attack()), data) for attack in (Expanded, Written))
    rows = [torch.from_numpy(one.advance(5)) for one in (expanded, written)]
    # Distances between equal rows are those of one of them, whose last digits those of the others need not have.
    torch.testing.assert_close(*rows, rtol=1e-5, atol=1e-7, equal_nan=True)
    found, expected = (torch.from_numpy(one.parameters()) for one in (expanded, written))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def view(honest: Spread | None) -> View:
    defence = Defence([], AGGREGATORS.parse("median")).at(Step(n=9, f=2), {})
    return View(Step(n=9, f=2), 2, defence, tuple(range(7)), honest=honest)


@pytest.mark.parametrize("attack", [Little(), Empire()])
def test_a_known_spread_counts_for_its_own_vectors_only(attack: Attack) -> None:
    honest_HD = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    known, unknown = view(spread(honest_HD)), view(None)
    for rows_KD in (honest_HD, honest_HD[:3], honest_HD[::2], 2 * honest_HD):
        assert torch.equal(attack(rows_KD, known), attack(rows_KD, unknown))
        assert torch.equal(known.mean(rows_KD), unknown.mean(rows_KD))
    assert known.spread(honest_HD) is known.honest
    assert known.spread(honest_HD[:3]) is not known.honest


def test_an_attack_must_not_change_what_it_shares_with_the_study(small_setup: Setup) -> None:
    setup = small_setup.changed(attack=Spoils(), actors=None)
    with pytest.raises(BrokenContract, match="in place"):
        LocalSimulation(setup, load_data(setup)).advance(1)


def test_momentum_lies_where_submissions_are_read(small_setup: Setup) -> None:
    """Also after a state is restored and a worker crashed, and with the same result as elsewhere."""
    setup = small_setup.changed(actors=None, faults={"missing": "zero", "events": [FAULTS["events"][0]]})
    data = load_data(setup)
    whole, apart, resumed = (LocalSimulation(setup, data) for _ in range(3))
    apart.cohort.momentum.buffers_KD = apart.server.trained_TD.clone()
    for simulation in (whole, apart):
        simulation.advance(3)
    buffers_KD = whole.cohort.momentum.buffers_KD
    assert buffers_KD is not None
    assert buffers_KD.data_ptr() == whole.server.trained_TD.data_ptr()
    resumed.restore({name: tensor.clone() for name, tensor in whole.state().items()}, 3)
    assert resumed.cohort.momentum.buffers_KD is not None
    assert resumed.cohort.momentum.buffers_KD.data_ptr() == resumed.server.trained_TD.data_ptr()
    for simulation in (whole, apart, resumed):
        simulation.advance(7)
    for other in (apart, resumed):
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in whole.state().items())


class OldLine(LineAttack):
    """Of byzray 0.1."""

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> Any:  # type: ignore[override]
        return mean_D, -mean_D, 1.0


def test_an_attack_on_a_line_of_an_earlier_version_is_refused(small_setup: Setup) -> None:
    with pytest.raises(ValueError, match=r"is line\(honest, byzantine\) since byzray 0.2"):
        small_setup.changed(attack=f"{__name__}:OldLine")
