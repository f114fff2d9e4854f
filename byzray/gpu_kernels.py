"""Fused passes over the rows of a matrix, for GPUs: what PyTorch needs several passes, sorts and temporaries for.

Shapes in names: K or N vectors, D coordinates.

Importing this module loads Triton, which compiles a kernel at its first use and keeps it on disk.
"""

import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 128
"""Coordinates that a program takes at once."""

ROW_TILE = 32
"""Rows that a program holds at once of what it only adds up."""

DISTANCE_PROGRAMS = 2048
"""Programs among which the coordinates are divided for distances; each adds up its part by itself."""

RANKED = 32
"""Coordinates whose values a program ranks."""

TRANSPOSED = 32
"""Coordinates that a program transposes."""

SUM_PROGRAMS = 64
"""Programs among which a worker's pixels are divided for sums by channel."""


def works(device: torch.device) -> bool:
    """Whether Triton can compile and run a kernel here: it needs a C compiler, and a GPU that it knows."""
    try:
        ones = torch.ones(1, 1, device=device)
        return squared_deviations(ones, ones[0]).item() == 0
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a linker or a driver raises
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        warnings.warn(f"Triton does not work here, so PyTorch's slower operations are used ({reason})", stacklevel=2)
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
    """As :func:`byzray.order_statistics.order_statistics`, for not too many rows: (D, count).

    The rank of a value is the number of values before it, found by comparing all of a coordinate: O(N^2) comparisons.
    """
    n, dimension = gradients_ND.shape
    matrix = gradients_ND.contiguous()
    ranks_DK = matrix.new_empty(dimension, count)
    rows = max(16, triton.next_power_of_2(n))
    _order_statistics[(triton.cdiv(dimension, RANKED),)](
        matrix, ranks_DK, n, dimension, first, count, ROWS=rows, COLUMNS=RANKED, num_warps=max(4, rows // 8)
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
    """The (N, N) float64 squared distances between rows; on the diagonal 0, or NaN where a row is not finite.

    Differences are squared and added in the rows' precision over COLUMNS coordinates, and from there on in double
    precision, in an order that is always the same.
    """
    n, dimension = gradients_ND.shape
    rows = max(16, triton.next_power_of_2(n))
    blocks = triton.cdiv(dimension, COLUMNS)
    # Transposed, so that the values of a coordinate are read at once; padded with zeros.
    matrix_DR = gradients_ND.new_empty(blocks * COLUMNS, rows)
    _transpose[(blocks * (COLUMNS // TRANSPOSED),)](
        gradients_ND.contiguous(), matrix_DR, n, dimension, ROWS=rows, COLUMNS=TRANSPOSED
    )
    tile, programs = min(rows, 64), min(DISTANCE_PROGRAMS, blocks)
    parts_PRR = torch.empty(programs, rows, rows, dtype=torch.float64, device=gradients_ND.device)
    _squared_distances[(programs, rows // tile, rows // tile)](
        matrix_DR, parts_PRR, blocks, ROWS=rows, TILE=tile, COLUMNS=COLUMNS, num_warps=2
    )
    return parts_PRR.sum(dim=0)[:n, :n]


@triton.jit
def _transpose(matrix, transposed, rows, dimension, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    index = tl.arange(0, ROWS)
    held = (index < rows)[:, None] & (columns < dimension)[None, :]
    values = tl.load(matrix + index.to(tl.int64)[:, None] * dimension + columns[None, :], mask=held, other=0)
    tl.store(transposed + columns.to(tl.int64)[None, :] * ROWS + index[:, None], values)


@triton.jit
def _squared_distances(matrix, parts, blocks, ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    first = tl.program_id(1) * TILE + tl.arange(0, TILE)
    second = tl.program_id(2) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), tl.float64)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        here = matrix + tl.cast(block, tl.int64) * (COLUMNS * ROWS)
        part = tl.zeros((TILE, TILE), matrix.dtype.element_ty)
        for _ in range(COLUMNS):
            difference = tl.load(here + first)[:, None] - tl.load(here + second)[None, :]
            part += difference * difference
            here += ROWS
        total += part.to(tl.float64)
    there = tl.program_id(0).to(tl.int64) * (ROWS * ROWS) + first[:, None] * ROWS + second[None, :]
    tl.store(parts + there, total)


def channel_sums(images: Tensor, factors: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Of K workers' images (K*B, C, height, width): each one's sums, over examples and pixels, of the images and of
    their products with `factors`, which are images, too. Both (K, C); without factors the latter are zeros.
    """
    count, channels = images.shape[:2]
    images = images.contiguous(memory_format=torch.channels_last)
    others = images if factors is None else factors.contiguous(memory_format=torch.channels_last)
    pixels = count // k * images[0, 0].numel()
    splits = min(SUM_PROGRAMS, triton.cdiv(pixels, ROW_TILE))
    parts_2KSC = images.new_empty(2, k, splits, channels)
    _channel_sums[(k, splits)](
        images,
        others,
        *parts_2KSC,
        pixels,
        channels,
        ROWS=ROW_TILE,
        CHANNELS=triton.next_power_of_2(channels),
        WITH_FACTORS=factors is not None,
    )
    sums_2KC = parts_2KSC.sum(dim=2)
    return sums_2KC[0], sums_2KC[1]


@triton.jit
def _channel_sums(  # type: ignore[no-untyped-def]
    images,
    factors,
    sums,
    products,
    pixels,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WITH_FACTORS: tl.constexpr,
):
    worker, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    begin = worker.to(tl.int64) * pixels * channels
    total = tl.zeros((ROWS, CHANNELS), images.dtype.element_ty)
    product = tl.zeros((ROWS, CHANNELS), images.dtype.element_ty)
    for first in range(split * ROWS, pixels, splits * ROWS):
        pixel = first + tl.arange(0, ROWS)
        held = (pixel < pixels)[:, None] & inside[None, :]
        there = begin + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        values = tl.load(images + there, mask=held, other=0)
        total += values
        if WITH_FACTORS:
            product += values * tl.load(factors + there, mask=held, other=0)
    out = (worker * splits + split) * channels + channel
    tl.store(sums + out, tl.sum(total, axis=0), mask=inside)
    tl.store(products + out, tl.sum(product, axis=0), mask=inside)
