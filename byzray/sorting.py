"""A sorting network over the columns of a matrix, compiled: the fastest way to sort many short columns on a CPU.

TILE columns are sorted at a time, in a buffer of R rows that fits the first-level cache. A comparator takes the minimum
and the maximum of two rows, which processors do for 8 or 16 columns at once, and without a branch. Groups of 16 rows
are sorted in registers (by Green's network of 60 comparators) and then merged by bitonic networks, whose last four
layers work in registers again.

Reference: D. E. Knuth. The Art of Computer Programming, volume 3, section 5.3.4: networks for sorting.

Importing this module loads numba. What it compiles is kept on disk, so that only the first use ever takes seconds.
"""

import numpy as np
from numpy.typing import NDArray

from byzray.kernels import add_values, kernel

TILE = 64
"""Columns sorted together."""

WIDTH = np.uint64(TILE)
# Where the rows of a group begin. All indices are unsigned: numba then need not look for negative ones, which would
# keep the loops from being turned into vector instructions.
ROW0 = np.uint64(0 * TILE)
ROW1 = np.uint64(1 * TILE)
ROW2 = np.uint64(2 * TILE)
ROW3 = np.uint64(3 * TILE)
ROW4 = np.uint64(4 * TILE)
ROW5 = np.uint64(5 * TILE)
ROW6 = np.uint64(6 * TILE)
ROW7 = np.uint64(7 * TILE)
ROW8 = np.uint64(8 * TILE)
ROW9 = np.uint64(9 * TILE)
ROW10 = np.uint64(10 * TILE)
ROW11 = np.uint64(11 * TILE)
ROW12 = np.uint64(12 * TILE)
ROW13 = np.uint64(13 * TILE)
ROW14 = np.uint64(14 * TILE)
ROW15 = np.uint64(15 * TILE)


# The next three treat the columns from `begin` to `end` of a matrix of U rows, the last of which counts `times` times:
# so there are n = U - 1 + times values in a column. NaN sorts as +inf.


@kernel()
def sort_columns(
    matrix_UD: NDArray[np.floating], times: int, first: int, out_DK: NDArray[np.floating], begin: int, end: int
) -> None:
    """Write the values of ranks first, first+1, ..., first+K-1 of every column to its row of `out_DK`."""
    count = out_DK.shape[1]
    tile, ranked = _buffers(matrix_UD, count)
    for column in range(begin, end, TILE):
        width = min(TILE, end - column)
        _rank(matrix_UD, times, first, count, column, width, tile, ranked)
        for j in range(width):
            _store(ranked, np.uint64(j), out_DK[column + j])


@kernel()
def mean_of_ranks(
    matrix_UD: NDArray[np.floating],
    times: int,
    first: int,
    count: int,
    mean_D: NDArray[np.floating],
    begin: int,
    end: int,
) -> None:
    """The means over ranks first, ..., first+count-1 of every column, added up in double precision."""
    tile, ranked = _buffers(matrix_UD, count)
    total = np.empty(TILE, np.float64)
    for column in range(begin, end, TILE):
        width = min(TILE, end - column)
        _rank(matrix_UD, times, first, count, column, width, tile, ranked)
        _mean(ranked, 0, count, total, mean_D[column : column + width])


@kernel()
def mean_around(
    matrix_UD: NDArray[np.floating],
    times: int,
    first: int,
    count: int,
    keep: int,
    mean_D: NDArray[np.floating],
    begin: int,
    end: int,
) -> None:
    """The means of the `keep` values of every column that are nearest to the mean over ranks first, ..., first+count-1,
    added up in double precision; a tie keeps the lower value.

    The nearest values are consecutive ranks: a window that moves up by one as long as the value it would leave is
    further from the center than the value it would gain.
    """
    n = matrix_UD.shape[0] - 1 + times
    tile, ranked = _buffers(matrix_UD, n)
    center = np.empty(TILE, matrix_UD.dtype)
    begins = np.empty(TILE, np.int32)
    total = np.empty(TILE, np.float64)
    for column in range(begin, end, TILE):
        width = min(TILE, end - column)
        _rank(matrix_UD, times, 0, n, column, width, tile, ranked)
        _mean(ranked, first, count, total, center)
        begins[:] = 0
        for rank in range(n - keep):
            _move(ranked, np.uint64(rank * TILE), np.uint64((rank + keep) * TILE), center, begins)
        total[:] = 0
        for rank in range(n):
            _add_within(ranked, np.uint64(rank * TILE), rank, begins, keep, total)
        for j in range(width):
            mean_D[column + j] = total[j] / keep


@kernel()
def _buffers(matrix_UD, count):  # type: ignore[no-untyped-def]
    """Room for a tile of rows to sort, padded to a power of two, and for the values of so many ranks."""
    rows = 16
    while rows < matrix_UD.shape[0]:
        rows *= 2
    return np.empty(rows * TILE, matrix_UD.dtype), np.empty(count * TILE, matrix_UD.dtype)


@kernel()
def _rank(matrix_UD, times, first, count, column, width, tile, ranked):  # type: ignore[no-untyped-def]
    """Sort a tile of columns; the values of its ranks first, ..., first+count-1 go to the rows of `ranked`."""
    rows = len(tile) // TILE
    others = matrix_UD.shape[0] - 1
    tile[others * TILE :] = np.inf
    for i in range(others):
        _load(matrix_UD[i, column : column + width], tile, np.uint64(i * TILE), np.uint64(width))
    if times == 1:
        _load(matrix_UD[others, column : column + width], tile, np.uint64(others * TILE), np.uint64(width))
        _sort(tile, rows)
        ranked[:] = tile[first * TILE : (first + count) * TILE]
        return
    _sort(tile, rows)
    # Among sorted values v_0 <= v_1 <= ..., so many equal values u move the value of rank r from v_r at most down to
    # v_(r-times): it is u if that lies between the two, else the nearer one.
    for k in range(count):
        to = np.uint64(k * TILE)
        _load(matrix_UD[others, column : column + width], ranked, to, np.uint64(width))
        if first + k < others:
            _at_most(ranked, to, tile, np.uint64((first + k) * TILE))
        if first + k >= times:
            _at_least(ranked, to, tile, np.uint64((first + k - times) * TILE))


@kernel(fastmath={"nnan", "nsz"})
def _at_most(ranked, to, tile, start):  # type: ignore[no-untyped-def]
    for j in range(WIDTH):
        ranked[to + j] = min(ranked[to + j], tile[start + j])


@kernel(fastmath={"nnan", "nsz"})
def _at_least(ranked, to, tile, start):  # type: ignore[no-untyped-def]
    for j in range(WIDTH):
        ranked[to + j] = max(ranked[to + j], tile[start + j])


@kernel()
def _mean(ranked, first, count, total, mean):  # type: ignore[no-untyped-def]
    total[:] = 0
    for k in range(first, first + count):
        add_values(total, ranked[k * TILE : (k + 1) * TILE])
    for j in range(len(mean)):
        mean[j] = total[j] / count


@kernel()
def _move(ranked, low, high, center, begins):  # type: ignore[no-untyped-def]
    for j in range(WIDTH):
        begins[j] += center[j] - ranked[low + j] > ranked[high + j] - center[j]


@kernel()
def _add_within(ranked, start, rank, begins, keep, total):  # type: ignore[no-untyped-def]
    for j in range(WIDTH):
        within = (begins[j] <= rank) & (rank < begins[j] + keep)
        total[j] += np.float64(ranked[start + j]) if within else 0.0


@kernel()
def _load(values, tile, start, width):  # type: ignore[no-untyped-def]
    for j in range(width):
        value = values[j]
        tile[start + j] = value if value == value else np.inf


@kernel()
def _store(tile, start, values):  # type: ignore[no-untyped-def]
    for k in range(np.uint64(len(values))):
        values[k] = tile[start + k * WIDTH]


@kernel()
def _sort(tile, rows):  # type: ignore[no-untyped-def]
    """Sort `rows` rows, a power of two from 16 on."""
    for group in range(0, rows, 16):
        _sort_16(tile, np.uint64(group * TILE))
    run = 16
    while run < rows:
        # Two ascending runs: the first comparators pair them head to tail, the others rows at shrinking distances.
        for start in range(0, rows, 2 * run):
            for i in range(run):
                _exchange(tile, np.uint64((start + i) * TILE), np.uint64((start + 2 * run - 1 - i) * TILE))
        distance = run // 2
        while distance >= 16:
            for start in range(0, rows, 2 * distance):
                for i in range(start, start + distance):
                    _exchange(tile, np.uint64(i * TILE), np.uint64((i + distance) * TILE))
            distance //= 2
        for group in range(0, rows, 16):
            _merge_16(tile, np.uint64(group * TILE))
        run *= 2


# There is no NaN here, and -0 may pass for 0: so a comparator is two instructions.
@kernel(fastmath={"nnan", "nsz"})
def _exchange(tile, low, high):  # type: ignore[no-untyped-def]
    for j in range(WIDTH):
        u = tile[low + j]
        v = tile[high + j]
        tile[low + j] = min(u, v)
        tile[high + j] = max(u, v)


@kernel(fastmath={"nnan", "nsz"})
def _merge_16(tile, start):  # type: ignore[no-untyped-def]
    """The last four layers of a bitonic merge: comparators at distances 8, 4, 2 and 1."""
    for j in range(WIDTH):
        v0 = tile[start + ROW0 + j]
        v1 = tile[start + ROW1 + j]
        v2 = tile[start + ROW2 + j]
        v3 = tile[start + ROW3 + j]
        v4 = tile[start + ROW4 + j]
        v5 = tile[start + ROW5 + j]
        v6 = tile[start + ROW6 + j]
        v7 = tile[start + ROW7 + j]
        v8 = tile[start + ROW8 + j]
        v9 = tile[start + ROW9 + j]
        v10 = tile[start + ROW10 + j]
        v11 = tile[start + ROW11 + j]
        v12 = tile[start + ROW12 + j]
        v13 = tile[start + ROW13 + j]
        v14 = tile[start + ROW14 + j]
        v15 = tile[start + ROW15 + j]
        v0, v8 = min(v0, v8), max(v0, v8)
        v1, v9 = min(v1, v9), max(v1, v9)
        v2, v10 = min(v2, v10), max(v2, v10)
        v3, v11 = min(v3, v11), max(v3, v11)
        v4, v12 = min(v4, v12), max(v4, v12)
        v5, v13 = min(v5, v13), max(v5, v13)
        v6, v14 = min(v6, v14), max(v6, v14)
        v7, v15 = min(v7, v15), max(v7, v15)
        v0, v4 = min(v0, v4), max(v0, v4)
        v1, v5 = min(v1, v5), max(v1, v5)
        v2, v6 = min(v2, v6), max(v2, v6)
        v3, v7 = min(v3, v7), max(v3, v7)
        v8, v12 = min(v8, v12), max(v8, v12)
        v9, v13 = min(v9, v13), max(v9, v13)
        v10, v14 = min(v10, v14), max(v10, v14)
        v11, v15 = min(v11, v15), max(v11, v15)
        v0, v2 = min(v0, v2), max(v0, v2)
        v1, v3 = min(v1, v3), max(v1, v3)
        v4, v6 = min(v4, v6), max(v4, v6)
        v5, v7 = min(v5, v7), max(v5, v7)
        v8, v10 = min(v8, v10), max(v8, v10)
        v9, v11 = min(v9, v11), max(v9, v11)
        v12, v14 = min(v12, v14), max(v12, v14)
        v13, v15 = min(v13, v15), max(v13, v15)
        v0, v1 = min(v0, v1), max(v0, v1)
        v2, v3 = min(v2, v3), max(v2, v3)
        v4, v5 = min(v4, v5), max(v4, v5)
        v6, v7 = min(v6, v7), max(v6, v7)
        v8, v9 = min(v8, v9), max(v8, v9)
        v10, v11 = min(v10, v11), max(v10, v11)
        v12, v13 = min(v12, v13), max(v12, v13)
        v14, v15 = min(v14, v15), max(v14, v15)
        tile[start + ROW0 + j] = v0
        tile[start + ROW1 + j] = v1
        tile[start + ROW2 + j] = v2
        tile[start + ROW3 + j] = v3
        tile[start + ROW4 + j] = v4
        tile[start + ROW5 + j] = v5
        tile[start + ROW6 + j] = v6
        tile[start + ROW7 + j] = v7
        tile[start + ROW8 + j] = v8
        tile[start + ROW9 + j] = v9
        tile[start + ROW10 + j] = v10
        tile[start + ROW11 + j] = v11
        tile[start + ROW12 + j] = v12
        tile[start + ROW13 + j] = v13
        tile[start + ROW14 + j] = v14
        tile[start + ROW15 + j] = v15


@kernel(fastmath={"nnan", "nsz"})
def _sort_16(tile, start):  # type: ignore[no-untyped-def]
    """M. W. Green's network."""
    for j in range(WIDTH):
        v0 = tile[start + ROW0 + j]
        v1 = tile[start + ROW1 + j]
        v2 = tile[start + ROW2 + j]
        v3 = tile[start + ROW3 + j]
        v4 = tile[start + ROW4 + j]
        v5 = tile[start + ROW5 + j]
        v6 = tile[start + ROW6 + j]
        v7 = tile[start + ROW7 + j]
        v8 = tile[start + ROW8 + j]
        v9 = tile[start + ROW9 + j]
        v10 = tile[start + ROW10 + j]
        v11 = tile[start + ROW11 + j]
        v12 = tile[start + ROW12 + j]
        v13 = tile[start + ROW13 + j]
        v14 = tile[start + ROW14 + j]
        v15 = tile[start + ROW15 + j]
        v0, v1 = min(v0, v1), max(v0, v1)
        v2, v3 = min(v2, v3), max(v2, v3)
        v4, v5 = min(v4, v5), max(v4, v5)
        v6, v7 = min(v6, v7), max(v6, v7)
        v8, v9 = min(v8, v9), max(v8, v9)
        v10, v11 = min(v10, v11), max(v10, v11)
        v12, v13 = min(v12, v13), max(v12, v13)
        v14, v15 = min(v14, v15), max(v14, v15)
        v0, v2 = min(v0, v2), max(v0, v2)
        v1, v3 = min(v1, v3), max(v1, v3)
        v4, v6 = min(v4, v6), max(v4, v6)
        v5, v7 = min(v5, v7), max(v5, v7)
        v8, v10 = min(v8, v10), max(v8, v10)
        v9, v11 = min(v9, v11), max(v9, v11)
        v12, v14 = min(v12, v14), max(v12, v14)
        v13, v15 = min(v13, v15), max(v13, v15)
        v0, v4 = min(v0, v4), max(v0, v4)
        v1, v5 = min(v1, v5), max(v1, v5)
        v2, v6 = min(v2, v6), max(v2, v6)
        v3, v7 = min(v3, v7), max(v3, v7)
        v8, v12 = min(v8, v12), max(v8, v12)
        v9, v13 = min(v9, v13), max(v9, v13)
        v10, v14 = min(v10, v14), max(v10, v14)
        v11, v15 = min(v11, v15), max(v11, v15)
        v0, v8 = min(v0, v8), max(v0, v8)
        v1, v9 = min(v1, v9), max(v1, v9)
        v2, v10 = min(v2, v10), max(v2, v10)
        v3, v11 = min(v3, v11), max(v3, v11)
        v4, v12 = min(v4, v12), max(v4, v12)
        v5, v13 = min(v5, v13), max(v5, v13)
        v6, v14 = min(v6, v14), max(v6, v14)
        v7, v15 = min(v7, v15), max(v7, v15)
        v5, v10 = min(v5, v10), max(v5, v10)
        v6, v9 = min(v6, v9), max(v6, v9)
        v3, v12 = min(v3, v12), max(v3, v12)
        v13, v14 = min(v13, v14), max(v13, v14)
        v4, v8 = min(v4, v8), max(v4, v8)
        v7, v11 = min(v7, v11), max(v7, v11)
        v1, v2 = min(v1, v2), max(v1, v2)
        v1, v4 = min(v1, v4), max(v1, v4)
        v7, v13 = min(v7, v13), max(v7, v13)
        v2, v8 = min(v2, v8), max(v2, v8)
        v11, v14 = min(v11, v14), max(v11, v14)
        v2, v4 = min(v2, v4), max(v2, v4)
        v5, v6 = min(v5, v6), max(v5, v6)
        v9, v10 = min(v9, v10), max(v9, v10)
        v11, v13 = min(v11, v13), max(v11, v13)
        v3, v8 = min(v3, v8), max(v3, v8)
        v7, v12 = min(v7, v12), max(v7, v12)
        v6, v8 = min(v6, v8), max(v6, v8)
        v10, v12 = min(v10, v12), max(v10, v12)
        v3, v5 = min(v3, v5), max(v3, v5)
        v7, v9 = min(v7, v9), max(v7, v9)
        v3, v4 = min(v3, v4), max(v3, v4)
        v5, v6 = min(v5, v6), max(v5, v6)
        v7, v8 = min(v7, v8), max(v7, v8)
        v9, v10 = min(v9, v10), max(v9, v10)
        v11, v12 = min(v11, v12), max(v11, v12)
        v6, v7 = min(v6, v7), max(v6, v7)
        v8, v9 = min(v8, v9), max(v8, v9)
        tile[start + ROW0 + j] = v0
        tile[start + ROW1 + j] = v1
        tile[start + ROW2 + j] = v2
        tile[start + ROW3 + j] = v3
        tile[start + ROW4 + j] = v4
        tile[start + ROW5 + j] = v5
        tile[start + ROW6 + j] = v6
        tile[start + ROW7 + j] = v7
        tile[start + ROW8 + j] = v8
        tile[start + ROW9 + j] = v9
        tile[start + ROW10 + j] = v10
        tile[start + ROW11 + j] = v11
        tile[start + ROW12 + j] = v12
        tile[start + ROW13 + j] = v13
        tile[start + ROW14 + j] = v14
        tile[start + ROW15 + j] = v15
