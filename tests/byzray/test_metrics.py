"""The 24 metrics against naive formulas."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from byzray import Setup, parallel, simulate
from byzray.metrics import KAPPA_COLUMN, METRIC_COLUMNS, Moments, Past, kappa_hat, metric_row

CPU = torch.device("cpu")


def test_there_are_24_columns() -> None:
    assert len(METRIC_COLUMNS) == len(set(METRIC_COLUMNS)) == 24


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5,), (2, 3), (4, 1, 2)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_merge_to_those_of_the_union(sizes: tuple[int, ...], offset: float) -> None:
    torch.manual_seed(0)
    vectors_KD = torch.randn(sum(sizes), 7) + offset
    merged = Moments.merge([Moments.of(part) for part in vectors_KD.split(list(sizes))])
    exact = vectors_KD.double()
    mean_D = exact.mean(0)
    assert merged.size == len(vectors_KD)
    torch.testing.assert_close(merged.mean_D.double(), mean_D, rtol=1e-6, atol=1e-6)
    scatter = (exact - mean_D).square().sum()
    torch.testing.assert_close(merged.scatter.double(), scatter, rtol=2e-3, atol=0)
    expected = torch.sqrt(scatter / (len(exact) - 1))
    torch.testing.assert_close(merged.deviation().double(), expected, rtol=1e-3, atol=0)


def test_the_deviation_of_one_vector_is_undefined_and_that_of_equal_rows_zero() -> None:
    assert math.isnan(Moments.of(torch.randn(1, 4)).deviation().item())
    assert Moments.of(torch.randn(4).expand(3, -1)).deviation().item() == 0


@pytest.fixture(params=["plain", "compiled"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways in which products are taken, whatever the size."""
    monkeypatch.setattr(parallel, "WORTHWHILE", 1 if request.param == "compiled" else math.inf)


def row_of(mean_D: torch.Tensor, past: Past) -> dict[str, float]:
    """The metrics of a step that all is equal at; the past takes the mean in."""
    moments = Moments(3, mean_D, torch.tensor(1.0))
    distance = torch.tensor(0.0)
    row = metric_row(sampled=moments, honest=moments, attack=None, defense_D=mean_D, distance=distance, past=past)
    return dict(zip(METRIC_COLUMNS[3:-1], row.tolist(), strict=True))


@pytest.mark.usefixtures("products")
def test_past_is_the_discounted_sum_of_the_last_steps_only() -> None:
    torch.manual_seed(0)
    beta, length = 0.9, 4
    past = Past(length, beta, 6, CPU)
    history: list[np.ndarray] = []
    for step in range(11):
        mean_D = torch.randn(6)
        row = row_of(mean_D, past)
        cosine, curvature = row["Sampled-prev cosine"], row["Sampled composite curvature"]
        now = mean_D.double().numpy()
        if step == 0:
            assert math.isnan(cosine)
            assert math.isnan(curvature)
        else:
            previous = history[-1]
            assert cosine == pytest.approx(now @ previous / np.linalg.norm(now) / np.linalg.norm(previous), rel=1e-9)
            recent = history[-length:][::-1]
            expected = beta * sum(beta**i * (now @ one) for i, one in enumerate(recent))
            assert curvature == pytest.approx(expected, rel=1e-9, abs=1e-12)
        history.append(now)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("huge", [1e20, math.inf])
def test_a_huge_mean_leaves_no_trace_once_it_is_past(huge: float) -> None:
    past, clean = (Past(3, 0.9, 4, CPU) for _ in range(2))
    for step in range(9):
        mean_D = torch.arange(4.0) + step
        past.push(mean_D * huge if step == 1 else mean_D)
        clean.push(mean_D)
    assert row_of(mean_D, past) == pytest.approx(row_of(mean_D, clean), rel=1e-12, nan_ok=True)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("attacked", [True, False])
def test_a_row_holds_the_metrics_in_the_order_of_the_columns(attacked: bool) -> None:
    torch.manual_seed(1)
    sampled, honest, defense = torch.randn(5, 8), torch.randn(5, 8), torch.randn(8)
    attack = torch.randn(3, 8) if attacked else None
    row = metric_row(
        sampled=Moments.of(sampled),
        honest=Moments.of(honest),
        attack=None if attack is None else Moments.of(attack),
        defense_D=defense,
        distance=torch.tensor(2.5),
        past=Past(2, 0.9, 8, CPU),
    )
    found = dict(zip(METRIC_COLUMNS[3:-1], row.tolist(), strict=True))
    assert found["l2 from origin"] == 2.5
    means = {"Sampled": sampled.mean(0), "Honest": honest.mean(0), "Defense": defense}
    sets = {"Sampled": sampled, "Honest": honest}
    if attack is not None:
        means["Attack"], sets["Attack"] = attack.mean(0), attack
    for name, mean in means.items():
        assert found[f"{name} gradient norm"] == pytest.approx(mean.norm().item(), rel=1e-5)
        assert found[f"{name} max coordinate"] == pytest.approx(mean.abs().max().item(), rel=1e-5)
    for name, vectors in sets.items():
        deviation = math.sqrt(sum((one - means[name]).norm().item() ** 2 for one in vectors) / (len(vectors) - 1))
        assert found[f"{name} gradient deviation"] == pytest.approx(deviation, rel=1e-5)
    for column, value in found.items():
        first, _, second = column.removesuffix(" cosine").partition("-")
        if column.endswith("cosine") and second != "prev":
            one, other = means.get(first), means.get(second.capitalize())
            if one is None or other is None:
                assert math.isnan(value)
            else:
                assert value == pytest.approx((one @ other / one.norm() / other.norm()).item(), rel=1e-4)
    assert math.isnan(found["Sampled-prev cosine"])
    assert math.isnan(found["Attack gradient deviation"]) is not attacked


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_kappa_hat_is_the_error_in_units_of_the_spread(offset: float) -> None:
    torch.manual_seed(0)
    honest_HD, aggregate_D = torch.randn(6, 9) + offset, torch.randn(9) + offset
    exact = honest_HD.double()
    mean_D = exact.mean(0)
    expected = (aggregate_D.double() - mean_D).square().sum() / (exact - mean_D).square().sum(1).mean()
    found = kappa_hat(Moments.of(honest_HD), aggregate_D)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize(
    "honest_HD",
    [torch.ones(1, 4), torch.ones(3, 4), torch.full((7, 3000), 0.1), 1e20 * torch.randn(5, 40)],
    ids=["one", "equal", "equal but for the rounding of the mean", "beyond single precision"],
)
def test_kappa_hat_without_a_spread_is_undefined(honest_HD: torch.Tensor) -> None:
    assert math.isnan(kappa_hat(Moments.of(honest_HD), torch.zeros(honest_HD.shape[1])).item())


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({}, False),
        ({"split": "iid"}, True),
        ({"study": {"kappa": True}}, True),
        ({"split": "iid", "study": {"kappa": False}}, False),
        ({"split": "iid", "study": "off"}, False),
    ],
    ids=str,
)
def test_kappa_hat_is_a_column_where_data_differ_or_where_asked_for(
    small_setup: Setup, changes: dict[str, Any], measured: bool
) -> None:
    metrics = simulate(small_setup.changed(actors=None, **changes)).metrics
    assert (KAPPA_COLUMN in metrics.columns) == measured
    if measured:
        assert list(metrics.columns) == [*METRIC_COLUMNS, KAPPA_COLUMN]
        assert (metrics[KAPPA_COLUMN] > 0).all()
    if "study" not in changes and measured:  # the other columns stay as they are
        plain = simulate(small_setup.changed(actors=None, study={"past": 3, "kappa": False}, **changes)).metrics
        pd.testing.assert_frame_equal(plain, metrics[list(METRIC_COLUMNS)])


@pytest.mark.parametrize("rule", ["trimmed-mean", "median"])
@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=str)
def test_kappa_hat_of_a_run_stays_below_kappa(small_setup: Setup, rule: str, pre: list[str]) -> None:
    setup = small_setup.changed(aggregator=rule, pre=pre, actors=None, study={"past": 1, "kappa": True})
    kappa = setup.defence.kappa(setup.workers, setup.tolerated)
    assert 0 < simulate(setup).metrics[KAPPA_COLUMN].max() < kappa
