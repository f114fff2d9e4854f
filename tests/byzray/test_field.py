"""Rules, pre-aggregators and attacks of the field: properties that their definitions promise."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from byzray.aggregators import AGGREGATORS
from byzray.attacks import ATTACKS, View
from byzray.defence import Defence
from byzray.distances import distances
from byzray.preaggregators import PREAGGREGATORS
from byzray.step import Step
from byzray.submissions import Matrix, Mixed

N, F, D = 13, 3, 40


def normal(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pipeline(*parts: Any) -> Defence:
    return Defence([PREAGGREGATORS.parse(part) for part in parts[:-1]], AGGREGATORS.parse(parts[-1]))


def aggregated(defence: Defence, rows_ND: Tensor, f: int = F) -> Tensor:
    step = Step(seed=1, n=len(rows_ND), f=f)
    return defence.at(step, defence.initial_state(step, rows_ND[0]))(Matrix(rows_ND)).vector_D


# By label: those that move along when all submissions are moved, and scale with them.
EQUIVARIANT = [
    pipeline("geometric-median"),
    pipeline("dnc"),
    pipeline("smea"),
    pipeline("caf"),
    pipeline("monna"),
    pipeline("nnm", "trimmed-mean"),
    pipeline("nnm", "geometric-median"),
    pipeline("nnm", "multi-krum"),
    pipeline("bucketing", "median"),
    pipeline("bucketing", "geometric-median"),
]
# Those that know where 0 is, yet scale.
SCALING = [
    pipeline("arc", "median"),
    pipeline({"name": "clipping", "limit": "median"}, "average"),
    pipeline("arc", "nnm", "trimmed-mean"),
    pipeline("arc", "nnm", "geometric-median"),
]
OTHERS = [
    pipeline("centred-clipping"),
    pipeline("sign-majority"),
    pipeline("clipping", "average"),
    pipeline("clipping", "nnm", "krum"),
    pipeline({"name": "geometric-median", "iterations": 3, "nu": 0.1, "start": "zero"}),
]
ALL = [*EQUIVARIANT, *SCALING, *OTHERS]


def named(defence: Defence) -> str:
    return defence.label()


@pytest.mark.parametrize("defence", ALL, ids=named)
def test_the_order_of_submissions_does_not_matter(defence: Defence) -> None:
    if any(part.label() in ("bucketing", "monna") for part in defence.parts):
        pytest.skip("draws an order, or has a submission of reference")
    x = normal(N, D, 2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(aggregated(defence, x[order]), aggregated(defence, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("defence", EQUIVARIANT, ids=named)
def test_the_aggregate_moves_along(defence: Defence) -> None:
    x, shift_D = normal(N, D, 3), 5 * normal(1, D, 4)[0]
    torch.testing.assert_close(aggregated(defence, x + shift_D), aggregated(defence, x) + shift_D, rtol=0, atol=1e-8)


@pytest.mark.parametrize("defence", [*EQUIVARIANT, *SCALING], ids=named)
def test_the_aggregate_scales(defence: Defence) -> None:
    x = normal(N, D, 5) + 0.3
    torch.testing.assert_close(aggregated(defence, 64 * x), 64 * aggregated(defence, x), rtol=1e-9, atol=1e-8)


HOSTILE = {
    "nan": lambda x: torch.full_like(x, math.nan),
    "one nan": lambda x: x.index_fill(1, torch.tensor([2]), math.nan),
    "inf": lambda x: torch.full_like(x, math.inf),
    "-inf": lambda x: torch.full_like(x, -math.inf),
    "1e38": lambda x: torch.full_like(x, 1e38),
    "mixed": lambda x: torch.cat((x[:1] * math.nan, x[:1] * math.inf, x[:1] * 1e38))[: len(x)],
    "copies": lambda x: x[:1].expand(len(x), -1) * 0 + 0.1,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("defence", ALL, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_f_hostile_submissions_leave_a_finite_aggregate(defence: Defence, kind: str, dtype: torch.dtype) -> None:
    x = normal(N, D, 6, dtype)
    x[N - F :] = HOSTILE[kind](x[N - F :])
    before = x.clone()
    found = aggregated(defence, x)
    assert found.isfinite().all()
    assert torch.equal(x.nan_to_num(nan=-7.0), before.nan_to_num(nan=-7.0))  # nothing was modified
    honest = x[: N - F]
    if kind in ("nan", "inf", "1e38") and not any(part.label() in ("sign-majority",) for part in defence.parts):
        assert found.norm() <= 3 * honest.norm(dim=1).max()


@pytest.mark.parametrize("defence", EQUIVARIANT, ids=named)
def test_near_consensus_no_digit_is_lost(defence: Defence) -> None:
    noise = normal(N, D, 7)
    near = 1e3 + 1e-4 * noise
    # What rounding left of the noise, exactly.
    left = near - 1e3
    expected = aggregated(defence, left)
    torch.testing.assert_close(aggregated(defence, near) - 1e3, expected, rtol=0, atol=1e-4 * 1e-6)


@pytest.mark.parametrize(
    "defence",
    [
        pipeline("median"),
        pipeline("trimmed-mean"),
        pipeline("geometric-median"),
        pipeline({"name": "krum", "squared": True}),
        pipeline("smea"),
        pipeline("nnm", "median"),
        pipeline("nnm", "geometric-median"),
        pipeline("arc", "trimmed-mean"),
        pipeline("arc", "nnm", "median"),
    ],
    ids=named,
)
def test_no_submissions_break_kappa(defence: Defence) -> None:
    """||F(x) - mean_S||^2 <= kappa mean ||x_i - mean_S||^2 for every S of n-f; here S are the honest."""
    rng = np.random.default_rng(8)
    worst = 0.0
    for trial in range(120):
        n = int(rng.integers(5, 14))
        f = int(rng.integers(1, (n - 1) // 2 + 1))
        if defence.check(n, f) is not None:
            continue
        kappa = defence.kappa(n, f)
        assert kappa >= f / (n - 2 * f)
        honest = torch.from_numpy(rng.normal(size=(n - f, 3)) * rng.exponential(size=(n - f, 1)))
        mean, spread = honest.mean(dim=0), honest.std(dim=0)
        place = [mean + spread * float(rng.normal() * 3), honest[0] * 1.0, mean - 5 * spread, honest.max(dim=0).values]
        x = torch.cat((honest, place[trial % 4].expand(f, -1)))
        error = (aggregated(defence, x, f) - mean).square().sum()
        mean_square = (honest - mean).square().sum(dim=1).mean()
        worst = max(worst, float(error / mean_square) / kappa)
    assert 0 < worst <= 1


def view(honest: int, byzantine: int, rule: str = "krum", f: int | None = None) -> View:
    f = byzantine if f is None else f
    step = Step(seed=2, number=3, n=honest + byzantine, f=f)
    return View(step, byzantine, Defence([], AGGREGATORS.parse(rule)).at(step, {}), tuple(range(honest)))


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("offset", [0.0, 0.5, 1e3])
def test_min_max_goes_as_far_as_the_diameter(direction: str, offset: float) -> None:
    honest_HD = normal(9, 12, 9) + offset
    attack = ATTACKS.parse({"name": "min-max", "direction": direction})
    sent_D = attack(honest_HD, view(9, 2))[0]  # type: ignore[operator]
    furthest = (honest_HD - sent_D).norm(dim=1).max()
    torch.testing.assert_close(furthest, distances(honest_HD).max(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("bound", ["max", "min"])
def test_min_sum_has_the_sum_of_an_honest_one(bound: str) -> None:
    honest_HD = normal(9, 12, 10) + 0.5
    attack = ATTACKS.parse({"name": "min-sum", "bound": bound})
    sent_D = attack(honest_HD, view(9, 2))[0]  # type: ignore[operator]
    sums_H = distances(honest_HD).square().sum(dim=1)
    expected = sums_H.max() if bound == "max" else sums_H.min()
    torch.testing.assert_close((honest_HD - sent_D).square().sum(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rule", ["krum", "multi-krum", "median"])
def test_fang_krum_is_selected_by_krum(rule: str) -> None:
    honest_HD = normal(12, 20, 11) + 0.3
    sent_FD = ATTACKS.parse("fang-krum")(honest_HD, view(12, 4, rule, 4))  # type: ignore[operator]
    chosen = AGGREGATORS.parse("krum").rows(Matrix(torch.cat((honest_HD, sent_FD))), 4)
    assert int(chosen[0]) >= 12
    assert torch.equal(sent_FD[0].sign(), -honest_HD.mean(dim=0).sign())


def test_fang_trimmed_mean_stays_between_the_extremes_and_their_multiples() -> None:
    honest_HD = normal(9, 30, 12)
    sent_FD = ATTACKS.parse("fang-trimmed-mean")(honest_HD, view(9, 3))  # type: ignore[operator]
    mean_D, low_D, high_D = honest_HD.mean(dim=0), honest_HD.amin(dim=0), honest_HD.amax(dim=0)
    up = mean_D > 0
    assert (sent_FD[:, up] <= low_D[up]).all()
    assert (sent_FD[:, ~up] >= high_D[~up]).all()
    assert len(sent_FD.unique(dim=0)) == 3


def test_bit_flipping_sends_each_its_own_negated() -> None:
    own_FD = normal(3, 5, 13)
    one = view(6, 3)
    own = View(one.step, 3, one.defence, one.workers_H, own_FD)
    assert torch.equal(ATTACKS.parse({"name": "bit-flipping", "scale": 2.0})(normal(6, 5, 1), own), -2 * own_FD)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("n", "b", "z"), [(25, 5, 0.253), (25, 11, 1.068), (51, 12, 0.361), (51, 24, 1.446), (50, 24, 1.426)]
)
def test_little_auto_has_the_factors_of_its_paper(n: int, b: int, z: float) -> None:
    honest_HD = normal(n - b, 4, 14)
    attack = ATTACKS.parse({"name": "little", "factor": "auto"})
    sent_D = attack(honest_HD, view(n - b, b))[0]  # type: ignore[operator]
    factors_D = (honest_HD.mean(dim=0) - sent_D) / honest_HD.std(dim=0)
    torch.testing.assert_close(factors_D, torch.full_like(factors_D, z), rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    ("kind", "written", "sizes", "message"),
    [
        ("attack", {"name": "little", "factor": "auto"}, (24, 1, 1), "needs 2 <= byzantine < honest with factor auto"),
        ("attack", {"name": "little", "factor": "auto"}, (4, 2, 2), "needs 3 <= byzantine < honest with factor auto"),
        ("attack", "fang-krum", (5, 3, 3), "needs n >= 2f\\+3 = 9; got n = 8, f = 3"),
        ("attack", "fang-krum", (6, 5, 2), "needs honest-1 >= n-f-2 = 7; got honest = 6, n = 11, f = 2"),
        (
            "rule",
            "smea",
            (40, 15),
            "needs at most 1,000,000 subsets; got C\\(n, f\\) = 40,225,345,056 with n = 40, f = 15",
        ),
        ("rule", {"name": "monna", "reference": 9}, (9, 2), "needs n > reference; got n = 9, reference = 9"),
        ("rule", "geometric-median", (6, 3), "needs n >= 2f\\+1 = 7; got n = 6, f = 3"),
        ("pre", "arc", (6, 3), "needs n >= 2f\\+1 = 7; got n = 6, f = 3"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, written: Any, sizes: tuple[int, ...], message: str) -> None:
    registry: Any = {"attack": ATTACKS, "rule": AGGREGATORS, "pre": PREAGGREGATORS}[kind]
    found = registry.parse(written).check(*sizes)
    assert found is not None
    assert re.search(message, found), found


def test_clipping_and_arc_leave_what_is_short_to_the_bit() -> None:
    x = normal(N, D, 15)
    x[0] *= 100
    for part in ("arc", {"name": "clipping", "limit": "median"}):
        pre = PREAGGREGATORS.parse(part)
        rows_ND = Mixed(pre.weights(Matrix(x), Step(n=N, f=F)), Matrix(x)).rows_ND
        norms_N = rows_ND.norm(dim=1)
        kept_N = (pre.weights(Matrix(x), Step(n=N, f=F)).diagonal() == 1).nonzero()[:, 0]
        assert 0 < len(kept_N) < N
        assert torch.equal(rows_ND[kept_N], x[kept_N])
        assert norms_N.max() <= x[kept_N].norm(dim=1).max() * (1 + 1e-12)
