"""Order statistics of every coordinate, the common ground of the coordinate-wise rules.

Shapes in names: N submissions, D parameters, B of them in a block, K kept ranks.
"""

import math

import torch
from torch import Tensor

BLOCK = 65_536
"""Coordinates treated at once where a temporary larger than the input would be needed."""


def sort_columns(gradients_ND: Tensor) -> Tensor:
    """The values of every coordinate in ascending order, (D, N) and contiguous; NaN becomes +inf."""
    sorted_DN = gradients_ND.detach().t().clone(memory_format=torch.contiguous_format)
    sorted_DN.nan_to_num_(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    if sorted_DN.is_cuda or sorted_DN.dtype is torch.bfloat16:  # numpy knows neither
        return sorted_DN.sort(dim=1).values
    sorted_DN.numpy().sort(axis=1)  # in place, and several times faster than torch's sort of short rows
    return sorted_DN


def lower_median(sorted_DN: Tensor) -> Tensor:
    """The middle value of every coordinate, the lower of the two if N is even."""
    return sorted_DN[:, (sorted_DN.shape[1] - 1) // 2].contiguous()


def mean_of_nearest(sorted_DN: Tensor, center_D: Tensor, keep: int) -> Tensor:
    """Per coordinate, the mean of the `keep` values nearest to the center; a tie keeps the lower value."""
    blocks = zip(sorted_DN.split(BLOCK), center_D.split(BLOCK), strict=True)
    return torch.cat([_block_mean_of_nearest(sorted_BN, center_B, keep) for sorted_BN, center_B in blocks])


def _block_mean_of_nearest(sorted_BN: Tensor, center_B: Tensor, keep: int) -> Tensor:
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
    return sorted_BN.gather(1, ranks_BK).mean(dim=1)
