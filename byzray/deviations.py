"""Where vectors lie, and how far from there, coordinate by coordinate.

Shapes in names: K vectors, D coordinates, B of them in a block.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from byzray.parallel import compiled, fused, over_ranges

BLOCK = 8192
"""Coordinates treated at once on a CPU without a compiler, as the doubles of all would not stay in a cache."""


class Spread(NamedTuple):
    """What is known of the coordinates of a set of vectors.

    Attributes:
        vectors_KD: the vectors.
        mean_D: their mean.
        squares_D: float64, the sums of their squared differences from it.
    """

    vectors_KD: Tensor
    mean_D: Tensor
    squares_D: Tensor

    @property
    def size(self) -> int:
        """K, how many vectors."""
        return len(self.vectors_KD)

    def is_of(self, vectors_KD: Tensor) -> bool:
        """Whether these are the vectors: the same memory, read in the same way."""
        own_KD = self.vectors_KD
        same = own_KD.data_ptr() == vectors_KD.data_ptr() and own_KD.shape == vectors_KD.shape
        return same and own_KD.stride() == vectors_KD.stride()

    def deviation_D(self) -> Tensor:
        """The standard deviations (D,), with the denominator K - 1."""
        return (self.squares_D / (self.size - 1)).sqrt().to(self.mean_D.dtype)


def spread(vectors_KD: Tensor) -> Spread:
    """The spread of K vectors. The squares are added in double precision, as torch.var does, which takes longer down
    the columns."""
    vectors_KD = vectors_KD.detach()
    if compiled(vectors_KD):
        return Spread(vectors_KD, *_compiled(vectors_KD.contiguous()))
    mean_D = vectors_KD.mean(dim=0)
    return Spread(vectors_KD, mean_D, squared_deviations(vectors_KD, mean_D))


def squared_deviations(vectors_KD: Tensor, center_D: Tensor) -> Tensor:
    """The (D,) float64 sums, over the vectors, of the squared differences from the center."""
    if fused(vectors_KD):
        from byzray import gpu_kernels  # here, as it loads a compiler

        return gpu_kernels.squared_deviations(vectors_KD, center_D)
    block = center_D.numel() if center_D.is_cuda else BLOCK
    blocks = zip(vectors_KD.split(block, dim=1), center_D.split(block), strict=True)
    return torch.cat([(vectors_KB - center_B).double().square_().sum(dim=0) for vectors_KB, center_B in blocks])


def _compiled(vectors_KD: Tensor) -> tuple[Tensor, Tensor]:
    from byzray import kernels  # here, as it loads a compiler

    dimension = vectors_KD.shape[1]
    mean_D, squares_D = vectors_KD.new_empty(dimension), torch.empty(dimension, dtype=torch.float64)
    matrix, mean, squares = vectors_KD.numpy(), mean_D.numpy(), squares_D.numpy()
    over_ranges(dimension, kernels.TILE, lambda begin, end: kernels.spread(matrix, mean, squares, begin, end))
    return mean_D, squares_D
