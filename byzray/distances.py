"""Distances between submissions, without loss of digits and whatever the submissions hold.

Shapes in names: N submissions, D parameters.
"""

import math
from functools import partial

import torch
from torch import Tensor

from byzray.parallel import COMPARED_ROWS, compiled, fused, over_rows

BLOCK = 65_536
"""Coordinates whose squared differences are added in the input's precision; beyond, in double precision."""

CACHED = 8192
"""Coordinates treated at once where differences are needed once: those of up to some 100 rows stay in a cache."""

FURTHEST = 1e150
"""The largest distance or norm of finite submissions: the sum of any number of such squares is finite."""

SHRINK = 2.0**-80
"""By this, all of single precision becomes numbers whose squares are finite, and what was large is not lost."""


def distances(gradients_ND: Tensor) -> Tensor:
    """The (N, N) float64 Euclidean distances. A submission that is not finite is at +inf from all others, and only
    such a one is: where squares leave the range of single precision, the submissions are shrunk; where they leave that
    of double precision and, since to look would be to wait, on a GPU, the distance is FURTHEST. The diagonal is 0.

    They are computed from differences of coordinates. The Gram identity ||x||^2 + ||y||^2 - 2<x, y> would be left with
    no digit once submissions agree, and centering does not save it: one huge submission moves the mean away from all
    others.
    """
    gradients_ND = gradients_ND.detach()
    if len(gradients_ND) <= COMPARED_ROWS and fused(gradients_ND):
        return _distances_fused(gradients_ND)
    squares_NN = _squares_compiled(gradients_ND) if compiled(gradients_ND) else _squares(gradients_ND)
    distances_NN = (squares_NN + squares_NN.T).sqrt()
    if not gradients_ND.is_cuda and (distances_NN <= FURTHEST).all():
        return distances_NN
    finite_N = finite_rows(gradients_ND)
    finite_NN = finite_N[:, None] & finite_N
    overflown_NN = finite_NN & distances_NN.isinf()
    if not gradients_ND.is_cuda and gradients_ND.dtype is not torch.float64 and overflown_NN.any():
        _replace(distances_NN, overflown_NN, gradients_ND)
    return distances_NN.clamp(max=FURTHEST).masked_fill(~finite_NN, math.inf).fill_diagonal_(0)


def _replace(distances_NN: Tensor, overflown_NN: Tensor, gradients_ND: Tensor) -> None:
    """Replace distances whose squares have left the range by those of the shrunk submissions."""
    rows_K = overflown_NN.any(dim=1).nonzero()[:, 0]
    squares_KK = distances_NN.new_zeros(len(rows_K), len(rows_K))
    for block_NB in gradients_ND.split(BLOCK, dim=1):
        squares_KK += distances(_at_least_float32(block_NB[rows_K]).mul_(SHRINK)).square()
    replaced_NN = torch.zeros_like(distances_NN)
    replaced_NN[rows_K[:, None], rows_K] = squares_KK.sqrt() / SHRINK
    distances_NN[overflown_NN] = replaced_NN[overflown_NN]


def _distances_fused(gradients_ND: Tensor) -> Tensor:
    from byzray import gpu_kernels  # here, as it loads a compiler

    squares_NN = gpu_kernels.squared_distances(gradients_ND)
    finite_N = squares_NN.diagonal() == 0
    distances_NN = squares_NN.sqrt().clamp(max=FURTHEST)
    return distances_NN.masked_fill(~(finite_N[:, None] & finite_N), math.inf).fill_diagonal_(0)


def _squares_compiled(gradients_ND: Tensor) -> Tensor:
    """The squared distances in the lower triangle, else 0."""
    from byzray.kernels import squared_distances  # here, as it loads a compiler

    n = len(gradients_ND)
    squares_NN = torch.zeros(n, n, dtype=torch.float64)
    matrix, squares = gradients_ND.contiguous().numpy(), squares_NN.numpy()
    # Rows in turn, as later ones are compared with more others; so no sum depends on the number of threads.
    over_rows(partial(squared_distances, matrix, squares))
    return squares_NN


def _squares(gradients_ND: Tensor) -> Tensor:
    """The squared distances in the lower triangle, else 0."""
    n = len(gradients_ND)
    pairs = torch.zeros(n * (n - 1) // 2, dtype=torch.float64, device=gradients_ND.device)
    for block_NB in _at_least_float32(gradients_ND).split(BLOCK, dim=1):
        pairs += torch.nn.functional.pdist(block_NB.contiguous()).double().square()
    squares_NN = torch.zeros(n, n, dtype=torch.float64, device=gradients_ND.device)
    row, column = torch.triu_indices(n, n, offset=1, device=gradients_ND.device)
    squares_NN[column, row] = pairs
    return squares_NN


def distances_from(gradients_ND: Tensor, row: int) -> Tensor:
    """One row (N,) of :func:`distances`, up to rounding; of large matrices on a CPU in one pass."""
    gradients_ND = gradients_ND.detach()
    if compiled(gradients_ND):
        distances_N = _squares_from(gradients_ND, row).sqrt()
        if bool((distances_N <= FURTHEST).all()):
            return distances_N
    return distances(gradients_ND)[row]


def _squares_from(gradients_ND: Tensor, row: int) -> Tensor:
    from byzray.kernels import squared_distances_from  # here, as it loads a compiler

    squares_N = torch.empty(len(gradients_ND), dtype=torch.float64)
    over_rows(partial(squared_distances_from, gradients_ND.contiguous().numpy(), row, squares_N.numpy()))
    return squares_N


def norms(gradients_ND: Tensor) -> Tensor:
    """The (N,) float64 Euclidean norms. That of a submission which is not finite is +inf, and only such a one is. On a
    CPU squares are taken in double precision, on a GPU in that of the submissions; where they leave its range, the norm
    is FURTHEST."""
    gradients_ND = gradients_ND.detach()
    return _completed(_norms_compiled(gradients_ND) if compiled(gradients_ND) else _norms(gradients_ND), gradients_ND)


def norms_as_published(gradients_ND: Tensor) -> Tensor:
    """The same, added up by PyTorch in the precision of the submissions, as the published code does: `cge` and
    `anti-cge` compare norms that differ by rounding alone."""
    norms_N = torch.linalg.vector_norm(_at_least_float32(gradients_ND.detach()), dim=1).double()
    return _completed(norms_N, gradients_ND.detach())


def _completed(norms_N: Tensor, gradients_ND: Tensor) -> Tensor:
    """Norms whose squares have left the range are replaced, those of submissions that are not finite are +inf."""
    if not gradients_ND.is_cuda and (norms_N <= FURTHEST).all():
        return norms_N
    finite_N = finite_rows(gradients_ND)
    if not gradients_ND.is_cuda:
        overflown_N = finite_N & norms_N.isinf()
        norms_N[overflown_N] = torch.linalg.vector_norm(gradients_ND[overflown_N], dim=1, dtype=torch.float64)
    return norms_N.clamp(max=FURTHEST).masked_fill(~finite_N, math.inf)


def _norms(gradients_ND: Tensor) -> Tensor:
    # On a GPU in single precision, which is faster there.
    precision = torch.promote_types(gradients_ND.dtype, torch.float32 if gradients_ND.is_cuda else torch.float64)
    return torch.linalg.vector_norm(gradients_ND, dim=1, dtype=precision).double()


def _norms_compiled(gradients_ND: Tensor) -> Tensor:
    from byzray.kernels import squared_norms  # here, as it loads a compiler

    squares_N = torch.empty(len(gradients_ND), dtype=torch.float64)
    over_rows(partial(squared_norms, gradients_ND.contiguous().numpy(), squares_N.numpy()))
    return squares_N.sqrt()


def smallest(values_N: Tensor, count: int) -> Tensor:
    """The indices of the `count` smallest values in ascending order, ties to the lowest index."""
    return values_N.argsort(stable=True)[:count]


def _at_least_float32(gradients_ND: Tensor) -> Tensor:
    return gradients_ND.to(torch.promote_types(gradients_ND.dtype, torch.float32))


def finite_rows(gradients_ND: Tensor) -> Tensor:
    """Which submissions are finite, (N,)."""
    # Both extremes are NaN where a coordinate is, and are found faster than by checking all coordinates.
    return gradients_ND.amax(dim=1).isfinite() & gradients_ND.amin(dim=1).isfinite()
