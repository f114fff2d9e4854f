"""Shared parts of rules that use the covariance of the submissions.

Shapes in names: N submissions.
"""

import torch
from torch import Tensor


def centred_gram(squares_NN: Tensor, weights_N: Tensor) -> Tensor:
    """The inner products (N, N) of some vectors less their weighted mean, from their squared distances; the weights sum
    to 1."""
    means_N = squares_NN @ weights_N
    return -0.5 * (squares_NN - means_N[:, None] - means_N + weights_N @ means_N)


def finite_squares(distances_NN: Tensor) -> Tensor:
    """The squared distances, 0 where one is infinite."""
    return torch.where(distances_NN.isinf(), 0, distances_NN).square()
