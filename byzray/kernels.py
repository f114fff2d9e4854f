"""Compiled passes over the rows of a matrix, for CPUs: what PyTorch needs several passes and temporaries for.

Shapes in names: K or N vectors, D coordinates, M combinations.

Importing this module loads numba. What it compiles is kept on disk, so that only the first use ever takes seconds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.floating]

TILE = 256
"""Coordinates of all vectors that are treated together, while they lie in the cache."""

ROWS = 64
"""Rows with a tile each that lie in the cache together; a multiple of four, by which rows are compared."""


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function with numba, for threads, and keep what is compiled where numba finds a folder to write to."""

    def compile_kept(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # there is no such folder: each process compiles anew
            return njit(nogil=True, **options)(function)

    return compile_kept


@kernel()
def squared_distances(matrix_ND: Floats, out_NN: NDArray[np.float64], first: int, stride: int) -> None:
    """Add to the lower triangle of `out_NN`, in rows first, first + stride, ..., the squared distances between the
    rows of a matrix: differences are squared and added in its precision, the sums of tiles in double precision."""
    n, dimension = matrix_ND.shape
    for begin in range(0, dimension, TILE):
        end = min(begin + TILE, dimension)
        for block in range(0, n, ROWS):  # which stay in the cache, while all others are compared with them
            for i in range(first, n, stride):
                _compare(matrix_ND, i, block, min(block + ROWS, i), begin, end, out_NN)


@kernel()
def squared_distances_from(matrix_ND: Floats, row: int, out_N: NDArray[np.float64], first: int, stride: int) -> None:
    """Those from one row to the rows first, first + stride, ... of a matrix."""
    n, dimension = matrix_ND.shape
    for i in range(first, n, stride):
        total = 0.0
        for begin in range(0, dimension, TILE):
            end = min(begin + TILE, dimension)
            total += _one(matrix_ND[i, begin:end], matrix_ND[row, begin:end])
        out_N[i] = total


@kernel()
def _compare(matrix_ND, i, j, stop, begin, end, out_NN):  # type: ignore[no-untyped-def]
    """Add the squared distances of a tile of row i from those of the rows j, ..., stop - 1."""
    row = matrix_ND[i, begin:end]
    while j + 4 <= stop:
        sums = _four(
            row,
            matrix_ND[j, begin:end],
            matrix_ND[j + 1, begin:end],
            matrix_ND[j + 2, begin:end],
            matrix_ND[j + 3, begin:end],
        )
        for k in range(4):
            out_NN[i, j + k] += sums[k]
        j += 4
    while j < stop:
        out_NN[i, j] += _one(row, matrix_ND[j, begin:end])
        j += 1


# Sums may be taken in any order, that of the processor's vectors: but what is not finite stays so.
@kernel(fastmath={"contract", "reassoc", "nsz"})
def _one(u, v):  # type: ignore[no-untyped-def]
    total = u.dtype.type(0)
    for k in range(np.uint64(len(u))):
        difference = u[k] - v[k]
        total += difference * difference
    return total


@kernel(fastmath={"contract", "reassoc", "nsz"})
def _four(u, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Four squared distances at once, for which `u` is loaded once."""
    total0 = total1 = total2 = total3 = u.dtype.type(0)
    for k in range(np.uint64(len(u))):
        d0, d1, d2, d3 = u[k] - v0[k], u[k] - v1[k], u[k] - v2[k], u[k] - v3[k]
        total0 += d0 * d0
        total1 += d1 * d1
        total2 += d2 * d2
        total3 += d3 * d3
    return total0, total1, total2, total3


@kernel()
def centred_products(matrix_ND: Floats, center_D: Floats, out_NN: NDArray[np.float64], first: int, stride: int) -> None:
    """Add to the lower triangle of `out_NN`, in rows first, first + stride, ..., the inner products of the rows of a
    matrix less a center: products are added in its precision, the sums of tiles in double precision."""
    n, dimension = matrix_ND.shape
    centred_NT = np.empty((n, TILE), matrix_ND.dtype)
    for begin in range(0, dimension, TILE):
        width = min(TILE, dimension - begin)
        for i in range(n):
            _subtract(matrix_ND[i, begin : begin + width], center_D[begin : begin + width], centred_NT[i, :width])
        for block in range(0, n, ROWS):
            for i in range(first, n, stride):
                _multiply(centred_NT, i, block, min(block + ROWS, i + 1), width, out_NN)


@kernel()
def _subtract(u, v, out):  # type: ignore[no-untyped-def]
    for k in range(np.uint64(len(out))):
        out[k] = u[k] - v[k]


@kernel()
def _multiply(tile_NT, i, j, stop, width, out_NN):  # type: ignore[no-untyped-def]
    """Add the inner products of row i of a tile with the rows j, ..., stop - 1."""
    row = tile_NT[i, :width]
    while j + 4 <= stop:
        sums = _four_products(
            row,
            tile_NT[j, :width],
            tile_NT[j + 1, :width],
            tile_NT[j + 2, :width],
            tile_NT[j + 3, :width],
        )
        for k in range(4):
            out_NN[i, j + k] += sums[k]
        j += 4
    while j < stop:
        out_NN[i, j] += _product(row, tile_NT[j, :width])
        j += 1


@kernel(fastmath={"contract", "reassoc", "nsz"})
def _product(u, v):  # type: ignore[no-untyped-def]
    total = u.dtype.type(0)
    for k in range(np.uint64(len(u))):
        total += u[k] * v[k]
    return total


@kernel(fastmath={"contract", "reassoc", "nsz"})
def _four_products(u, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Four inner products at once, for which `u` is loaded once."""
    total0 = total1 = total2 = total3 = u.dtype.type(0)
    for k in range(np.uint64(len(u))):
        total0 += u[k] * v0[k]
        total1 += u[k] * v1[k]
        total2 += u[k] * v2[k]
        total3 += u[k] * v3[k]
    return total0, total1, total2, total3


@kernel()
def squared_norms(matrix_ND: Floats, out_N: NDArray[np.float64], first: int, stride: int) -> None:
    """The squared norms of the rows first, first + stride, ... of a matrix, in double precision."""
    for i in range(first, len(matrix_ND), stride):
        out_N[i] = _square(matrix_ND[i])


@kernel(fastmath={"contract", "reassoc", "nsz"})
def _square(u):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(np.uint64(len(u))):
        total += np.float64(u[k]) * np.float64(u[k])
    return total


@kernel()
def combinations(matrix_ND: Floats, weights_MN: Floats, out_MD: Floats, begin: int, end: int) -> bool:
    """Of the columns from `begin` to `end`, M sums of the rows of a matrix times weights; rows of weight 0 are not
    read. Returns whether all sums are finite, and add up to something finite."""
    total = 0.0
    for column in range(begin, end, TILE):
        stop = min(column + TILE, end)
        for m in range(len(weights_MN)):
            sums = out_MD[m, column:stop]
            sums[:] = 0
            for i in range(len(matrix_ND)):
                if weights_MN[m, i] != 0:
                    _add_times(sums, matrix_ND[i, column:stop], weights_MN[m, i])
            total += _sum(sums)
    return np.isfinite(total)


@kernel(fastmath={"contract"})
def _add_times(total, values, factor):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(len(total))):
        total[j] += values[j] * factor


@kernel(fastmath={"reassoc"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = values.dtype.type(0)
    for j in range(np.uint64(len(values))):
        total += values[j]
    return total


@kernel()
def scaled_examples(
    examples_NCP: NDArray[np.uint8],
    positions_B: NDArray[np.int64],
    factor_C: Floats,
    offset_C: Floats,
    ready_BCP: Floats,
    begin: int,
    end: int,
) -> None:
    """Of a batch, from `begin` to `end`, the examples at some positions, of C channels of P pixels each, as
    factor * pixel + offset."""
    for i in range(begin, end):
        for channel in range(len(factor_C)):
            _scale(examples_NCP[positions_B[i], channel], factor_C[channel], offset_C[channel], ready_BCP[i, channel])


# A product and a sum are rounded once, as PyTorch does it.
@kernel(fastmath={"contract"})
def _scale(pixels, factor, offset, ready):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(len(pixels))):
        ready[j] = offset + np.float32(pixels[j]) * factor


# In whatever order: see above.
@kernel(fastmath={"contract", "reassoc", "nsz"})
def inner_products(v0, v1, v2, v3, before, past, products_44, others_3):  # type: ignore[no-untyped-def]
    """In double precision the inner products of each two of four vectors; of the first and another, of this with
    itself, and of the first and a vector of doubles."""
    p00 = p01 = p02 = p03 = p11 = p12 = p13 = p22 = p23 = p33 = with_before = of_before = with_past = 0.0
    for j in range(np.uint64(len(v0))):
        a, b, c, d = np.float64(v0[j]), np.float64(v1[j]), np.float64(v2[j]), np.float64(v3[j])
        e = np.float64(before[j])
        p00, p01, p02, p03 = p00 + a * a, p01 + a * b, p02 + a * c, p03 + a * d
        p11, p12, p13 = p11 + b * b, p12 + b * c, p13 + b * d
        p22, p23, p33 = p22 + c * c, p23 + c * d, p33 + d * d
        with_before, of_before, with_past = with_before + a * e, of_before + e * e, with_past + a * past[j]
    products_44[0] = p00, p01, p02, p03
    products_44[1] = p01, p11, p12, p13
    products_44[2] = p02, p12, p22, p23
    products_44[3] = p03, p13, p23, p33
    others_3[:] = with_before, of_before, with_past


@kernel()
def mean_of_rows(matrix_ND: Floats, rows_K: NDArray[np.int64], mean_D: Floats, begin: int, end: int) -> None:
    """The means of the columns from `begin` to `end` over some rows, added up in double precision."""
    sums = np.empty(TILE, np.float64)
    for column in range(begin, end, TILE):
        stop = min(column + TILE, end)
        _mean(matrix_ND, rows_K, column, stop, sums[: stop - column], mean_D[column:stop])


@kernel()
def spread(matrix_KD: Floats, mean_D: Floats, squares_D: NDArray[np.float64], begin: int, end: int) -> None:
    """Of the columns from `begin` to `end`, the means, added up in double precision, and the sums of the squared
    differences from them: the differences in the matrix's precision, squared and added in double precision."""
    count = matrix_KD.shape[0]
    fours = count - count % 4
    rows_K = np.arange(count)
    sums = np.empty(TILE, np.float64)
    for column in range(begin, end, TILE):
        stop = min(column + TILE, end)
        center, squares = mean_D[column:stop], squares_D[column:stop]
        _mean(matrix_KD, rows_K, column, stop, sums[: stop - column], center)
        squares[:] = 0
        for i in range(0, fours, 4):
            _add_four_squares(
                squares,
                center,
                matrix_KD[i, column:stop],
                matrix_KD[i + 1, column:stop],
                matrix_KD[i + 2, column:stop],
                matrix_KD[i + 3, column:stop],
            )
        for i in range(fours, count):
            _add_squares(squares, center, matrix_KD[i, column:stop])


@kernel()
def _mean(matrix_ND, rows_K, begin, end, sums, mean):  # type: ignore[no-untyped-def]
    """The means of a tile over some rows."""
    count = len(rows_K)
    fours = count - count % 4
    sums[:] = 0
    for k in range(0, fours, 4):
        _add_four(
            sums,
            matrix_ND[rows_K[k], begin:end],
            matrix_ND[rows_K[k + 1], begin:end],
            matrix_ND[rows_K[k + 2], begin:end],
            matrix_ND[rows_K[k + 3], begin:end],
        )
    for k in range(fours, count):
        add_values(sums, matrix_ND[rows_K[k], begin:end])
    for j in range(len(mean)):
        mean[j] = sums[j] / count


@kernel()
def add_values(total, values):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(len(values))):
        total[j] += np.float64(values[j])


@kernel()
def _add_four(total, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Four times :func:`add_values`, for which `total` is loaded once."""
    for j in range(np.uint64(len(total))):
        total[j] = total[j] + np.float64(v0[j]) + np.float64(v1[j]) + np.float64(v2[j]) + np.float64(v3[j])


@kernel()
def _add_squares(total, center, values):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(len(total))):
        difference = np.float64(values[j] - center[j])
        total[j] += difference * difference


@kernel()
def _add_four_squares(total, center, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Four times :func:`_add_squares`, for which `total` is loaded once."""
    for j in range(np.uint64(len(total))):
        d0, d1 = np.float64(v0[j] - center[j]), np.float64(v1[j] - center[j])
        d2, d3 = np.float64(v2[j] - center[j]), np.float64(v3[j] - center[j])
        total[j] = total[j] + d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
