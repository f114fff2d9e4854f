"""Every rule against the vectors of the published code, against naive loops, and against what must not happen."""

import json
import math
import os
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor

from byzray import parallel
from byzray.aggregators import (
    AGGREGATORS,
    Aggregate,
    Aggregator,
    Aksel,
    AnyAggregator,
    Average,
    Bulyan,
    Krum,
    Median,
    MinimumDiameter,
    MultiKrum,
    RandomMixture,
    Selecting,
)
from byzray.aggregators.minimum_diameter import has_subset, tightest_subset
from byzray.defence import Defence
from byzray.distances import distances
from byzray.order_statistics import mean_of_nearest, sort_columns
from byzray.state import State
from byzray.step import Step
from byzray.study import acceptance
from byzray.submissions import Matrix, Submissions

VECTORS = [Path(__file__).parents[1] / "vectors"]
if "BYZRAY_VECTORS" in os.environ:
    VECTORS.append(Path(os.environ["BYZRAY_VECTORS"]))

OURS = {"krum": "multi-krum", "trmean": "trimmed-mean", "brute": "minimum-diameter"}

VARIANTS = [
    "average",
    "median",
    "trimmed-mean",
    "phocas",
    "meamed",
    "multi-krum",
    {"name": "multi-krum", "m": 2},
    {"name": "multi-krum", "squared": True, "neighbours": "n-f-2"},
    "krum",
    {"name": "krum", "neighbours": "n-f-2"},
    {"name": "krum", "squared": True},
    "bulyan",
    {"name": "bulyan", "m": 2},
    {"name": "bulyan", "rescore": True},
    {"name": "bulyan", "rescore": True, "m": 2},
    "minimum-diameter",
    "aksel",
    {"name": "aksel", "mode": "n-f"},
    "cge",
]
ALL = pytest.mark.parametrize("rule", [AGGREGATORS.parse(v) for v in VARIANTS], ids=[str(v) for v in VARIANTS])
ROBUST = pytest.mark.parametrize(
    "rule", [AGGREGATORS.parse(v) for v in VARIANTS[1:]], ids=[str(v) for v in VARIANTS[1:]]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def normal(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def outcome(rule: Aggregator, x: Tensor, f: int) -> Aggregate:
    """What a run makes of the rows of a matrix."""
    return Defence([], rule).at(Step(n=len(x), f=f), {})(Matrix(x))


def selected(rule: Selecting, x: Tensor, f: int) -> list[int]:
    return rule.rows(Matrix(x), f).tolist()


def largest_f(rule: Aggregator, n: int) -> int:
    return max(f for f in range(n) if rule.check(n, f) is None)


# Vectors


@pytest.mark.parametrize("directory", VECTORS, ids=str)
def test_vectors(directory: Path) -> None:
    cases = json.loads((directory / "aggregators.json").read_text())
    arrays = np.load(directory / "aggregators.npz")
    assert cases
    for case in cases:
        where = f"case {case['id']}, {case['rule']}"
        rule = AGGREGATORS.parse({"name": OURS.get(case["rule"], case["rule"]), **case["args"]})
        n, f = case["n"], case["f"]
        assert rule.check(n, f) is None, where
        found = outcome(rule, torch.from_numpy(arrays[case["input"]]), f)
        expected_D = arrays[case["output"]]
        np.testing.assert_allclose(
            found.vector_D.numpy(), expected_D, rtol=0, atol=1e-9 * abs(expected_D).max(), err_msg=where
        )
        influence = acceptance(found, n - f, f).item()
        for ours, published in ((influence, case["influence"]), (rule.bound(n, f), case["variance_norm_bound"])):
            published = math.nan if published is None else published
            assert ours == pytest.approx(published, rel=1e-12, abs=0, nan_ok=True), where


# Naive references, in plain Python


def naive(rule: Aggregator, x: np.ndarray, f: int) -> np.ndarray:
    """The definition of a rule, in loops."""
    n = len(x)
    columns = [sorted(column) for column in x.T.tolist()]
    match rule.name:
        case "average":
            return x.mean(axis=0)
        case "median":
            return np.array([column[(n - 1) // 2] for column in columns])
        case "trimmed-mean":
            return np.array([trimmed(column, f) for column in columns])
        case "phocas":
            return np.array([nearest(column, trimmed(column, f), n - f) for column in columns])
        case "meamed":
            return np.array([nearest(column, column[(n - 1) // 2], n - f) for column in columns])
        case "multi-krum" | "krum":
            scores = naive_scores(x, range(n), n - f - (2 if rule.neighbours == "n-f-2" else 1), rule.squared)
            m = 1 if rule.name == "krum" else rule.m or n - f - 2
            return x[ranked(scores)[:m]].mean(axis=0)
        case "bulyan":
            return naive_bulyan(rule, x, f)
        case "minimum-diameter":
            return x[list(naive_tightest(x, n - f))].mean(axis=0)
        case "aksel":
            median = np.array([column[(n - 1) // 2] for column in columns])
            order = ranked({i: float(((x[i] - median) ** 2).sum()) for i in range(n)})
            return x[order[: (n + 1) // 2 if rule.mode == "mid" else n - f]].mean(axis=0)
        case "cge":
            return x[ranked({i: float((x[i] ** 2).sum()) for i in range(n)})[: n - f]].mean(axis=0)
    raise AssertionError(f"no reference for {rule.name}")


def trimmed(column: list[float], f: int) -> float:
    return sum(column[f : len(column) - f]) / (len(column) - 2 * f)


def nearest(column: list[float], center: float, keep: int) -> float:
    return sum(sorted(column, key=lambda value: (abs(value - center), value))[:keep]) / keep


def ranked(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda i: (scores[i], i))


def naive_scores(x: np.ndarray, rows: range | list[int], neighbours: int, squared: bool = False) -> dict[int, float]:
    power = 2 if squared else 1
    return {
        i: sum(sorted(math.dist(x[i].tolist(), x[j].tolist()) ** power for j in rows if j != i)[:neighbours])
        for i in rows
    }


def naive_bulyan(rule: Bulyan, x: np.ndarray, f: int) -> np.ndarray:
    n = len(x)
    rounds = n - 2 * f - 2
    remaining = list(range(n))
    scores = naive_scores(x, remaining, n - f - 2)
    averages = []
    for k in range(rounds):
        if rule.rescore:
            scores = naive_scores(x, remaining, n - k - f - 2)
        order = [i for i in ranked(scores) if i in remaining]
        averages.append(x[order[: min(rule.m or n, n - f - 2 - k)]].mean(axis=0))
        remaining.remove(order[0])
    columns = [sorted(column) for column in np.array(averages).T.tolist()]
    return np.array([nearest(column, column[(rounds - 1) // 2], rounds - 2 * f) for column in columns])


def naive_tightest(x: np.ndarray, size: int) -> tuple[int, ...]:
    lengths = distances(torch.from_numpy(x)).tolist()
    return min(combinations(range(len(x)), size), key=lambda rows: max(lengths[i][j] for i in rows for j in rows))


@ALL
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_naive(rule: Aggregator, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 11), "n")
    fs = [f for f in range(n) if rule.check(n, f) is None]
    assume(fs)
    f = data.draw(st.sampled_from(fs), "f")
    d = data.draw(st.integers(2, 20), "d")  # on a line, sums of distances tie up to rounding
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    x = normal(n, d, data.draw(st.integers(0, 2**32), "seed"), dtype)
    # The averages inside Phocas and Bulyan would tie up to rounding.
    if rule.name not in ("phocas", "bulyan") and data.draw(st.booleans(), "equal rows"):
        x = x[torch.arange(n) * 7 % max(1, n // 2)]
    if rule.name in ("median", "trimmed-mean", "phocas", "meamed") and data.draw(st.booleans(), "ties"):
        x = (2 * x).round()
    expected_D = torch.from_numpy(naive(rule, x.double().numpy(), f))
    torch.testing.assert_close(rule(x, f).double(), expected_D, rtol=0, atol=1e-5 if dtype is torch.float32 else 1e-12)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    center=st.integers(-12, 12),
    keep=st.integers(1, 12),
)
def test_mean_of_nearest_keeps_the_lower_of_a_tie(values: list[int], center: int, keep: int) -> None:
    assume(keep <= len(values))
    sorted_DN = sort_columns(torch.tensor(values, dtype=torch.float64)[:, None])
    found = mean_of_nearest(sorted_DN, torch.tensor([center / 2], dtype=torch.float64), keep)
    assert found.item() == nearest(sorted(map(float, values)), center / 2, keep)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tightest_subset_is_the_first_of_the_enumeration(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10), "n")
    size = data.draw(st.integers(1, n), "size")
    points = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=n, max_size=n), "points")
    x = np.array(points, dtype=float)
    assert tightest_subset(distances(torch.from_numpy(x)).tolist(), size) == list(naive_tightest(x, size))


# Row 0 is far from the three rows that must leave, and from as many as may: it is the one that must stay.
ALL_NEIGHBOURS_LEAVE = [(0, 4), (0, 5), (0, 6), (1, 4), (1, 5), (2, 5), (2, 6), (3, 4), (3, 6)]


@settings(max_examples=300, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), size=st.integers(0, 8))
@example(pairs=ALL_NEIGHBOURS_LEAVE, size=5)
def test_has_subset_against_the_enumeration(pairs: list[tuple[int, int]], size: int) -> None:
    far = [0] * 8
    for i, j in pairs:
        if i != j:
            far[i] |= 1 << j
            far[j] |= 1 << i
    exists = any(all(not far[i] >> j & 1 for i, j in combinations(rows, 2)) for rows in combinations(range(8), size))
    assert has_subset(far, 255, size) == exists


@pytest.mark.parametrize("f", [12, 24])
@pytest.mark.parametrize("d", [1, 2, 500])
def test_tightest_subset_of_51(f: int, d: int) -> None:
    """Sizes that no enumeration reaches, in seconds: on a line the answer is a window of the sorted values."""
    x = normal(51, d)
    start = time.process_time()
    rows = selected(MinimumDiameter(), x, f)
    assert time.process_time() - start < 5
    assert rows == sorted(set(rows))
    assert len(rows) == 51 - f
    if d == 1:
        values, order = x[:, 0].sort()
        first = int((values[50 - f :] - values[: f + 1]).argmin())
        assert rows == sorted(order[first : first + 51 - f].tolist())


def test_tightest_subset_leaves_outliers_out() -> None:
    x = normal(51, 30)
    x[::3] += 1000 * normal(17, 30, 1)
    assert selected(MinimumDiameter(), x, 17) == [row for row in range(51) if row % 3]


# What must not happen


@ALL
@DTYPES
@pytest.mark.parametrize("shape", [(11, 7), (11, 1), (1, 5), (1, 1)], ids=str)
def test_the_input_is_neither_modified_nor_returned(
    rule: Aggregator, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    n, d = shape
    fs = [f for f in range(n) if rule.check(n, f) is None]
    if not fs:
        return
    x = normal(n, d, dtype=dtype)
    if n > 1:
        x[-1] = math.nan
    before = x.clone()
    vector_D = rule(x, fs[-1])
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
    assert vector_D.dtype is dtype
    assert vector_D.shape == (d,)
    assert vector_D.is_contiguous()
    vector_D.fill_(12345)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


POISONS = {
    "nan": lambda bad_FD: bad_FD.fill_(math.nan),
    "+inf": lambda bad_FD: bad_FD.fill_(math.inf),
    "-inf": lambda bad_FD: bad_FD.fill_(-math.inf),
    "1e38": lambda bad_FD: bad_FD.fill_(1e38),
    "max": lambda bad_FD: bad_FD.fill_(-torch.finfo(bad_FD.dtype).max),
    "one nan": lambda bad_FD: bad_FD[:, 3].fill_(math.nan),
    "all kinds": lambda bad_FD: bad_FD.copy_(
        torch.tensor([math.nan, math.inf, -math.inf, 1e38, -1e38]).repeat(len(bad_FD))[: len(bad_FD), None]
    ),
}


@ROBUST
@DTYPES
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_poison_is_left_out(rule: Aggregator, dtype: torch.dtype, poison: str, first: bool) -> None:
    n, d = 23, 40
    f = largest_f(rule, n) if rule.name != "cge" else 11
    x = normal(n, d, dtype=dtype) + 1
    bad = slice(0, f) if first else slice(n - f, n)
    honest = torch.ones(n, dtype=torch.bool)
    honest[bad] = False
    POISONS[poison](x[bad])
    found = outcome(rule, x, f)
    vector_D, rows_K = found.vector_D, found.rows_K
    assert rows_K is None or honest[rows_K].all()
    if poison != "one nan" or rows_K is not None:
        slack = 1e-5
        assert (vector_D >= x[honest].amin(dim=0) - slack).all()
        assert (vector_D <= x[honest].amax(dim=0) + slack).all()
    assert vector_D.isfinite().all()


@ROBUST
@DTYPES
def test_subnormals_stay_finite(rule: Aggregator, dtype: torch.dtype) -> None:
    n = 23
    f = largest_f(rule, n) if rule.name != "cge" else 11
    x = normal(n, 40, dtype=dtype)
    x[n - f :] = torch.finfo(dtype).tiny / 8
    assert (x[-1] != 0).all()
    vector_D = rule(x, f)
    assert vector_D.isfinite().all()
    assert vector_D.abs().max() <= x.abs().max()


@DTYPES
def test_the_average_does_not_hide_nan(dtype: torch.dtype) -> None:
    x = normal(5, 3, dtype=dtype)
    x[2, 1] = math.nan
    assert Average()(x, 2).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
@pytest.mark.parametrize("huge", [False, True])
def test_near_consensus_krum_keeps_its_digits(noise: float, huge: bool) -> None:
    n, d, f = 51, 1000, 12
    for seed in range(5):
        x = (normal(1, d, seed) + noise * normal(n, d, seed + 100)).float()
        if huge:
            x[7] = 1e6
        expected = ranked(naive_scores(x.double().numpy(), range(n), n - f - 1))[0]
        assert selected(Krum(), x, f) == [expected]


def test_distances_relative_error() -> None:
    x = (normal(1, 100_000) + 1e-4 * normal(30, 100_000, 1)).float()
    x[3] = 1e5
    exact = (x.double()[:, None, ::100] - x.double()[None, :, ::100]).norm(dim=2)
    found = distances(x[:, ::100])
    assert (found.diagonal() == 0).all()
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


def test_distances_over_several_blocks() -> None:
    x = normal(6, 150_000)
    exact = torch.stack([(x - row).square().sum(dim=1).sqrt() for row in x])
    torch.testing.assert_close(distances(x), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("worthwhile", [1, math.inf], ids=["compiled", "plain"])
def test_coordinatewise_over_several_blocks(worthwhile: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTHWHILE", worthwhile)
    x = normal(7, 150_000)
    rule = AGGREGATORS.parse("phocas")
    parts = torch.cat([rule(part, 2) for part in x.split(10_000, dim=1)])
    assert torch.equal(rule(x, 2), parts)


def test_a_non_finite_row_is_infinitely_far_from_all_others() -> None:
    x = normal(4, 3)
    x[1, 2] = math.nan
    x[3] = math.inf
    found = distances(x)
    expected = torch.full((4, 4), math.inf, dtype=torch.float64)
    expected.fill_diagonal_(0)
    expected[0, 2] = expected[2, 0] = (x[0] - x[2]).norm()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions(rule: Aggregator, dtype: torch.dtype) -> None:
    x = normal(11, 30).to(dtype)
    x[:, ::2] *= 100  # squares beyond the range of float16
    f = largest_f(rule, 11) if rule.name not in ("average", "cge") else 2
    vector_D = rule(x, f)
    assert vector_D.dtype is dtype
    torch.testing.assert_close(vector_D.double(), rule(x.double(), f), rtol=0, atol=100 * 8 * torch.finfo(dtype).eps)


@ALL
def test_the_order_of_the_rows_does_not_matter(rule: Aggregator) -> None:
    x = normal(15, 20)
    f = largest_f(rule, 15) if rule.name not in ("average", "cge") else 3
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    found, shuffled = outcome(rule, x, f), outcome(rule, x[order], f)
    torch.testing.assert_close(shuffled.vector_D, found.vector_D, rtol=0, atol=1e-13)
    assert (found.rows_K is None) == (shuffled.rows_K is None)
    if found.rows_K is not None and shuffled.rows_K is not None:
        assert sorted(order[shuffled.rows_K].tolist()) == sorted(found.rows_K.tolist())


@ALL
def test_translation_and_scale(rule: Aggregator) -> None:
    x, shift_D = normal(15, 20), 10 * normal(1, 20, 1)[0]
    f = largest_f(rule, 15) if rule.name not in ("average", "cge") else 3
    torch.testing.assert_close(rule(4 * x, f), 4 * rule(x, f), rtol=0, atol=1e-12)
    if rule.name != "cge":  # norms depend on the origin
        torch.testing.assert_close(rule(x + shift_D, f), rule(x, f) + shift_D, rtol=0, atol=1e-12)


@ALL
def test_selected_rows_are_distinct_and_make_the_vector(rule: Aggregator) -> None:
    x = normal(15, 20)
    found = outcome(rule, x, 2)
    rows_K, weights_N = found.rows_K, found.weights_N(15)
    assert (rows_K is not None) == (weights_N is not None) == isinstance(rule, Selecting)
    if rows_K is not None and weights_N is not None:
        assert rows_K.dtype is torch.int64
        assert len(rows_K.unique()) == len(rows_K)
        torch.testing.assert_close(found.vector_D, x[rows_K].mean(dim=0))
        assert weights_N.dtype is torch.float64
        torch.testing.assert_close(weights_N @ x, found.vector_D)


@ALL
def test_gradients_that_autograd_follows(rule: Aggregator) -> None:
    x = normal(15, 20)
    torch.testing.assert_close(rule(x.clone().requires_grad_(), 2).detach(), rule(x, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: run the tests where there is one")
@ALL
@DTYPES
def test_cuda_agrees_with_the_cpu(rule: Aggregator, dtype: torch.dtype) -> None:
    x = normal(15, 200, dtype=dtype)
    if rule.name != "average":
        x[4, 3] = math.nan
    found, expected = outcome(rule, x.cuda(), 2), outcome(rule, x, 2)
    assert found.vector_D.is_cuda
    torch.testing.assert_close(found.vector_D.cpu(), expected.vector_D)
    assert (found.rows_K is None) == (expected.rows_K is None)
    if found.rows_K is not None and expected.rows_K is not None:
        assert found.rows_K.is_cuda
        assert found.rows_K.tolist() == expected.rows_K.tolist()


# Checks and bounds


@pytest.mark.parametrize(
    ("rule", "n", "f", "reason"),
    [
        ("average", 0, 0, "needs n >= 1; got n = 0"),
        ("average", 3, 3, None),
        ("median", 4, 2, "needs n >= 2f+1 = 5; got n = 4, f = 2"),
        ("median", 5, 2, None),
        ("median", 1, 0, None),
        ("trimmed-mean", 5, 0, "needs f >= 1; got f = 0"),
        ("phocas", 5, 3, "needs n >= 2f+1 = 7; got n = 5, f = 3"),
        ("meamed", 3, 1, None),
        ("multi-krum", 7, 3, "needs n >= 2f+3 = 9; got n = 7, f = 3"),
        ("multi-krum", 7, 2, None),
        ({"name": "multi-krum", "m": 5}, 7, 2, "needs m <= n-f-2 = 3; got m = 5"),
        ({"name": "multi-krum", "m": 3}, 7, 2, None),
        ("krum", 2, 0, "needs n >= 2f+3 = 3; got n = 2, f = 0"),
        ("krum", 3, 0, None),
        ("bulyan", 10, 2, "needs n >= 4f+3 = 11; got n = 10, f = 2"),
        ("bulyan", 11, 2, None),
        ({"name": "bulyan", "m": 8}, 11, 2, "needs m <= n-f-2 = 7; got m = 8"),
        ("minimum-diameter", 6, 3, "needs n >= 2f+1 = 7; got n = 6, f = 3"),
        ("aksel", 6, 3, "needs n >= 2f+1 = 7; got n = 6, f = 3"),
        ("cge", 3, 3, "needs n >= f+1 = 4; got n = 3, f = 3"),
        ("cge", 3, 2, None),
    ],
)
def test_check(rule: object, n: int, f: int, reason: str | None) -> None:
    assert AGGREGATORS.parse(rule).check(n, f) == reason


@ALL
def test_a_negative_f_is_refused(rule: Aggregator) -> None:
    assert rule.check(9, -1) == "needs f >= 0; got f = -1"


@ALL
def test_every_valid_setting_aggregates(rule: Aggregator) -> None:
    for n in range(1, 13):
        for f in range(n):
            if rule.check(n, f) is None:
                assert rule(normal(n, 3), f).isfinite().all(), (n, f)


def test_bounds() -> None:
    krum_7_2 = 1 / math.sqrt(2 * (5 + 2 * (7 + 2 * 3 - 2) / 1))
    assert Median().bound(9, 4) == pytest.approx(1 / math.sqrt(5))
    assert Krum().bound(7, 2) == pytest.approx(krum_7_2)
    assert MultiKrum(m=2).bound(7, 2) == pytest.approx(krum_7_2)
    assert Bulyan().bound(7, 1) == pytest.approx(1 / math.sqrt(2 * (6 + 1 * (7 + 1 * 4 - 2) / 3)))
    assert MinimumDiameter().bound(7, 2) == pytest.approx(5 / (math.sqrt(8) * 2))
    assert MinimumDiameter().bound(7, 0) == math.inf
    assert math.isnan(Average().bound(7, 2))


@ALL
def test_no_bound_where_the_check_fails(rule: Aggregator) -> None:
    assert math.isnan(rule.bound(6, 6))


# Options


@ALL
def test_describe_and_parse_round_trip(rule: Aggregator) -> None:
    assert AGGREGATORS.parse(json.loads(json.dumps(rule.describe()))) == rule


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "median", "cut": 2},
        {"name": "krum", "m": 2},
        {"name": "multi-krum", "m": 0},
        {"name": "multi-krum", "m": 2.0},
        {"name": "multi-krum", "m": True},
        {"name": "multi-krum", "squared": 1},
        {"name": "multi-krum", "neighbours": "n-f-3"},
        {"name": "aksel", "mode": "most"},
        {"name": "bulyan", "rescore": "yes"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AGGREGATORS.parse(wrong)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'trimmed-mean'"):
        AGGREGATORS.parse("trimed-mean")


def test_every_rule_is_documented() -> None:
    for name, cls in AGGREGATORS.classes.items():
        assert cls.name == name
        text = cls.__dict__["__doc__"]
        assert text.splitlines()[0].endswith("."), name
        assert "Needs " in text, name
        assert "ound" in text, name


class Holder(BaseModel):
    rule: AnyAggregator


def test_a_rule_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "byzray_test_rules.py").write_text(
        "from byzray.aggregators import Aggregator\n\n\n"
        "class Cut(Aggregator):\n"
        "    cut: int = 1\n\n"
        "    def aggregate(self, submissions, f):\n"
        "        return submissions.rows_ND[self.cut :].mean(dim=0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    written = {"name": "byzray_test_rules:Cut", "cut": 2}
    held = Holder.model_validate({"rule": written})
    x = normal(5, 3)
    torch.testing.assert_close(held.rule(x, 0), x[2:].mean(dim=0))
    assert held.model_dump() == {"rule": written}
    assert held.rule.label() == "Cut"
    mixture = AGGREGATORS.parse({"name": "random-mixture", "rules": [{"rule": written}]})
    assert mixture.at_step(1, 0) == held.rule


def test_a_field_of_any_rule() -> None:
    held = Holder.model_validate({"rule": {"name": "multi-krum", "m": 3}})
    assert held.rule == MultiKrum(m=3)
    assert Holder.model_validate(held.model_dump()) == held
    assert Holder.model_validate({"rule": held.rule}).rule is held.rule
    assert Holder.model_validate({"rule": "median"}).rule == Median()
    with pytest.raises(ValidationError, match="there is no aggregator 'mediam': did you mean 'median'"):
        Holder.model_validate({"rule": "mediam"})
    with pytest.raises(ValidationError, match="cut"):
        Holder.model_validate({"rule": {"name": "median", "cut": 1}})


# The random mixture


def mixture(*rules: object) -> RandomMixture:
    found = AGGREGATORS.parse({"name": "random-mixture", "rules": list(rules)})
    assert isinstance(found, RandomMixture)
    return found


def test_a_mixture_is_drawn_by_seed_and_step_with_its_frequencies() -> None:
    mixed = mixture({"rule": "median", "frequency": 3}, {"rule": {"name": "multi-krum", "m": 2}})
    drawn = [mixed.at_step(7, step) for step in range(400)]
    assert drawn == [mixed.at_step(7, step) for step in range(400)]
    assert set(map(str, drawn)) == {str(Median()), str(MultiKrum(m=2))}
    assert 0.68 < drawn.count(Median()) / 400 < 0.82  # 3 standard deviations around 3/4
    assert drawn != [mixed.at_step(8, step) for step in range(400)]


def test_a_mixture_aggregates_as_the_rule_that_is_drawn() -> None:
    mixed = mixture({"rule": "median"}, {"rule": {"name": "multi-krum", "m": 2}})
    x, seen = normal(9, 3), set()
    for number in range(20):
        found, _ = mixed.step(Matrix(x), Step(seed=7, number=number, n=9, f=2), {})
        expected = outcome(mixed.at_step(7, number), x, 2)
        seen.add(expected.rows_K is None)
        assert (found.rows_K is None) == (expected.rows_K is None)
        assert torch.equal(found.vector_D, expected.vector_D)
    assert seen == {True, False}
    assert torch.equal(mixed(x, 2), mixed.at_step(0, 0)(x, 2))


class Counts(Aggregator):
    """The mean times the number of steps at which the rule was asked."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"count": torch.zeros((), dtype=torch.int64)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        count = state["count"] + 1
        return Aggregate(count * submissions.rows_ND.mean(dim=0)), {"count": count}


def test_the_states_of_a_mixture_are_apart_and_stay_where_a_rule_is_not_drawn() -> None:
    mixed = mixture({"rule": Counts()}, {"rule": "median"}, {"rule": Counts()})
    x = normal(5, 3)
    state = mixed.initial_state(Step(n=5, f=1), x[0])
    assert set(state) == {"0.count", "2.count"}
    drawn = [mixed._drawn(7, number) for number in range(12)]
    assert set(drawn) == {0, 1, 2}
    for number, position in enumerate(drawn):
        before = dict(state)
        found, state = mixed.step(Matrix(x), Step(seed=7, number=number, n=5, f=1), state)
        counts = [drawn[: number + 1].count(i) for i in (0, 2)]
        assert [state["0.count"].item(), state["2.count"].item()] == counts
        assert all(state[name] is tensor for name, tensor in before.items() if name != f"{position}.count")
        if position != 1:
            torch.testing.assert_close(found.vector_D, counts[position // 2] * x.mean(dim=0))


def test_the_check_and_the_bound_of_a_mixture() -> None:
    both = mixture({"rule": "median"}, {"rule": "krum"})
    assert both.check(9, 2) is None
    assert both.check(6, 2) == "krum needs n >= 2f+3 = 7; got n = 6, f = 2"
    assert both.bound(9, 2) == Krum().bound(9, 2) < Median().bound(9, 2)
    assert math.isnan(mixture({"rule": "median"}, {"rule": "aksel"}).bound(9, 2))
    assert math.isnan(mixture({"rule": "aksel"}, {"rule": "median"}).bound(9, 2))


def test_a_mixture_round_trips() -> None:
    mixed = mixture({"rule": {"name": "aksel", "mode": "n-f"}, "frequency": 2}, {"rule": Aksel()})
    assert mixed.describe() == {
        "name": "random-mixture",
        "rules": [
            {"rule": {"name": "aksel", "mode": "n-f"}, "frequency": 2.0},
            {"rule": {"name": "aksel", "mode": "mid"}, "frequency": 1.0},
        ],
    }
    assert AGGREGATORS.parse(json.loads(json.dumps(mixed.describe()))) == mixed


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([], "at least 1 item"),
        ([{"rule": "median", "frequency": 0}], "greater than 0"),
        ([{"rule": "median", "frequency": math.inf}], "finite"),
        ([{"rule": "median", "frequency": math.nan}], "greater than 0|finite"),
        ([{"rule": "median", "frequency": True}], "valid number"),
        ([{"rule": "median", "often": 2}], "often"),
        ([{"rule": "mediam"}], "did you mean 'median'"),
        ([{"rule": {"name": "random-mixture", "rules": [{"rule": "median"}]}}], "cannot contain another"),
        (["median"], "Component"),
    ],
    ids=str,
)
def test_wrong_mixtures_are_refused(rules: list[object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        mixture(*rules)
