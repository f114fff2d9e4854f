"""Searched attacks: the harm of a rule on a line against that of the rows, and that no search waits for a GPU."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from byzray import line as line_module
from byzray.aggregators import (
    AGGREGATORS,
    Aggregator,
    Average,
    Krum,
    Median,
    MinimumDiameter,
    MultiKrum,
    Selecting,
    Weighting,
)
from byzray.attacks import AntiCge, Attack, Empire, EmpireStrict, Hidden, LineAttack, Little, Nan, View
from byzray.attacks._line import _harm
from byzray.defence import Bound, Defence
from byzray.deviations import spread
from byzray.distances import distances, norms
from byzray.line import Line
from byzray.order_statistics import order_statistics
from byzray.preaggregators import PREAGGREGATORS
from byzray.step import Step
from byzray.submissions import Matrix, Submissions, uniform

VARIANTS: list[Any] = [
    "average",
    "median",
    "trimmed-mean",
    "phocas",
    "meamed",
    "multi-krum",
    {"name": "multi-krum", "m": 2},
    {"name": "multi-krum", "squared": True, "neighbours": "n-f-2"},
    "krum",
    "bulyan",
    {"name": "bulyan", "m": 2},
    {"name": "bulyan", "rescore": True},
    "minimum-diameter",
    "aksel",
    {"name": "aksel", "mode": "n-f"},
    "cge",
]
RULES = [AGGREGATORS.parse(variant) for variant in VARIANTS]
ALL = pytest.mark.parametrize("rule", RULES, ids=[str(variant) for variant in VARIANTS])
ATTACKS = [
    Little(factor="searched"),
    Little(factor="searched", negative=False),
    Empire(factor="searched"),
    EmpireStrict(epsilon="searched"),
    Hidden(),
    Hidden(target="all", negative=True),
]
XS = [0.0, 1e-30, 1e-3, 0.3, 1.0, 1.5, 2.25, 7.0, 300.0, 1e6, 1e12]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}


def normal(h: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(h, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def line_of(attack: LineAttack, honest_HD: Tensor, byzantine: int) -> Line:
    honest = spread(honest_HD)
    start_D, direction_D, _ = attack.line(honest, byzantine)
    return Line(honest_HD, honest.mean_D, start_D, direction_D, byzantine)


class Aggregating(Aggregator):
    """A rule that is known only by what it makes of a matrix."""

    rule: Any

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return self.rule(submissions.rows_ND, f)


def bound(rule: Aggregator, n: int, f: int) -> Bound:
    return Defence([], rule).at(Step(n=n, f=f), {})


def against(rule: Aggregator, honest: int, byzantine: int, f: int) -> View:
    """What the adversary sees apart from the honest submissions, of a defence that is a rule alone."""
    defence = bound(rule, honest + byzantine, f)
    return View(defence.step, byzantine, defence, tuple(range(honest)))


def harm(rule: Aggregator, line: Line, f: int, x: float) -> Tensor:
    return _harm(line, bound(rule, line.n, f), number(x))


def precise(line: Line) -> Line:
    """The same in double precision."""
    vectors = ("honest_HD", "mean_D", "start_D", "direction_D")
    return replace(line, **{name: getattr(line, name).double() for name in vectors})


def assert_harm_of_the_aggregate(rule: Aggregator, line: Line, f: int, x: float) -> None:
    # Rounding decides no selection of rows in double precision, but the ties of coordinate-wise rules in any.
    reference = precise(line) if isinstance(rule, Selecting) else line
    found = harm(rule, line, f, x)
    expected = harm(Aggregating(rule=rule), reference, f, x)
    assert found.dtype is torch.float64
    assert found.shape == ()
    # Aggregates are rounded to the precision of the submissions, however near the mean they are.
    rtol = TOLERANCE[line.mean_D.dtype]
    atol = rtol * line.honest_HD.norm(dim=1).max().item()
    torch.testing.assert_close(found.sqrt(), expected.sqrt(), rtol=rtol, atol=atol, msg=lambda m: f"x = {x}: {m}")


@ALL
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_harm_is_that_of_the_aggregate(rule: Aggregator, data: st.DataObject) -> None:
    h, byzantine = data.draw(st.integers(1, 14), "honest"), data.draw(st.integers(1, 8), "byzantine")
    n = h + byzantine
    fs = [f for f in range(n) if rule.check(n, f) is None]
    assume(fs)
    f = data.draw(st.sampled_from(fs), "f")
    dtypes = [torch.float64] if rule.name == "bulyan" else [torch.float32, torch.float64]  # it selects rows, too
    dtype = data.draw(st.sampled_from(dtypes), "dtype")
    mean = data.draw(st.sampled_from([0, 1, 10]), "mean")
    attack = data.draw(st.sampled_from(ATTACKS), "attack")
    assume(attack.check(h, byzantine, f) is None)
    seed = data.draw(st.integers(0, 2**32), "seed")
    line = line_of(attack, normal(h, 30, seed, dtype) + mean * normal(1, 30, seed + 1, dtype), byzantine)
    for x in XS:
        assert_harm_of_the_aggregate(rule, line, f, x)


@ALL
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_factor_found_is_that_of_aggregating(rule: Aggregator, attack: LineAttack) -> None:
    for seed in range(3):
        honest_HD = normal(17, 40, seed) + normal(1, 40, seed + 100)
        found_FD = attack(honest_HD, against(rule, 17, 4, 4))
        expected_FD = attack(honest_HD, against(Aggregating(rule=rule), 17, 4, 4))
        torch.testing.assert_close(found_FD, expected_FD, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.parametrize("mean", [0, 1, 1e4])
def test_distances_norms_and_ranks_are_those_of_the_submissions(attack: LineAttack, mean: float) -> None:
    """Near consensus as well, where single precision would leave no digit of the Gram identity."""
    line = line_of(attack, (normal(9, 300, 3) + mean * normal(1, 300, 4)).float(), 3)
    for x in map(number, XS):
        exact_ND = precise(line).submissions(x)
        torch.testing.assert_close(line.distances(x), distances(exact_ND), rtol=1e-6, atol=0)
        torch.testing.assert_close(line.norms(x), norms(exact_ND), rtol=1e-6, atol=0)
        assert torch.equal(line.ranks(2, 5, x), order_statistics(line.submissions(x), 2, 5))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_ranks_with_ties_and_whatever_is_sent(data: st.DataObject) -> None:
    values = st.sampled_from([0.0, 1.0, 2.0, -1.5, math.inf, -math.inf, math.nan])
    honest = data.draw(st.lists(values, min_size=1, max_size=6), "honest")
    sent = data.draw(values, "sent")
    byzantine = data.draw(st.integers(1, 9), "byzantine")
    first = data.draw(st.integers(0, len(honest) + byzantine - 1), "first")
    count = data.draw(st.integers(1, len(honest) + byzantine - first), "count")
    zero_D = torch.zeros(1, dtype=torch.float64)
    line = Line(torch.tensor(honest, dtype=torch.float64)[:, None], zero_D, zero_D + sent, zero_D, byzantine)
    x = number(1)
    assert torch.equal(line.ranks(first, count, x), order_statistics(line.submissions(x), first, count))


def harm_of_mean(line: Line) -> Tensor:
    """That of rows 1, 3 and 6, at 2."""
    return line.harm_of_weights(uniform(torch.tensor([1, 3, 6]), line.n), number(0), number(2))


def test_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = line_of(Little(), normal(6, 100, 5), 2)
    found = whole.distances(number(2)), harm_of_mean(whole)
    monkeypatch.setattr(line_module, "BLOCK", 7)
    parts = line_of(Little(), normal(6, 100, 5), 2)
    torch.testing.assert_close((parts.distances(number(2)), harm_of_mean(parts)), found)


# What the search must survive


@ALL
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 3e38])
def test_a_mean_that_is_not_finite_ends_the_search_at_zero(rule: Aggregator, poison: float) -> None:
    """As aggregating does: no harm is then better than another."""
    honest_HD = normal(17, 20, 6, torch.float32)
    honest_HD[2, 3] = honest_HD[5, 3] = poison
    for attack in ATTACKS:
        found_FD = attack(honest_HD, against(rule, 17, 4, 4))
        expected_FD = attack(honest_HD, against(Aggregating(rule=rule), 17, 4, 4))
        torch.testing.assert_close(found_FD, expected_FD, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_rule_without_resistance_is_not_driven_out_of_range(dtype: torch.dtype) -> None:
    honest_HD = normal(5, 20, 7, dtype)
    attack = Little(factor="searched", evaluations=1300)
    found_FD = attack(honest_HD, against(Average(), 5, 2, 2))
    assert found_FD.isfinite().all()
    assert found_FD.abs().max() > 1e15
    torch.testing.assert_close(found_FD, attack(honest_HD, against(Aggregating(rule=Average()), 5, 2, 2)))


# What needs no rows

ROWLESS = ["average", "median", "trimmed-mean", "phocas", "meamed", "multi-krum", "krum", "minimum-diameter", "cge"]


@pytest.mark.parametrize("rule", [AGGREGATORS.parse(name) for name in ROWLESS], ids=ROWLESS)
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_search_forms_no_rows(rule: Aggregator, attack: LineAttack, monkeypatch: pytest.MonkeyPatch) -> None:
    honest_HD = normal(17, 40, 10)
    expected_FD = attack(honest_HD, against(rule, 17, 4, 4))
    monkeypatch.delattr(Line, "submissions")
    assert torch.equal(attack(honest_HD, against(rule, 17, 4, 4)), expected_FD)


# Rules of the user's own


class Counting(Aggregator):
    calls: list[int]

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        self.calls.append(submissions.n)
        return submissions.rows_ND[-1] * 1


def test_a_rule_of_the_users_own_is_asked_to_aggregate() -> None:
    rule = Counting(calls=[])
    Little(factor="searched", evaluations=9)(normal(5, 4, 8), against(rule, 5, 2, 1))
    assert rule.calls == [7] * 9


class Last(Selecting):
    def rows(self, submissions: Submissions, f: int) -> Tensor:
        return torch.tensor([submissions.n - 1])


class LastByWeight(Weighting):
    def weights(self, submissions: Submissions, f: int) -> Tensor:
        return torch.eye(submissions.n)[-1]


class SelectsOtherwise(Krum):
    def rows(self, submissions: Submissions, f: int) -> Tensor:
        return torch.tensor([submissions.n - 1])


class AggregatesOtherwise(Median):
    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.rows_ND[-1] * 1


class SelectsAndAggregatesOtherwise(Krum):
    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.rows_ND[-1] * 1


class WeighsAndAggregatesOtherwise(LastByWeight):
    def weights(self, submissions: Submissions, f: int) -> Tensor:
        return torch.eye(submissions.n)[0]

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.rows_ND[-1] * 1


class Otherwise:
    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.rows_ND[-1] * 1


class MixedIn(Otherwise, MultiKrum):
    pass


OTHERWISE = [
    *(Last(), LastByWeight(), SelectsOtherwise(), AggregatesOtherwise(), SelectsAndAggregatesOtherwise()),
    *(WeighsAndAggregatesOtherwise(), MixedIn()),
]


@pytest.mark.parametrize("rule", OTHERWISE, ids=lambda rule: rule.label())
def test_training_and_the_search_see_what_a_derived_rule_does(rule: Aggregator) -> None:
    """And nothing of the class that it derives from."""
    line = line_of(Little(), normal(9, 30, 9), 2)
    sent_D = line.vector(number(3))
    assert torch.equal(bound(rule, 11, 2)(Matrix(line.submissions(number(3)))).vector_D, sent_D)
    torch.testing.assert_close(harm(rule, line, 2, 3), line.harm(sent_D))


class GoesOn(Krum):
    """Half of what Krum returns."""

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return 0.5 * super().aggregate(submissions, f)


def test_a_derived_rule_may_go_on_from_its_base() -> None:
    """It is no mean of rows any more, and does not say that it is."""
    line = line_of(Little(), normal(9, 30, 9), 2)
    x_ND = line.submissions(number(3)).clone()
    found, base = bound(GoesOn(), 11, 2)(Matrix(x_ND)), bound(Krum(), 11, 2)(Matrix(x_ND))
    assert torch.equal(found.vector_D, 0.5 * base.vector_D)
    assert base.rows_K is not None
    assert found.rows_K is None
    assert found.weights_N(11) is None
    torch.testing.assert_close(harm(GoesOn(), line, 2, 3), line.harm(0.5 * base.vector_D))


def test_a_derived_rule_that_aggregates_as_its_base_is_as_harmed() -> None:
    class Renamed(Krum):
        """Krum, by another name."""

    line = line_of(Little(), normal(9, 30, 9), 2)
    assert harm(Renamed(), line, 2, 3) == harm(Krum(), line, 2, 3)


# On a GPU

FILLS = (torch.ops.aten.fill_, torch.ops.aten.masked_fill, torch.ops.aten.masked_fill_)


class Waits(RuntimeError):
    """The host would wait for the GPU."""


class WithoutWaiting(TorchDispatchMode):
    """Refuses, on fake tensors, what makes the host wait for a GPU: copies between the two, and masks, of which it has
    to know how much they choose. Fake tensors themselves refuse to be read.

    What happens on the host alone waits for nothing, nor does an operation to whose kernel the host passes a number.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        on_host = [tensor for tensor in tensors if not tensor.is_cuda]
        fills = func.overloadpacket in FILLS
        if func is torch.ops.aten.index_put_.default and any(t is not None and t.dtype is torch.bool for t in args[1]):
            fills = not args[2].is_cuda  # a number of the host's
            if not fills:
                raise Waits(f"{func} with a mask")
        # `where` copies a number of the host's; other kernels take it as an argument.
        numbers = torch.Tag.pointwise in func.tags and func.overloadpacket is not torch.ops.aten.where
        if 0 < len(on_host) < len(tensors) and not ((fills or numbers) and all(t.dim() == 0 for t in on_host)):
            raise Waits(f"{func} of a tensor of the host's")
        return result


def waits(function: Callable[[], Any]) -> bool:
    """Whether a function waits for a GPU: for a fake one and, where there is one, for a real one, which must agree."""
    try:
        with FakeTensorMode(), WithoutWaiting():
            function()
        found = False
    except (Waits, DataDependentOutputException, DynamicOutputShapeException):
        found = True
    if torch.cuda.is_available():
        assert waits_for_a_real_gpu(function) is found
    return found


def waits_for_a_real_gpu(function: Callable[[], Any]) -> bool:
    function()  # once without: kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        function()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


@pytest.fixture(scope="module")
def gpu() -> str:
    """The device of a GPU, real or fake."""
    try:
        with FakeTensorMode():
            torch.empty(2, device="cuda")[0]
    except RuntimeError:  # PyTorch 2.8
        pytest.skip(
            "this PyTorch, built for CUDA, has no fake GPU where there is no driver: install NVIDIA's driver, "
            "PyTorch's build for CPUs, or a newer PyTorch"
        )
    return "cuda"


@pytest.mark.parametrize(
    ("expected", "statement"),
    [
        (True, "x.tolist()"),
        (True, "x[0].item()"),
        (True, "bool(x.any())"),
        (True, "x[x > 0]"),
        (True, "x[x > 0] = x[1]"),
        (True, "x[i] = torch.tensor(0.5)"),
        (True, "x[0].copy_(torch.tensor(0.5))"),
        (True, "x[[0, 1]] * 2"),
        (True, "x[i[0]]"),
        (True, "x.copy_(torch.zeros(4))"),
        (True, "torch.zeros(4).to('cuda')"),
        (True, "x.cpu()"),
        (True, "torch.tensor([1.0, 2.0], device='cuda')"),
        (True, "torch.where(x > 0, x, torch.tensor(0.0))"),
        (False, "x[1:] = 0.5"),
        (False, "x[0].fill_(0.5)"),
        (False, "x[i] = x[1]"),
        (False, "x[i[:1]][0]"),
        (False, "x[x > 0] = 0.5"),
        (False, "x.index_fill(0, i, 0.5)"),
        (False, "x.masked_fill(x > 0, 0.5)"),
        (False, "x * 2 + torch.tensor(0.5)"),
        (False, "torch.where(x > 0, x, 0)"),
        (False, "torch.tensor([1.0, 2.0]) * 2"),
    ],
)
def test_what_waits_for_a_gpu(gpu: str, expected: bool, statement: str) -> None:
    def run() -> None:
        exec(statement, {"torch": torch, "x": torch.zeros(4, device=gpu), "i": torch.arange(2, device=gpu)})

    assert waits(run) is expected


@ALL
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_searched_attack_waits_for_no_gpu(gpu: str, rule: Aggregator, attack: LineAttack) -> None:
    """No number is made on the host for each evaluation and copied, and none is read back; minimum-diameter excepted,
    which runs on the host."""
    brief = attack.model_copy(update={"evaluations": 2})
    expected = isinstance(rule, MinimumDiameter)
    assert waits(lambda: brief(torch.ones(17, 40, device=gpu), against(rule, 17, 4, 4))) is expected


@ALL
def test_a_rule_waits_for_no_gpu(gpu: str, rule: Aggregator) -> None:
    expected = isinstance(rule, MinimumDiameter)
    assert waits(lambda: rule(torch.ones(21, 40, device=gpu), 4)) is expected


@pytest.mark.parametrize(
    "attack", [Little(), Empire(), EmpireStrict(), Hidden(factor=1.0), AntiCge(), Nan()], ids=lambda attack: attack.name
)
def test_an_attack_waits_for_no_gpu(gpu: str, attack: Attack) -> None:
    assert not waits(lambda: attack(torch.ones(17, 40, device=gpu), against(Average(), 17, 4, 4)))


@pytest.mark.parametrize("rule", ["average", "median", "multi-krum", "cge"])
@pytest.mark.parametrize(("pre", "expected"), [("nnm", False), ("bucketing", True)])
def test_a_pre_aggregator_waits_for_no_gpu(gpu: str, pre: str, expected: bool, rule: str) -> None:
    """Bucketing excepted, whose order is drawn on the host."""
    defence = Defence([PREAGGREGATORS.parse(pre)], AGGREGATORS.parse(rule)).at(Step(n=21, f=4), {})
    attack = Little(factor="searched", evaluations=2)
    view = View(defence.step, 4, defence, tuple(range(17)))
    assert waits(lambda: defence(Matrix(torch.ones(21, 40, device=gpu))).vector_D) is expected
    assert waits(lambda: attack(torch.ones(17, 40, device=gpu), view)) is expected
