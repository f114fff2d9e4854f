"""How far vectors lie from a center, coordinate by coordinate.

Shapes in names: K vectors, D coordinates, B of them in a block.
"""

import torch
from torch import Tensor

from byzray.parallel import compiled, fused, over_ranges

BLOCK = 8192
"""Coordinates treated at once on a CPU without a compiler, as the doubles of all would not stay in a cache."""


def squared_deviations(vectors_KD: Tensor, center_D: Tensor) -> Tensor:
    """The (D,) float64 sums, over the vectors, of the squared differences from the center.

    Like torch.var, which takes longer down the columns, this adds the squares in double precision.
    """
    if compiled(vectors_KD):
        return _compiled(vectors_KD.detach().contiguous(), center_D.detach())
    if fused(vectors_KD):
        from byzray import gpu_kernels  # here, as it loads a compiler

        return gpu_kernels.squared_deviations(vectors_KD, center_D)
    block = center_D.numel() if center_D.is_cuda else BLOCK
    blocks = zip(vectors_KD.split(block, dim=1), center_D.split(block), strict=True)
    return torch.cat([(vectors_KB - center_B).double().square_().sum(dim=0) for vectors_KB, center_B in blocks])


def _compiled(vectors_KD: Tensor, center_D: Tensor) -> Tensor:
    from byzray import kernels  # here, as it loads a compiler

    squares_D = torch.empty(len(center_D), dtype=torch.float64)
    matrix, center, squares = vectors_KD.numpy(), center_D.numpy(), squares_D.numpy()
    over_ranges(
        len(center_D),
        kernels.TILE,
        lambda begin, end: kernels.squared_deviations(matrix, center, squares, begin, end),
    )
    return squares_D
