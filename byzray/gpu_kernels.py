"""Fused passes over the rows of a matrix, for GPUs: what PyTorch needs several passes, sorts and temporaries for.

Shapes in names: K or N vectors, D coordinates.

Importing this module loads Triton, which compiles a kernel at its first use and keeps it on disk.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 128
"""Coordinates that a program takes at once."""

ROW_TILE = 32
"""Rows that a program holds at once of what it only adds up."""

DISTANCE_PROGRAMS = 512
"""Programs among which the coordinates are divided for distances; each adds up its part by itself."""


def works(device: torch.device) -> bool:
    """Whether Triton can compile and run a kernel here: it needs a C compiler, and a GPU that it knows."""
    try:
        ones = torch.ones(1, 1, device=device)
        return squared_deviations(ones, ones[0]).item() == 0
    except Exception:  # whatever a compiler, a linker or a driver stumbles over
        return False


def squared_deviations(vectors_KD: Tensor, center_D: Tensor) -> Tensor:
    """As :func:`byzray.deviations.squared_deviations`: (D,) float64."""
    k, dimension = vectors_KD.shape
    matrix, center = vectors_KD.detach().contiguous(), center_D.detach().contiguous()
    squares_D = torch.empty(dimension, dtype=torch.float64, device=matrix.device)
    _squared_deviations[(triton.cdiv(dimension, COLUMNS),)](
        matrix, center, squares_D, k, dimension, ROWS=ROW_TILE, COLUMNS=COLUMNS
    )
    return squares_D


@triton.jit
def _squared_deviations(matrix, center, squares, rows, dimension, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < dimension
    middle = tl.load(center + columns, mask=inside, other=0)
    total = tl.zeros((COLUMNS,), tl.float64)
    for first in range(0, rows, ROWS):
        index = first + tl.arange(0, ROWS)
        held = (index < rows)[:, None] & inside[None, :]
        # Positions are counted in 64 bits: a matrix may have more than 2^31 elements.
        values = tl.load(matrix + index.to(tl.int64)[:, None] * dimension + columns[None, :], mask=held, other=0)
        difference = (values - middle[None, :]).to(tl.float64)
        total += tl.sum(tl.where(held, difference * difference, 0), axis=0)
    tl.store(squares + columns, total, mask=inside)


def order_statistics(gradients_ND: Tensor, first: int, count: int) -> Tensor:
    """As :func:`byzray.aggregators.order.order_statistics`, for not too many rows: (D, count).

    The rank of a value is the number of values before it, found by comparing all of a coordinate: O(N^2) comparisons.
    """
    n, dimension = gradients_ND.shape
    matrix = gradients_ND.contiguous()
    ranks_DK = matrix.new_empty(dimension, count)
    rows = max(16, triton.next_power_of_2(n))
    columns = max(16, 4096 // rows)
    _order_statistics[(triton.cdiv(dimension, columns),)](
        matrix, ranks_DK, n, dimension, first, count, ROWS=rows, COLUMNS=columns
    )
    return ranks_DK


@triton.jit
def _order_statistics(matrix, ranks, rows, dimension, first, count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < dimension
    index = tl.arange(0, ROWS)
    held = (index < rows)[:, None] & inside[None, :]
    where = index.to(tl.int64)[:, None] * dimension + columns[None, :]
    values = tl.load(matrix + where, mask=held, other=float("inf"))
    values = tl.where(values == values, values, float("inf"))  # NaN ranks as +inf
    rank = tl.zeros((ROWS, COLUMNS), tl.int32)
    others = matrix + columns
    for row in range(rows):
        other = tl.load(others, mask=inside, other=float("inf"))
        others += dimension
        other = tl.where(other == other, other, float("inf"))[None, :]
        # Of equal values, that of the lower row comes first.
        rank += ((other < values) | ((other == values) & (row < index)[:, None])).to(tl.int32)
    wanted = held & (rank >= first) & (rank < first + count)
    tl.store(ranks + columns.to(tl.int64)[None, :] * count + (rank - first), values, mask=wanted)


def squared_distances(gradients_ND: Tensor) -> Tensor:
    """The (N, N) float64 squared distances between rows: differences are squared and added in the rows' precision over
    COLUMNS coordinates, and from there on in double precision, in an order that is always the same."""
    n, dimension = gradients_ND.shape
    matrix = gradients_ND.contiguous()
    rows = max(16, triton.next_power_of_2(n))
    programs = min(DISTANCE_PROGRAMS, triton.cdiv(dimension, COLUMNS))
    parts_PNR = torch.zeros(programs, n, rows, dtype=torch.float64, device=matrix.device)
    tile = min(rows, 64)
    _squared_distances[(programs, rows // tile)](matrix, parts_PNR, n, dimension, rows, ROWS=tile, COLUMNS=COLUMNS)
    return parts_PNR.sum(dim=0)[:, :n]


@triton.jit
def _squared_distances(matrix, parts, rows, dimension, padded, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    own = parts + tl.program_id(0).to(tl.int64) * rows * padded + index
    for begin in range(tl.program_id(0) * COLUMNS, dimension, tl.num_programs(0) * COLUMNS):
        columns = begin + tl.arange(0, COLUMNS)
        inside = columns < dimension
        held = (index < rows)[:, None] & inside[None, :]
        values = tl.load(matrix + index.to(tl.int64)[:, None] * dimension + columns[None, :], mask=held, other=0)
        others, there = matrix + columns, own
        for _ in range(rows):
            other = tl.load(others, mask=inside, other=0)[None, :]
            difference = tl.where(held, values - other, 0)
            squares = tl.sum(difference * difference, axis=1).to(tl.float64)
            tl.store(there, tl.load(there) + squares)
            others += dimension
            there += padded
