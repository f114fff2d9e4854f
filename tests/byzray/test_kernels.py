"""Compiled code against what it stands for, on matrices of any size and whatever they hold."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from byzray import parallel
from byzray.aggregators.geometric_median import GeometricMedian, _around
from byzray.datasets import Data
from byzray.deviations import spread
from byzray.distances import distances, distances_from, norms
from byzray.order_statistics import mean_around, mean_of_ranks, mean_of_rows, order_statistics, repeated
from byzray.sampling import Examples
from byzray.submissions import Matrix, Mixed, combined

SHAPES = [
    (1, 1),
    (2, 63),
    (3, 64),
    (15, 65),
    (16, 300),
    (17, 257),
    (33, 100),
    (51, 700),
    (64, 129),
    (128, 90),
    (129, 40),
]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def matrix(request: pytest.FixtureRequest) -> torch.Tensor:
    (rows, columns), dtype = request.param
    values = torch.randn(rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(rows))
    values[values.abs() < 0.05] = 0.0  # ties
    return values


cases = pytest.mark.parametrize("matrix", [(shape, dtype) for shape in SHAPES for dtype in DTYPES], indirect=True)


def compiled_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTHWHILE", 1)


@cases
def test_order_statistics(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix[torch.rand(matrix.shape, generator=torch.Generator().manual_seed(2)) < 0.1] = math.nan
    matrix[torch.rand(matrix.shape, generator=torch.Generator().manual_seed(3)) < 0.1] = -math.inf
    n = len(matrix)
    expected_DN = matrix.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).t().sort(dim=1).values
    for compiled in (False, True):
        if compiled:
            compiled_always(monkeypatch)
        for first, count in {(0, n), (n // 2, 1), (n // 3, n - 2 * (n // 3))}:
            found_DK = order_statistics(matrix, first, count)
            assert found_DK.is_contiguous()
            assert torch.equal(found_DK, expected_DN[:, first : first + count])


@cases
def test_distances(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    found_NN = distances(matrix)
    expected_NN = (matrix[:, None].double() - matrix.double()).square().sum(dim=2).sqrt()
    torch.testing.assert_close(found_NN, expected_NN, rtol=1e-6 if matrix.dtype is torch.float32 else 1e-14, atol=0)
    torch.set_num_threads(1)
    assert torch.equal(distances(matrix), found_NN)


def test_distances_near_consensus_and_to_rows_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1e3 + 1e-3 * torch.randn(7, 5000, generator=torch.Generator().manual_seed(1))
    rows[5, 17], rows[6] = math.nan, 3e38  # the latter is finite, but its squares are not
    expected = (rows[:, None].double() - rows.double()).square().sum(dim=2).sqrt()
    expected[5] = expected[:, 5] = math.inf
    expected.fill_diagonal_(0)
    compiled_always(monkeypatch)
    torch.testing.assert_close(distances(rows), expected, rtol=1e-6, atol=0)


@cases
@pytest.mark.parametrize("times", [1, 2, 30])
def test_a_row_that_counts_several_times(matrix: torch.Tensor, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is that of the matrix with the row written out, to the bit where nothing is added up."""
    matrix[0, ::7], matrix[len(matrix) // 2, ::5], matrix[-1, ::11] = math.nan, -math.inf, math.nan
    whole = repeated(matrix, times)
    n = len(whole)
    keep = max(1, n - n // 3)
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-6 if matrix.dtype is torch.float32 else 1e-14, "equal_nan": True}
    middle = n // 3, n - 2 * (n // 3)
    means_D, near_D = mean_of_ranks(whole, *middle), mean_around(whole, *middle, keep)
    around_D = mean_around(whole, (n - 1) // 2, 1, keep)
    compiled_always(monkeypatch)
    for first, count in {(0, n), (n // 2, 1), middle}:
        assert torch.equal(order_statistics(matrix, first, count, times), order_statistics(whole, first, count))
    torch.testing.assert_close(mean_of_ranks(matrix, *middle, times), means_D, **close)
    torch.testing.assert_close(mean_around(matrix, *middle, keep, times), near_D, **close)
    torch.testing.assert_close(mean_around(matrix, (n - 1) // 2, 1, keep, times), around_D, **close)


@cases
def test_spread(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = spread(matrix)
    assert plain.size == len(matrix)
    expected_D = (matrix - plain.mean_D).double().square().sum(dim=0)
    torch.testing.assert_close(plain.squares_D, expected_D, rtol=1e-14, atol=0)
    compiled_always(monkeypatch)
    found = spread(matrix)
    assert (found.size, found.squares_D.dtype) == (len(matrix), torch.float64)
    expected_D = matrix.double().mean(dim=0).to(matrix.dtype)
    torch.testing.assert_close(found.mean_D, expected_D, rtol=1e-15 if matrix.dtype is torch.float64 else 0, atol=1e-16)
    expected_D = (matrix - found.mean_D).double().square().sum(dim=0)
    torch.testing.assert_close(found.squares_D, expected_D, rtol=1e-13, atol=0)


@cases
def test_mean_of_rows(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_K = torch.cat((torch.arange(len(matrix)).flip(0)[::2], torch.zeros(3, dtype=torch.int64)))  # one several times
    expected_D = matrix[rows_K].double().mean(dim=0)
    for always in (False, True):
        if always:
            compiled_always(monkeypatch)
        close = {"rtol": 0, "atol": 1e-6 if matrix.dtype is torch.float32 else 1e-14}
        torch.testing.assert_close(mean_of_rows(matrix, rows_K).double(), expected_D, **close)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 28), (3, 9, 5)])
def test_examples_are_scaled_as_pytorch_does_it(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (60, *shape), dtype=np.uint8), rng.integers(0, 10, 60)
    channels = shape[0] if len(shape) == 3 else 1
    means, stds = (tuple(rng.uniform(0.1, 0.9, channels).tolist()) for _ in range(2))
    source = Data(x, y, x, y, classes=10, scale=1 / 255, mean=means, std=stds)
    examples = Examples(source, x, y, torch.device("cpu"))
    chosen = torch.from_numpy(rng.integers(0, 60, 41))
    plain = examples.batch(chosen)
    compiled_always(monkeypatch)
    found = examples.batch(chosen)
    assert torch.equal(found.x, plain.x)
    assert torch.equal(found.y, plain.y)


def test_without_a_folder_to_write_to_code_is_compiled_anew() -> None:
    from byzray.kernels import kernel

    namespace: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", namespace)  # of no file, beside which numba could write
    assert kernel()(namespace["double"])(3) == 6


def test_inputs_that_require_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    matrix = torch.randn(5, 40, requires_grad=True)
    spread(matrix)
    order_statistics(matrix, 0, 5)
    distances(matrix)


def test_inputs_need_not_be_contiguous_and_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    every_other = torch.randn(40, 30).t()[::2]
    before = every_other.clone()
    assert torch.equal(order_statistics(every_other, 0, 15), order_statistics(before, 0, 15))
    assert torch.equal(distances(every_other), distances(before))
    assert all(torch.equal(*both) for both in zip(spread(every_other)[1:], spread(before)[1:], strict=True))
    assert torch.equal(every_other, before)


@cases
@pytest.mark.parametrize("scale", [1.0, 1e18, 1e-18])
def test_norms(matrix: torch.Tensor, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrix * scale
    expected_N = matrix.double().square().sum(dim=1).sqrt()
    compiled_always(monkeypatch)
    torch.testing.assert_close(norms(matrix), expected_N, rtol=1e-6, atol=1e-20 * scale)


@cases
def test_distances_from(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    for row in (0, len(matrix) - 1):
        torch.testing.assert_close(distances_from(matrix, row), distances(matrix)[row], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_distances_from_hostile_rows(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    matrix = torch.randn(6, 300)
    matrix[4, 7], matrix[5, 7] = value, -value
    for row in range(6):
        torch.testing.assert_close(distances_from(matrix, row), distances(matrix)[row], rtol=1e-6, atol=0)


@cases
def test_products_around_a_point(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    middle_D, finite_N = matrix[0] / 3, torch.ones(len(matrix), dtype=torch.bool)
    found_NN, norms_N = _around(middle_D, matrix, finite_N)
    centred_ND = (matrix - middle_D).double()
    expected_NN = centred_ND @ centred_ND.T
    lengths_N = expected_NN.diagonal().sqrt()
    rounding = 1e-6 if matrix.dtype is torch.float32 else 1e-14
    assert ((found_NN - expected_NN).abs() <= rounding * lengths_N[:, None] * lengths_N).all()
    torch.testing.assert_close(norms_N, lengths_N, rtol=rounding, atol=0)
    torch.set_num_threads(1)
    assert torch.equal(_around(middle_D, matrix, finite_N)[0], found_NN)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_geometric_median_with_a_hostile_row(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    matrix = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    matrix[5] = value
    weights_N = GeometricMedian().weights(Matrix(matrix), 1)
    assert weights_N[5] < 1e-30
    assert weights_N.sum() == pytest.approx(1)


@cases
def test_combinations_of_few_rows(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    monkeypatch.setattr("byzray.submissions.SPARSE", 1.0)  # else only of large numbers of rows
    n = len(matrix)
    weights_NN = torch.eye(n, dtype=torch.float64) * 0.75
    weights_NN[:, 0] += 0.25 * (torch.arange(n) % 2)
    unread = torch.zeros(n, dtype=torch.bool)
    unread[n // 2] = True
    weights_NN[:, unread] = 0
    expected_ND = weights_NN @ matrix.double()
    matrix[unread] = math.nan
    found_ND = combined(weights_NN, matrix)
    torch.testing.assert_close(found_ND.double(), expected_ND, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_combination_with_a_hostile_row_is_nan_if_that_is_not_finite(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_always(monkeypatch)
    matrix = torch.ones(20, 600)
    matrix[3, 555:] = value
    found_ND = combined(torch.eye(20, dtype=torch.float64), matrix)
    if math.isfinite(value):
        assert torch.equal(found_ND, matrix)
    else:
        assert found_ND[3].isnan().all()
        assert torch.equal(found_ND[torch.arange(20) != 3], matrix[torch.arange(20) != 3])


@pytest.mark.parametrize("weights_NN", [torch.eye(30, dtype=torch.float64), torch.full((30, 30), 1 / 30).double()])
def test_equal_rows_are_mixed_as_if_each_was_written(weights_NN: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    rows_ND = torch.randn(30, 100)
    whole_ND = torch.cat((rows_ND[:20], rows_ND[19].expand(10, -1)))
    written = Mixed(weights_NN, Matrix(whole_ND)).rows_ND
    torch.testing.assert_close(Mixed(weights_NN, Matrix(rows_ND, distinct=20)).rows_ND, written, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kinds", [1, 2, 20])
def test_mixtures_of_equal_weights_are_equal_to_the_bit(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    generator = torch.Generator().manual_seed(kinds)
    rows_ND = torch.randn(30, 700, generator=generator)
    weights_KN = torch.rand(kinds, 30, generator=generator, dtype=torch.float64)
    kinds_N = torch.arange(30) % kinds
    found_ND = Mixed(weights_KN[kinds_N], Matrix(rows_ND)).rows_ND
    torch.testing.assert_close(found_ND.double(), weights_KN[kinds_N] @ rows_ND.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found_ND, found_ND[kinds_N])  # the first ones, each of another kind
