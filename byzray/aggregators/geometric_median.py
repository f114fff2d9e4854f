"""The geometric median.

Shapes in names: N submissions, D parameters, of which B in a block.
"""

import math
import warnings
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from byzray.aggregators._base import Weighting, unmet
from byzray.distances import CACHED
from byzray.order_statistics import lower_median_of
from byzray.parallel import compiled, over_rows
from byzray.submissions import Submissions

SMOOTHED = 1e-6
"""Below so much of the scale R of the submissions, distances are smoothed."""

CONVERGED = 1e-9
"""A step that moves by at most so much of R is the last."""

MOST_STEPS = 1000
STEPS_ON_GPU = 100  # to look whether the last step was small is to wait


class GeometricMedian(Weighting):
    """The point of the least sum of distances to the submissions, by Weiszfeld's steps.

    By default it is that point to the digit: with m the coordinate-wise (lower) median of the submissions, R the lower
    median of their distances to m and nu = 1e-6 R, distances below nu are smoothed (r^2/(2 nu) + nu/2), and the steps
    begin at m and end when they move by at most 1e-9 R. If at least half of the submissions coincide, it is those.

    With `iterations` it is what the field computes under this name: so many steps with the weights 1/max(r, `nu`) from
    `start`, 0 or the coordinate-wise median. ``{iterations: 3, nu: 0.1, start: zero}`` is the number of byzfl and of
    the code published with Karimireddy, He and Jaggi (2021). Three steps from 0 are no median yet, and nu is blind to
    submissions that are closer than that.

    A submission that is not finite has no weight. Needs n >= 2f+1. No bound. kappa: 4 (1 + f/(n-2f))^2 by default.

    Reference: K. Pillutla, S. M. Kakade, Z. Harchaoui. Robust Aggregation for Federated Learning. IEEE Transactions on
    Signal Processing, 2022.
    """

    iterations: PositiveInt | None = None
    nu: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    start: Literal["zero", "median"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.iterations is None and (self.nu is not None or self.start is not None):
            raise ValueError("expected no 'nu' and no 'start', which belong to 'iterations'")
        return self

    def weights(self, submissions: Submissions, f: int) -> Tensor:
        rows_ND = submissions.rows_ND
        finite_N = submissions.norms_N().isfinite()
        middle_D = lower_median_of(rows_ND, finite_N)
        gram_NN, to_middle_N = _around(middle_D, rows_ND, finite_N)
        if self.iterations is not None:
            first_N = to_middle_N if self.start == "median" else submissions.norms_N()
            nu = torch.full_like(to_middle_N[0], 0.1 if self.nu is None else self.nu)
            return _stepped(gram_NN, first_N, finite_N, nu, self.iterations)
        scale = lower_median_of(to_middle_N[:, None], finite_N)[0]
        unit = torch.where(scale > 0, scale, 1)
        found_N = _stepped(gram_NN, to_middle_N, finite_N, SMOOTHED * unit, STEPS_ON_GPU, CONVERGED * unit)
        coinciding_N = ((to_middle_N == 0) & finite_N).double()
        return torch.where(scale > 0, found_N, coinciding_N / coinciding_N.sum().clamp(min=1))

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")

    def kappa(self, n: int, f: int) -> float:
        return math.nan if self.iterations or self.check(n, f) else 4 * (1 + f / (n - 2 * f)) ** 2


def _around(middle_D: Tensor, rows_ND: Tensor, finite_N: Tensor) -> tuple[Tensor, Tensor]:
    """The inner products (N, N) of the rows, less some point, with each other, and their norms (N,), both float64.

    Differences to the median keep the digits near consensus, and what lies far out spoils only its own.
    """
    all_finite = not rows_ND.is_cuda and bool(finite_N.all())
    if all_finite and compiled(rows_ND):
        gram_NN = _products(middle_D, rows_ND)
        if gram_NN.isfinite().all():
            return gram_NN, gram_NN.diagonal().sqrt()
    gram_NN = torch.zeros(len(rows_ND), len(rows_ND), dtype=torch.float64, device=rows_ND.device)
    at_once = rows_ND.shape[1] if rows_ND.is_cuda else CACHED
    for rows_NB, middle_B in zip(rows_ND.split(at_once, dim=1), middle_D.split(at_once), strict=True):
        centred_NB = rows_NB - middle_B
        if not all_finite:
            centred_NB = torch.where(finite_N[:, None], centred_NB, 0)
        products_NN = centred_NB @ centred_NB.T
        if products_NN.is_cuda or not products_NN.isfinite().all():  # beyond the range of single precision
            products_NN = centred_NB.double() @ centred_NB.T.double()
        gram_NN += products_NN
    return gram_NN, gram_NN.diagonal().sqrt()


def _products(middle_D: Tensor, rows_ND: Tensor) -> Tensor:
    """The inner products by compiled code; not finite beyond the range of the rows' precision."""
    from byzray.kernels import centred_products  # here, as it loads a compiler

    lower_NN = torch.zeros(len(rows_ND), len(rows_ND), dtype=torch.float64)
    rows, middle = (one.detach().contiguous().numpy() for one in (rows_ND, middle_D))
    over_rows(partial(centred_products, rows, middle, lower_NN.numpy()))
    return lower_NN + lower_NN.tril(-1).T


def _stepped(
    gram_NN: Tensor, distances_N: Tensor, finite_N: Tensor, nu: Tensor, steps: int, small: Tensor | None = None
) -> Tensor:
    """The weights (N,) after some of Weiszfeld's steps; given what a small step is, after as many as it takes.

    Args:
        gram_NN: the inner products of the submissions, less some point.
        distances_N: theirs from where the steps begin.
        finite_N: which of them count.
        nu: distances below are taken for it.
        steps: how many steps; given `small`, on a GPU.
        small: the steps end with one of this length.
    """
    looks_for = None if small is None or gram_NN.is_cuda else small.square()
    weights_N = torch.zeros_like(distances_N)
    for step in range(steps if looks_for is None else MOST_STEPS):
        before_N = weights_N
        inverses_N = torch.where(finite_N, 1 / torch.maximum(distances_N, nu), 0)
        weights_N = inverses_N / inverses_N.sum().clamp(min=torch.finfo(torch.float64).tiny)
        moved_N = weights_N - before_N
        if looks_for is not None and step and moved_N @ gram_NN @ moved_N <= looks_for:
            return weights_N
        products_N = gram_NN @ weights_N
        distances_N = (gram_NN.diagonal() - 2 * products_N + weights_N @ products_N).clamp(min=0).sqrt()
    if looks_for is not None:
        warnings.warn("geometric-median: not converged after 1,000 steps, which are the most", stacklevel=2)
    return weights_N
