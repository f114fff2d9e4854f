"""Order statistics of every coordinate, the common ground of the coordinate-wise rules.

Shapes in names: N submissions, U of which are given, as the last of these is sent several times, D parameters, B of
them in a block, K kept ranks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from byzray.parallel import COMPARED_ROWS, compiled, fused, over_ranges

BLOCK = 65_536
"""Coordinates treated at once where a temporary larger than the input would be needed."""

NETWORK_ROWS = 128
"""Up to so many submissions a sorting network is faster than sorting column by column."""


def sort_columns(gradients_ND: Tensor) -> Tensor:
    """The values of every coordinate in ascending order, (D, N) and contiguous; NaN becomes +inf."""
    return order_statistics(gradients_ND, 0, len(gradients_ND))


def lower_median(gradients_ND: Tensor) -> Tensor:
    """The (D,) middle values of every coordinate, the lower of the two if N is even; NaN ranks as +inf."""
    return order_statistics(gradients_ND, (len(gradients_ND) - 1) // 2, 1)[:, 0]


def lower_median_of(gradients_ND: Tensor, counted_N: Tensor) -> Tensor:
    """The (D,) middle values of every coordinate over the rows that are counted (N,) bool, the lower of the two if they
    are even in number; without any, NaN."""
    if not gradients_ND.is_cuda:  # where to look is not to wait
        rows_ND = gradients_ND if counted_N.all() else gradients_ND[counted_N]
        return lower_median(rows_ND) if len(rows_ND) else gradients_ND.new_full(gradients_ND.shape[1:], math.nan)
    ranked_DN = sort_columns(torch.where(counted_N[:, None], gradients_ND, math.inf))
    return ranked_DN.index_select(1, ((counted_N.sum() - 1) // 2).clamp(min=0)[None])[:, 0]


def order_statistics(gradients_UD: Tensor, first: int, count: int, times: int = 1) -> Tensor:
    """The values of the ranks first, ..., first+count-1 of every coordinate, in ascending order: (D, count).

    Ranks count from 0; NaN ranks, and is returned, as +inf. How they are found depends on the shape, the type and the
    device of the input, and makes no difference to them.

    Args:
        gradients_UD: the submissions.
        first: the first rank.
        count: how many.
        times: how often the last of the submissions counts.
    """
    gradients_UD = gradients_UD.detach()
    if _sorted_by_network(gradients_UD):
        from byzray import sorting  # here, as it loads a compiler

        matrix_UD, ranks_DK = gradients_UD.contiguous(), gradients_UD.new_empty(gradients_UD.shape[1], count)
        _each_tile(sorting.sort_columns, matrix_UD, (times, first), ranks_DK)
        return ranks_DK
    gradients_ND = repeated(gradients_UD, times)
    if len(gradients_ND) <= COMPARED_ROWS and fused(gradients_ND):
        from byzray import gpu_kernels  # here, as it loads a compiler

        return gpu_kernels.order_statistics(gradients_ND, first, count)
    sorted_DN = gradients_ND.t().clone(memory_format=torch.contiguous_format)
    sorted_DN.nan_to_num_(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    if sorted_DN.device.type == "cpu" and sorted_DN.dtype in (torch.float32, torch.float64):  # which numpy knows
        sorted_DN.numpy().sort(axis=1)  # in place, and several times faster than torch's sort of short rows
    else:
        sorted_DN = sorted_DN.sort(dim=1).values
    return sorted_DN[:, first : first + count].contiguous()


def mean_of_ranks(gradients_UD: Tensor, first: int, count: int, times: int = 1) -> Tensor:
    """The (D,) means over the ranks first, ..., first+count-1 of every coordinate, with arguments as above."""
    if _sorted_by_network(gradients_UD):
        from byzray import sorting  # here, as it loads a compiler

        mean_D = _means(sorting.mean_of_ranks, gradients_UD, (times, first, count))
        if mean_D is not None:
            return mean_D
    return mean(order_statistics(gradients_UD, first, count, times), dim=1)


def mean_around(gradients_UD: Tensor, first: int, count: int, keep: int, times: int = 1) -> Tensor:
    """The (D,) means of the `keep` values nearest to the mean over the ranks first, ..., first+count-1 of every
    coordinate, with arguments as above; a tie keeps the lower value."""
    if _sorted_by_network(gradients_UD):
        from byzray import sorting  # here, as it loads a compiler

        mean_D = _means(sorting.mean_around, gradients_UD, (times, first, count, keep))
        if mean_D is not None:
            return mean_D
    n = len(gradients_UD) - 1 + times
    return mean_around_ranks(order_statistics(gradients_UD, 0, n, times), first, count, keep)


def mean_around_ranks(sorted_DN: Tensor, first: int, count: int, keep: int) -> Tensor:
    """The same, given the sorted values."""
    return mean_of_nearest(sorted_DN, mean(sorted_DN[:, first : first + count], dim=1), keep)


def repeated(gradients_UD: Tensor, times: int) -> Tensor:
    """The submissions with the last one so many times, (N, D)."""
    return gradients_UD if times == 1 else torch.cat((gradients_UD, gradients_UD[-1:].expand(times - 1, -1)))


def _sorted_by_network(gradients_UD: Tensor) -> bool:
    return len(gradients_UD) <= NETWORK_ROWS and compiled(gradients_UD)


def _means(kernel: Callable[..., None], gradients_UD: Tensor, options: tuple[int, ...]) -> Tensor | None:
    """The (D,) means that a kernel of :mod:`byzray.sorting` finds; none if a sum overflowed."""
    mean_D = gradients_UD.new_empty(gradients_UD.shape[1])
    _each_tile(kernel, gradients_UD.detach().contiguous(), options, mean_D)
    return mean_D if _sound(mean_D) else None


def _each_tile(kernel: Callable[..., None], matrix_UD: Tensor, options: tuple[int, ...], out: Tensor) -> None:
    """Call a kernel of :mod:`byzray.sorting` for ranges of columns."""
    from byzray.sorting import TILE

    matrix, results = matrix_UD.numpy(), out.numpy()
    over_ranges(len(out), TILE, lambda begin, end: kernel(matrix, *options, results, begin, end))


def _sound(mean_D: Tensor) -> bool:
    """Whether no sum can have overflowed: one in double precision does so only over doubles."""
    return mean_D.dtype is not torch.float64 or bool(mean_D.sum().isfinite())


def mean_of_nearest(sorted_DN: Tensor, center_D: Tensor, keep: int) -> Tensor:
    """Per coordinate, the mean of the `keep` values nearest to the center; a tie keeps the lower value."""
    mean_D = torch.empty_like(center_D)
    block = len(center_D) if center_D.is_cuda else BLOCK
    for sorted_BN, center_B, mean_B in zip(
        sorted_DN.split(block), center_D.split(block), mean_D.split(block), strict=True
    ):
        mean_B[:] = mean(_nearest(sorted_BN, center_B, keep), dim=1)
    return mean_D


def mean(values: Tensor, dim: int) -> Tensor:
    """The mean along a dimension. On a CPU it is finite also where only the sum of the values is not; on a GPU, to look
    would be to wait."""
    means = values.mean(dim=dim)
    if values.is_cuda or means.sum().isfinite():
        return means
    shares = values / values.shape[dim]
    # Rounding must not carry the sum of the shares beyond the range either.
    between = shares.sum(dim=dim).clamp(values.amin(dim=dim), values.amax(dim=dim))
    return torch.where(means.isfinite(), means, between)


def mean_of_rows(gradients_ND: Tensor, rows_K: Tensor) -> Tensor:
    """The mean (D,) of some rows, given by their indices."""
    if gradients_ND.is_cuda or gradients_ND.dtype not in (torch.float32, torch.float64):
        return mean(gradients_ND.index_select(0, rows_K), dim=0)
    if compiled(gradients_ND):
        mean_D = _mean_of_rows(gradients_ND.detach().contiguous(), rows_K)
        if _sound(mean_D):
            return mean_D
    # On a CPU the indices can be read, and the rows need not be copied.
    first, *others = rows_K.tolist()
    mean_D = gradients_ND[first].detach().clone()
    for block_NB, mean_B in zip(gradients_ND.detach().split(BLOCK, dim=1), mean_D.split(BLOCK), strict=True):
        for row in others:
            mean_B.add_(block_NB[row])
    mean_D.div_(len(rows_K))
    return mean_D if mean_D.sum().isfinite() else mean(gradients_ND.detach().index_select(0, rows_K), dim=0)


def _mean_of_rows(gradients_ND: Tensor, rows_K: Tensor) -> Tensor:
    from byzray import kernels  # here, as it loads a compiler

    mean_D = gradients_ND.new_empty(gradients_ND.shape[1])
    matrix, rows, means = gradients_ND.numpy(), rows_K.numpy(), mean_D.numpy()
    over_ranges(len(mean_D), kernels.TILE, lambda begin, end: kernels.mean_of_rows(matrix, rows, means, begin, end))
    return mean_D


def _nearest(sorted_BN: Tensor, center_B: Tensor, keep: int) -> Tensor:
    """The `keep` values nearest to the center, (B, keep)."""
    # The nearest values are consecutive ranks: a window that moves up by one as long as the value it would leave is
    # further from the center than the value it would gain. Along the ranks those comparisons read true...true
    # false...false, so their number is where the window starts.
    drop = sorted_BN.shape[1] - keep
    below_BS = center_B[:, None] - sorted_BN[:, :drop]
    above_BS = sorted_BN[:, keep:] - center_B[:, None]
    start_B1 = (below_BS > above_BS).sum(dim=1, keepdim=True)
    # The window is gathered and summed, rather than taken from cumulative sums, whose difference would cancel against
    # huge values and is undefined with infinite ones.
    ranks_BK = start_B1 + torch.arange(keep, device=sorted_BN.device)
    return sorted_BN.gather(1, ranks_BK)
