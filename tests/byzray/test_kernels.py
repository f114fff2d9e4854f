"""Compiled code against what it stands for, on matrices of any size and whatever they hold."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from byzray import parallel
from byzray.deviations import squared_deviations
from byzray.distances import distances
from byzray.order_statistics import order_statistics

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
def test_squared_deviations(matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    center_D = matrix.mean(dim=0)
    plain_D = squared_deviations(matrix, center_D)
    torch.testing.assert_close(plain_D, (matrix - center_D).double().square().sum(dim=0), rtol=1e-14, atol=0)
    compiled_always(monkeypatch)
    found_D = squared_deviations(matrix, center_D)
    assert found_D.dtype is torch.float64
    torch.testing.assert_close(found_D, plain_D, rtol=1e-13, atol=0)


def test_without_a_folder_to_write_to_code_is_compiled_anew() -> None:
    from byzray.kernels import kernel

    namespace: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", namespace)  # of no file, beside which numba could write
    assert kernel()(namespace["double"])(3) == 6


def test_inputs_that_require_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    matrix = torch.randn(5, 40, requires_grad=True)
    squared_deviations(matrix, matrix.mean(dim=0))
    order_statistics(matrix, 0, 5)
    distances(matrix)


def test_inputs_need_not_be_contiguous_and_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_always(monkeypatch)
    every_other = torch.randn(40, 30).t()[::2]
    before = every_other.clone()
    assert torch.equal(order_statistics(every_other, 0, 15), order_statistics(before, 0, 15))
    assert torch.equal(distances(every_other), distances(before))
    center = every_other.mean(dim=0)
    assert torch.equal(squared_deviations(every_other, center), squared_deviations(before, center))
    assert torch.equal(every_other, before)
