"""Distances between submissions, without loss of digits and whatever the submissions hold.

Shapes in names: N submissions, D parameters.
"""

import math
from functools import partial

import torch
from torch import Tensor

from byzray.parallel import compiled, each

BLOCK = 65_536
"""Coordinates whose squared differences are added in the input's precision; beyond, in double precision."""


def distances(gradients_ND: Tensor) -> Tensor:
    """The (N, N) float64 Euclidean distances; non-finite ones are +inf, and the diagonal is 0.

    They are computed from differences of coordinates. The Gram identity ||x||^2 + ||y||^2 - 2<x, y> would be left with
    no digit once submissions agree, and centering does not save it: one huge submission moves the mean away from all
    others.
    """
    squares_NN = _squares_compiled(gradients_ND) if compiled(gradients_ND) else _squares(gradients_ND)
    return _finite_or_infinite((squares_NN + squares_NN.T).sqrt())


def _squares_compiled(gradients_ND: Tensor) -> Tensor:
    """The squared distances in the lower triangle, else 0."""
    from byzray.kernels import squared_distances  # here, as it loads a compiler

    n, threads = len(gradients_ND), torch.get_num_threads()
    squares_NN = torch.zeros(n, n, dtype=torch.float64)
    matrix, squares = gradients_ND.detach().contiguous().numpy(), squares_NN.numpy()
    # Rows in turn, as later ones are compared with more others; so no sum depends on the number of threads.
    each([partial(squared_distances, matrix, squares, first, threads) for first in range(threads)])
    return squares_NN


def _squares(gradients_ND: Tensor) -> Tensor:
    """The squared distances in the lower triangle, else 0."""
    n = len(gradients_ND)
    pairs = torch.zeros(n * (n - 1) // 2, dtype=torch.float64, device=gradients_ND.device)
    for block_NB in _at_least_float32(gradients_ND).split(BLOCK, dim=1):
        # A block whose squares overflow is infinite, which is as far as a huge submission deserves.
        pairs += torch.nn.functional.pdist(block_NB.contiguous()).double().square()
    squares_NN = torch.zeros(n, n, dtype=torch.float64, device=gradients_ND.device)
    row, column = torch.triu_indices(n, n, offset=1, device=gradients_ND.device)
    squares_NN[column, row] = pairs
    return squares_NN


def norms(gradients_ND: Tensor) -> Tensor:
    """The (N,) Euclidean norms; non-finite ones are +inf."""
    return _finite_or_infinite(torch.linalg.vector_norm(_at_least_float32(gradients_ND), dim=1))


def smallest(values_N: Tensor, count: int) -> Tensor:
    """The indices of the `count` smallest values in ascending order, ties to the lowest index."""
    return values_N.argsort(stable=True)[:count]


def _at_least_float32(gradients_ND: Tensor) -> Tensor:
    return gradients_ND.to(torch.promote_types(gradients_ND.dtype, torch.float32))


def _finite_or_infinite(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=math.inf, posinf=math.inf)
