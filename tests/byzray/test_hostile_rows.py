"""Every robust rule, fed up to f hostile rows: NaN, infinities, numbers at either end of the range, signed zeros.

Checked for all valid n and f, several d, every dtype, honest rows whose squares or sums leave the range, and inputs
laid out in memory in any way. `average` is left out: it is not robust, as one row sets it to any value.

BYZRAY_CHAOS=1 in the environment takes twenty times as many examples.

Shapes in names: N submissions, of which H honest, D parameters, K selected rows.
"""

import math
import os
import warnings
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from byzray import parallel
from byzray.aggregators import AGGREGATORS, Aggregate, Aggregator, CentredClipping, RandomMixture, Selecting
from byzray.attacks import AntiCge, Attack, Empire, EmpireStrict, Hidden, LineAttack, Little, Nan, View
from byzray.attacks._line import _harm
from byzray.defence import Bound, Defence
from byzray.distances import FURTHEST, distances, norms
from byzray.line import Line
from byzray.order_statistics import mean, mean_of_rows
from byzray.preaggregators import PREAGGREGATORS
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Matrix

CHAOS = 20 if os.environ.get("BYZRAY_CHAOS") == "1" else 1

VARIANTS: list[Any] = [
    "median",
    "trimmed-mean",
    "phocas",
    "meamed",
    "multi-krum",
    {"name": "multi-krum", "m": 1},
    {"name": "multi-krum", "m": 3},
    {"name": "multi-krum", "squared": True},
    {"name": "multi-krum", "neighbours": "n-f-2"},
    {"name": "multi-krum", "squared": True, "neighbours": "n-f-2"},
    "krum",
    {"name": "krum", "squared": True, "neighbours": "n-f-2"},
    "bulyan",
    {"name": "bulyan", "m": 2},
    {"name": "bulyan", "rescore": True},
    {"name": "bulyan", "rescore": True, "m": 2},
    "minimum-diameter",
    "aksel",
    {"name": "aksel", "mode": "n-f"},
    "cge",
]
RULES = [AGGREGATORS.parse(variant) for variant in VARIANTS]
ROBUST = pytest.mark.parametrize("rule", RULES, ids=[str(variant) for variant in VARIANTS])
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

N_MAX = 25
SETTINGS = {
    str(variant): [(n, f) for n in range(1, N_MAX + 1) for f in range(n) if rule.check(n, f) is None]
    for variant, rule in zip(VARIANTS, RULES, strict=True)
}
"""The valid (n, f) of every rule."""

SMALLEST = {
    name: [(n, f) for n, f in valid if n == min(m for m, g in valid if g == f)] for name, valid in SETTINGS.items()
}
"""Those with the smallest n for their f, where a rule has nothing to spare."""


def bound(rule: Aggregator, n: int, f: int) -> Bound:
    """A defence that is a rule alone."""
    return Defence([], rule).at(Step(n=n, f=f), {})


def outcome(rule: Aggregator, x_ND: Tensor, f: int) -> Aggregate:
    return bound(rule, len(x_ND), f)(Matrix(x_ND))


# What is submitted


class Given(NamedTuple):
    """What a rule is fed, (N, D), which rows of it are honest, and the largest absolute value of those."""

    x_ND: Tensor
    honest_N: Tensor
    bound: float


HONEST = [
    "ordinary",
    "far from zero",
    "1e18",
    "1e30",
    "1e160",
    "near the end",
    "one large",
    "subnormal",
    "equal",
    "zero",
]


def honest_rows(kind: str, h: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
    """The honest submissions. Of the largest ones, squares and sums leave the range, differences do not."""
    info = torch.finfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    x_HD = 2 * torch.rand(h, d, dtype=torch.float64, generator=generator) - 1
    end = info.max / 4
    match kind:
        case "far from zero":
            x_HD += 3
        case "1e18" | "1e30" | "1e160":
            x_HD *= min(float(kind), end)
        case "near the end":
            x_HD *= end
        case "one large":
            x_HD[seed % h] *= min(1e25, end)
        case "subnormal":
            x_HD *= info.tiny / 2
        case "equal":
            x_HD[:] = x_HD[0].clone()
        case "zero":
            x_HD *= 0  # of either sign
    return x_HD.to(dtype)


def hostile_values(dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    subnormal = info.smallest_normal * info.eps  # the smallest
    finite = [min(1e38, info.max / 3), info.max, subnormal, info.tiny / 8, 0.0]
    return [math.nan, math.inf, -math.inf, *finite, *(-value for value in finite)]


@st.composite
def submissions(draw: st.DrawFn, n: int, f: int, d: int, dtype: torch.dtype) -> Given:
    seed = draw(st.integers(0, 2**32), "seed")
    kind = draw(st.sampled_from(HONEST), "honest rows")
    x_ND = honest_rows(kind, n, d, dtype, seed)
    rows = draw(st.permutations(range(n)), "hostile rows")[: draw(st.sampled_from(sorted({0, f // 2, f})), "hostile")]
    value = st.sampled_from(hostile_values(dtype))
    common = draw(value, "a common value")
    for row in rows:
        match draw(st.sampled_from(["common", "whole", "single", "mixed"]), f"row {row}"):
            case "common":
                x_ND[row] = common
            case "whole":
                x_ND[row] = draw(value)
            case "single":
                x_ND[row, draw(st.integers(0, d - 1))] = draw(value)
            case "mixed":
                values = torch.tensor(hostile_values(dtype), dtype=torch.float64).to(dtype)
                x_ND[row] = values[torch.randint(len(values), (d,), generator=torch.Generator().manual_seed(seed))]
    honest_N = torch.ones(n, dtype=torch.bool)
    honest_N[rows] = False
    return Given(x_ND, honest_N, x_ND[honest_N].abs().max().item())


def bits(x: Tensor) -> Tensor:
    """The bits of a tensor, which tell NaN from NaN and 0 from -0."""
    return x.detach().contiguous().view(BITS[x.element_size()])


# What must hold


def assert_output_is_sound(rule: Aggregator, given: Given, f: int) -> None:
    x_ND = given.x_ND
    n, d = x_ND.shape
    found = outcome(rule, x_ND, f)
    vector_D, rows_K = found.vector_D, found.rows_K
    assert vector_D.isfinite().all()
    assert vector_D.shape == (d,)
    assert vector_D.dtype is x_ND.dtype
    assert (rows_K is not None) == isinstance(rule, Selecting)
    if rows_K is not None:
        assert ((rows_K >= 0) & (rows_K < n)).all()
        assert len(rows_K.unique()) == len(rows_K)
        assert not far_away(given)[rows_K].any()
    again = outcome(rule, x_ND, f)
    assert torch.equal(bits(again.vector_D), bits(vector_D))
    assert rows_K is None or (again.rows_K is not None and torch.equal(again.rows_K, rows_K))
    infinite_ND = x_ND.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    assert torch.equal(bits(rule(infinite_ND, f)), bits(vector_D))  # NaN is +inf to every rule
    assert_within_reach(rule, given, vector_D)


def far_away(given: Given) -> Tensor:
    """The rows that no rule may select: those that are not finite, and those that are far off in every coordinate.

    Beyond FURTHEST, which only double precision holds, finite rows are not told apart."""
    far_off = 100 * max(given.bound, 1e-3) if given.bound < FURTHEST / 1e4 else math.inf
    return ~given.x_ND.isfinite().all(dim=1) | (given.x_ND.abs().double() >= far_off).all(dim=1)


def assert_within_reach(rule: Aggregator, given: Given, vector_D: Tensor) -> None:
    """How far hostile rows may move the aggregate, by the definition of the rule.

    The median and the trimmed mean stay between the honest values of every coordinate, whatever the f others are. The
    values that Phocas and MeaMed average are no further from such a center than the honest ones. Rules that compare
    whole rows promise nothing coordinate by coordinate, unless no hostile row is finite: then they average honest ones.
    """
    honest_HD = given.x_ND[given.honest_N].double()
    lowest_D, highest_D = honest_HD.amin(dim=0), honest_HD.amax(dim=0)
    if rule.name in ("phocas", "meamed"):
        spread_D = highest_D - lowest_D
        lowest_D, highest_D = lowest_D - spread_D, highest_D + spread_D
    elif rule.name not in ("median", "trimmed-mean") and given.x_ND[~given.honest_N].isfinite().all(dim=1).any():
        return
    info = torch.finfo(given.x_ND.dtype)
    rounding = 0.0 if rule.name == "median" else 4 * N_MAX * (info.eps * given.bound + info.smallest_normal * info.eps)
    assert (vector_D.double() >= lowest_D - rounding).all()
    assert (vector_D.double() <= highest_D + rounding).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@settings(max_examples=40 * CHAOS, deadline=None)
@given(data=st.data())
def test_hostile_rows(variant: object, data: st.DataObject) -> None:
    rule = AGGREGATORS.parse(variant)
    settings_of = SMALLEST if data.draw(st.booleans(), "nothing to spare") else SETTINGS
    n, f = data.draw(st.sampled_from(settings_of[str(variant)]), "n, f")
    d = data.draw(st.sampled_from([1, 2, 3, 17, 65, 300]), "d")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    given = data.draw(submissions(n, f, d, dtype), "submissions")
    compiled_from = data.draw(st.sampled_from([1, parallel.WORTHWHILE]), "compiled from")
    with mock.patch.object(parallel, "WORTHWHILE", compiled_from):
        assert_output_is_sound(rule, given, f)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@settings(max_examples=2 * CHAOS, deadline=None)
@given(data=st.data())
def test_hostile_rows_of_large_matrices(variant: object, data: st.DataObject) -> None:
    """Large enough for compiled code and for several blocks."""
    rule = AGGREGATORS.parse(variant)
    n, f = data.draw(st.sampled_from([(n, f) for n, f in SETTINGS[str(variant)] if n >= 15 and f]), "n, f")
    d = data.draw(st.sampled_from([20_000, 70_000]), "d")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    assert n * d >= parallel.WORTHWHILE
    assert_output_is_sound(rule, data.draw(submissions(n, f, d, dtype), "submissions"), f)


@settings(max_examples=40 * CHAOS, deadline=None)
@given(data=st.data())
def test_hostile_rows_at_every_step_of_a_mixture(data: st.DataObject) -> None:
    variants = data.draw(st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=4), "variants")
    mixture = AGGREGATORS.parse({"name": "random-mixture", "rules": [{"rule": variant} for variant in variants]})
    assert isinstance(mixture, RandomMixture)
    n, f = data.draw(st.sampled_from(sorted(set.intersection(*(set(SETTINGS[str(v)]) for v in variants)))), "n, f")
    assert mixture.check(n, f) is None
    given = data.draw(submissions(n, f, 9, data.draw(st.sampled_from(DTYPES), "dtype")), "submissions")
    for step in range(3):
        assert_output_is_sound(mixture.at_step(given.x_ND.shape[0], step), given, f)


# Defences with a state, a root submission or pre-aggregators

DEFENCES: dict[str, tuple[list[Any], Any]] = {
    "fltrust": ([], "fltrust"),
    "centred-clipping": ([], "centred-clipping"),
    "centred-clipping, three times": ([], {"name": "centred-clipping", "tau": 0.5, "iterations": 3}),
    "nnm+median": (["nnm"], "median"),
    "bucketing+median": (["bucketing"], "median"),
    "nnm+centred-clipping": (["nnm"], "centred-clipping"),
}


def defence(name: str) -> Defence:
    pre, rule = DEFENCES[name]
    return Defence([PREAGGREGATORS.parse(part) for part in pre], AGGREGATORS.parse(rule))


@pytest.mark.parametrize("name", DEFENCES)
@settings(max_examples=40 * CHAOS, deadline=None)
@given(data=st.data())
def test_hostile_rows_at_three_steps_of_a_defence(name: str, data: st.DataObject) -> None:
    attacked = defence(name)
    valid = [(n, f) for n in range(1, N_MAX + 1) for f in range(n) if attacked.check(n, f) is None]
    if data.draw(st.booleans(), "nothing to spare"):
        valid = [(n, f) for n, f in valid if n == min(m for m, g in valid if g == f)]
    n, f = data.draw(st.sampled_from(valid), "n, f")
    d = data.draw(st.sampled_from([1, 2, 3, 17, 65, 300]), "d")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    kinds = [kind for kind in HONEST if kind not in ("1e160", "near the end")]  # whose lengths leave the range
    kind = data.draw(st.sampled_from(kinds), "root submission")
    root_D = honest_rows(kind, 1, d, dtype, data.draw(st.integers(0, 9), "seed"))[0] / math.sqrt(d)
    step = Step(n=n, f=f, root_D=root_D)
    state = attacked.initial_state(step, root_D)
    for number in range(3):
        given = data.draw(submissions(n, f, d, dtype), "submissions")
        hostile = torch.nonzero(~given.honest_N)[:, 0].tolist()
        if hostile and data.draw(st.booleans(), "copies of an honest row"):
            given.x_ND[hostile[0]] = given.x_ND[given.honest_N][0]
        now = replace(step, number=number)
        aggregate, after = attacked.step(Matrix(given.x_ND), now, state)
        vector_D = aggregate.vector_D
        assert vector_D.isfinite().all()
        assert vector_D.shape == (d,)
        assert vector_D.dtype is dtype
        infinite_ND = given.x_ND.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        for x_ND in (given.x_ND, infinite_ND):  # again; and NaN is +inf to every defence
            assert torch.equal(bits(attacked.step(Matrix(x_ND), now, state)[0].vector_D), bits(vector_D))
        if given.x_ND.nan_to_num(0, 0, 0).abs().max() < FURTHEST / 1e4:  # beyond, norms are FURTHEST
            assert_defence_holds(attacked, given, now, state, vector_D)
        state = after


def assert_defence_holds(attacked: Defence, given: Given, step: Step, state: State, vector_D: Tensor) -> None:
    """How far the aggregate can be moved, by the definitions."""
    info = torch.finfo(vector_D.dtype)
    slack, least = 1 + 8 * N_MAX * info.eps, N_MAX * info.smallest_normal
    if attacked.rule.name == "fltrust":  # an average of vectors of one norm
        assert step.root_D is not None
        assert vector_D.double().norm() <= slack * step.root_D.double().norm() + least * len(vector_D)
    elif attacked.rule.name == "centred-clipping":
        assert isinstance(attacked.rule, CentredClipping)
        before_D = state["previous"].double()
        rounding = N_MAX * info.eps * before_D.norm() + least * len(vector_D)
        moved = (vector_D.double() - before_D).norm()
        assert moved <= slack * attacked.rule.iterations * attacked.rule.tau + rounding
    elif attacked.pre[0].name == "bucketing" or not given.x_ND[~given.honest_N].isfinite().all(dim=1).any():
        honest_HD = given.x_ND[given.honest_N].double()
        rounding = 4 * N_MAX * info.eps * given.bound + least
        assert (vector_D.double() >= honest_HD.amin(dim=0) - rounding).all()
        assert (vector_D.double() <= honest_HD.amax(dim=0) + rounding).all()


@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-42, "copies"])
def test_whole_rows_at_the_ends_of_single_precision(name: str, value: float | str) -> None:
    attacked = defence(name)
    n = next(n for n in range(1, N_MAX) if attacked.check(n, 2) is None and n > 4)
    x_ND = honest_rows("far from zero", n, 40, torch.float32, 3)
    root_D = honest_rows("far from zero", 1, 40, torch.float32, 4)[0]
    for row in (1, n - 1):
        x_ND[row] = x_ND[0] if value == "copies" else value
    step = Step(n=n, f=2, root_D=root_D)
    vector_D = attacked.step(Matrix(x_ND), step, attacked.initial_state(step, root_D))[0].vector_D
    assert vector_D.isfinite().all()
    assert 0 < vector_D.norm() < 2 * x_ND[0].norm()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, 3e38),
        (torch.float32, 1e-42),
        (torch.float64, 3e38),
        (torch.float64, 1e140),
        (torch.float64, 1e300),
        (torch.float16, 6e4),
        (torch.bfloat16, 3e38),
    ],
)
def test_fltrust_scales_any_row_to_the_length_of_its_own(dtype: torch.dtype, value: float) -> None:
    rows_ND = torch.tensor([[1, 1], [1, 1], [value, value]], dtype=dtype)
    step = Step(n=3, f=1, root_D=torch.tensor([2, 2], dtype=dtype))
    vector_D = defence("fltrust").step(Matrix(rows_ND), step, {})[0].vector_D
    torch.testing.assert_close(vector_D, torch.tensor([2, 2], dtype=dtype))


def test_squares_that_vanish_make_no_row_longer_for_fltrust() -> None:
    """Of the last row's squares only one does not: from those it would seem a hundred times shorter than it is."""
    rows_ND = torch.ones(3, 40_000)
    rows_ND[2] = 2.6e-23
    rows_ND[2, 0] = 3e-23
    root_D = torch.ones(40_000)
    vector_D = defence("fltrust").step(Matrix(rows_ND), Step(n=3, f=1, root_D=root_D), {})[0].vector_D
    assert vector_D.norm() <= (1 + 1e-4) * root_D.norm()


# The input


def laid_out(x_ND: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """A tensor with these values (for `expanded`, those of the first column), laid out in memory in some way, and the
    tensor that owns its memory."""
    n, d = x_ND.shape
    match layout:
        case "contiguous":
            return x_ND, x_ND
        case "transposed":
            owner = x_ND.t().contiguous()
            return owner.t(), owner
        case "every other":
            owner = x_ND.new_full((2 * n, 2 * d + 1), 7)
            owner[::2, 1::2] = x_ND
            return owner[::2, 1::2], owner
        case "expanded":
            owner = x_ND[:, :1].contiguous()
            return owner.expand(n, d), owner
        case "followed by autograd":
            owner = x_ND.clone().requires_grad_()
            return owner, owner
        case "read-only":
            array = x_ND.numpy().copy()
            array.setflags(write=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # PyTorch's, that it knows no read-only tensors
                owner = torch.from_numpy(array)
            return owner, owner
    raise AssertionError(layout)


LAYOUTS = ["contiguous", "transposed", "every other", "expanded", "followed by autograd", "read-only"]


@ROBUST
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=3 * CHAOS, deadline=None)
@given(data=st.data())
def test_the_input_is_neither_modified_nor_aliased(rule: Aggregator, layout: str, data: st.DataObject) -> None:
    valid = [(n, f) for n in range(1, N_MAX + 1) for f in range(n) if rule.check(n, f) is None]
    n, f = data.draw(st.sampled_from(valid), "n, f")
    d = data.draw(st.sampled_from([1, 2, 40, 300]), "d")
    dtype = data.draw(st.sampled_from(DTYPES[:2] if layout == "read-only" else DTYPES), "dtype")
    x_ND, owner = laid_out(data.draw(submissions(n, f, d, dtype), "submissions").x_ND, layout)
    before, version = bits(owner).clone(), owner._version
    with mock.patch.object(parallel, "WORTHWHILE", data.draw(st.sampled_from([1, parallel.WORTHWHILE]), "compiled")):
        found = outcome(rule, x_ND, f)
        vector_D, rows_K = found.vector_D, found.rows_K
        plain = outcome(rule, x_ND.detach().clone(memory_format=torch.contiguous_format), f)
        plain_D, plain_K = plain.vector_D, plain.rows_K
    assert torch.equal(bits(owner), before)
    assert owner._version == version
    for output in (vector_D, rows_K):
        assert output is None or output.untyped_storage().data_ptr() != owner.untyped_storage().data_ptr()
    assert vector_D.isfinite().all()
    torch.testing.assert_close(vector_D.detach(), plain_D)
    assert (rows_K is None) == (plain_K is None)


@ROBUST
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_what_is_no_floating_point_number_is_refused_or_ranked(rule: Aggregator, dtype: torch.dtype) -> None:
    """Integers have a median, and complex numbers norms and means; nothing else is returned for either."""
    x_ND = torch.arange(44).reshape(11, 4).to(dtype)
    match rule.name, dtype:
        case "median", torch.int64:
            assert torch.equal(rule(x_ND, 2), x_ND[5])
        case "cge", torch.complex64:
            assert torch.equal(rule(x_ND, 2), x_ND[:9].mean(dim=0))
        case _:
            with pytest.raises((RuntimeError, TypeError, ValueError), match=r"\w"):
                rule(x_ND, 2)


# What the rules compare


@pytest.mark.parametrize("compiled_from", [1, parallel.WORTHWHILE], ids=["compiled", "plain"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lengths_of_finite_rows_are_finite(dtype: torch.dtype, compiled_from: int) -> None:
    x_ND = honest_rows("ordinary", 6, 50, dtype, 1)
    x_ND[1] *= torch.finfo(dtype).max / 4
    x_ND[2] = -torch.finfo(dtype).max
    x_ND[3, 7] = math.nan
    x_ND[4] = math.inf
    exact_ND = x_ND.double() / (1e160 if dtype is torch.float64 else 1)  # whose squares stay within the range
    unit = 1e160 if dtype is torch.float64 else 1
    finite = [0, 1, 2, 5]
    expected_NN = torch.full((6, 6), math.inf, dtype=torch.float64).fill_diagonal_(0)
    expected_N = torch.full((6,), math.inf, dtype=torch.float64)
    for i in finite:
        expected_N[i] = (exact_ND[i].norm() * unit).clamp(max=FURTHEST)
        for j in finite:
            expected_NN[i, j] = ((exact_ND[i] - exact_ND[j]).norm() * unit).clamp(max=FURTHEST)
    if dtype is torch.float64:  # of which squares underflow in those units
        expected_NN[0, 5] = expected_NN[5, 0] = (x_ND[0] - x_ND[5]).norm()
        expected_N[[0, 5]] = x_ND[[0, 5]].norm(dim=1)
    with mock.patch.object(parallel, "WORTHWHILE", compiled_from):
        torch.testing.assert_close(distances(x_ND), expected_NN, rtol=1e-6, atol=0)
    torch.testing.assert_close(norms(x_ND).double(), expected_N, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_of_the_largest_numbers_is_the_largest_number(dtype: torch.dtype) -> None:
    """Their sum is not finite, and of the shares that are added instead some are rounded up."""
    largest = torch.finfo(dtype).max
    for count in range(1, 40):
        for value in (largest, -largest):
            rows_ND = torch.full((count, 2), value, dtype=dtype)
            assert mean(rows_ND, dim=0).tolist() == pytest.approx([value] * 2, rel=count * torch.finfo(dtype).eps)
            assert mean_of_rows(rows_ND, torch.arange(count)).isfinite().all()


# The attack's side

SEARCHED: list[LineAttack] = [
    Little(factor="searched"),
    Empire(factor="searched"),
    EmpireStrict(epsilon="searched"),
    Hidden(),
    Hidden(target="all", negative=True),
]
ATTACKS: list[Attack] = [*SEARCHED, Little(), Empire(), EmpireStrict(), Hidden(factor=2.0), AntiCge(), Nan()]
XS = [0.0, 1.0, 1e-320, 1e30, 1e300, math.inf, -math.inf, math.nan]


@st.composite
def searches(draw: st.DrawFn, rule: Aggregator) -> tuple[Tensor, int, int]:
    """Honest submissions, any of which may hold anything, how many are Byzantine, and f."""
    valid = [(n, f) for n in range(2, 16) for f in range(n) if rule.check(n, f) is None]
    n, f = draw(st.sampled_from(valid), "n, f")
    byzantine = draw(st.integers(1, n - 1), "byzantine")
    d = draw(st.sampled_from([1, 2, 30]), "d")
    dtype = draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    honest = n - byzantine
    given = draw(submissions(honest, draw(st.integers(0, honest - 1), "odd"), d, dtype), "submissions")
    return given.x_ND, byzantine, f


@ROBUST
@pytest.mark.timeout(120 * CHAOS)
@settings(max_examples=8 * CHAOS, deadline=None)
@given(data=st.data())
def test_attacks_survive_and_leave_the_honest_submissions_alone(rule: Aggregator, data: st.DataObject) -> None:
    honest_HD, byzantine, f = data.draw(searches(rule), "search")
    before, version = bits(honest_HD).clone(), honest_HD._version
    for attack in ATTACKS:
        if attack.check(len(honest_HD), byzantine, f) is not None:
            continue
        defence = bound(rule, len(honest_HD) + byzantine, f)
        attack_FD = attack(honest_HD, View(defence.step, byzantine, defence, tuple(range(len(honest_HD)))))
        assert attack_FD.shape == (byzantine, honest_HD.shape[1])
        assert attack_FD.dtype is honest_HD.dtype
        assert attack_FD.untyped_storage().data_ptr() != honest_HD.untyped_storage().data_ptr()
        assert torch.equal(bits(honest_HD), before)
        assert honest_HD._version == version


@ROBUST
@pytest.mark.timeout(120 * CHAOS)
@settings(max_examples=5 * CHAOS, deadline=None)
@given(data=st.data())
def test_any_number_on_a_line_has_a_harm(rule: Aggregator, data: st.DataObject) -> None:
    honest_HD, byzantine, f = data.draw(searches(rule), "search")
    before = bits(honest_HD).clone()
    start_D, direction_D = (
        data.draw(submissions(1, 0, honest_HD.shape[1], honest_HD.dtype), name).x_ND[0]
        for name in ("start", "direction")
    )
    line = Line(honest_HD, honest_HD.mean(dim=0), start_D, direction_D, byzantine)
    for x in XS:
        harm = _harm(line, bound(rule, line.n, f), torch.tensor(x, dtype=torch.float64))
        assert harm.shape == ()
        assert harm.dtype is torch.float64
        assert not harm < 0
    assert torch.equal(bits(honest_HD), before)
