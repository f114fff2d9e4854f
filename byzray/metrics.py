"""The study: 24 quantities at every step, under the names that the published code gave them.

Shapes in names: K vectors of a set, P past steps, D parameters.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from byzray.deviations import Spread, spread
from byzray.parallel import compiled

METRIC_COLUMNS = (
    "Step number",
    "Training point count",
    "Average loss",
    "l2 from origin",
    "Sampled gradient deviation",
    "Honest gradient deviation",
    "Attack gradient deviation",
    "Sampled gradient norm",
    "Honest gradient norm",
    "Attack gradient norm",
    "Defense gradient norm",
    "Sampled max coordinate",
    "Honest max coordinate",
    "Attack max coordinate",
    "Defense max coordinate",
    "Sampled-honest cosine",
    "Sampled-attack cosine",
    "Sampled-defense cosine",
    "Honest-attack cosine",
    "Honest-defense cosine",
    "Attack-defense cosine",
    "Sampled-prev cosine",
    "Sampled composite curvature",
    "Attack acceptation ratio",
)


KAPPA_COLUMN = "Kappa-hat"


class Moments(NamedTuple):
    """What is kept of a set of vectors.

    Attributes:
        size: K, how many they are.
        mean_D: their mean.
        scatter: the sum of ||x_i - mean||^2, a 0-dimensional tensor.
    """

    size: int
    mean_D: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, vectors_KD: Tensor) -> Self:
        """The moments of the rows of a (K, D) matrix."""
        if vectors_KD.stride(0) == 0:  # one row, expanded: what most attacks submit
            return cls(len(vectors_KD), vectors_KD[0], vectors_KD.new_zeros(()))
        return cls.of_spread(spread(vectors_KD))

    @classmethod
    def of_spread(cls, spread: Spread) -> Self:
        """The moments of vectors whose spread is known."""
        return cls(spread.size, spread.mean_D, spread.squares_D.sum().to(spread.mean_D.dtype))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The moments of the union of disjoint sets (Chan, Golub and LeVeque, 1983: no digits are cancelled).

        What stands in those of an empty set does not matter; at least one is not empty.
        """
        parts = [part for part in parts if part.size]
        if len(parts) == 1:
            return parts[0]
        means = torch.stack([part.mean_D for part in parts])
        counts = torch.tensor([part.size for part in parts], dtype=means.dtype, device=means.device)
        total = sum(part.size for part in parts)
        mean_D = counts @ means / total
        between = counts @ (means - mean_D).square_().sum(dim=1)
        return cls(total, mean_D, torch.stack([part.scatter for part in parts]).sum() + between)

    def deviation(self) -> Tensor:
        """sqrt(scatter / (K - 1)); NaN for one vector."""
        return (self.scatter / (self.size - 1)).sqrt() if self.size > 1 else torch.full_like(self.scatter, math.nan)


def kappa_hat(honest: Moments, defense_D: Tensor) -> Tensor:
    """The robustness coefficient that an aggregate shows: ||A - a||^2 / ((1/h) sum ||s_i - a||^2), (1,) float64.

    It is NaN where all honest submissions are equal, but for the rounding of their mean, and where the squares leave
    the range of the submissions' precision. For a rule that is (f, kappa)-robust (Allouah et al., *Fixing by Mixing*,
    AISTATS 2023) it is at most kappa if at most f submissions are Byzantine.
    """
    error = torch.linalg.vector_norm(defense_D - honest.mean_D, dtype=torch.float64).square()
    mean_square = honest.scatter.double() / honest.size
    rounding = torch.finfo(honest.mean_D.dtype).eps * torch.linalg.vector_norm(honest.mean_D, dtype=torch.float64)
    known = mean_square.isfinite() & (mean_square > rounding.square())
    return torch.where(known, error / mean_square, math.nan).reshape(1)


class Past:
    """The means of the sampled gradients of the last P steps, and their discounted sum.

    The composite curvature is mu * sum_i mu^i <now, mean i+1 steps ago>. The sum of the past is carried along in double
    precision, so that a step costs a few passes over D rather than P of them.
    """

    def __init__(self, length: int, beta: float, dimension: int, device: torch.device) -> None:
        self.beta = beta
        self.means_PD = torch.zeros(length, dimension, device=device)
        self.sum_D = torch.zeros(dimension, dtype=torch.float64, device=device)
        # Where the means of this step and of the previous one lie: on the device, so that a captured step moves on.
        self._now_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._previous_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.resume(0)

    def resume(self, steps: int) -> None:
        """Set the number of steps taken."""
        self.steps = steps
        self._now_1.fill_(steps % len(self.means_PD))
        self._previous_1.fill_((steps - 1) % len(self.means_PD))

    @property
    def renews(self) -> bool:
        """Whether this step adds up the sum anew."""
        return (self.steps + 1) % len(self.means_PD) == 0

    @property
    def previous_D(self) -> Tensor:
        """The mean of the previous step."""
        return self.means_PD.index_select(0, self._previous_1)[0]

    def push(self, mean_D: Tensor) -> None:
        """Take the mean of this step in; the oldest leaves."""
        length, renews = len(self.means_PD), self.renews
        if not renews:
            oldest_D = self.means_PD.index_select(0, self._now_1)[0]
            self.sum_D.sub_(oldest_D, alpha=self.beta ** (length - 1)).mul_(self.beta).add_(mean_D)
        self.means_PD.index_copy_(0, self._now_1, mean_D[None])
        if renews:
            # Added up anew once in a while: what a huge or infinite mean did to the sum ends with it.
            self.sum_D.zero_()
            for past_D in self.means_PD:
                self.sum_D.mul_(self.beta).add_(past_D)
        self.steps += 1
        self._previous_1.copy_(self._now_1)
        self._now_1.add_(1).remainder_(length)


def metric_row(
    *, sampled: Moments, honest: Moments, attack: Moments | None, defense_D: Tensor, distance: Tensor, past: Past
) -> Tensor:
    """The metrics of one step from `l2 from origin` on, without the acceptance ratio: (20,) float64, on the device.

    Args:
        sampled: of the gradients after clipping.
        honest: of the honest submissions.
        attack: of the Byzantine submissions; none: their metrics are NaN.
        defense_D: the aggregate.
        distance: ||theta - initial theta||.
        past: what earlier steps left; this step is taken in.
    """
    absent = torch.full_like(defense_D, math.nan)
    vectors_4D = torch.stack([sampled.mean_D, honest.mean_D, absent if attack is None else attack.mean_D, defense_D])
    products, previous_cosine, with_past = _compiled_products(vectors_4D, past) or _products(vectors_4D, past)
    norms_4 = products.diagonal().sqrt()
    cosines = products / torch.outer(norms_4, norms_4)
    undefined = norms_4.new_full((), math.nan)
    deviations = [sampled.deviation(), honest.deviation(), undefined if attack is None else attack.deviation()]
    # The order of the columns: sampled-honest, -attack, -defense, honest-attack, -defense, attack-defense.
    first, second = torch.triu_indices(4, 4, offset=1, device=cosines.device)
    row = [
        distance.double().reshape(1),
        torch.stack([deviation.double() for deviation in deviations]),
        norms_4,
        vectors_4D.abs().amax(dim=1).double(),
        cosines[first, second],
        torch.stack([previous_cosine, past.beta * with_past]) if past.steps else undefined.expand(2),
    ]
    past.push(sampled.mean_D)
    return torch.cat(row)


Products = tuple[Tensor, Tensor, Tensor]
"""The inner products of each two of four vectors, the cosine of the first and the previous step's, and the product of
the first and the sum of the past."""


def _products(vectors_4D: Tensor, past: Past) -> Products:
    doubles_4D = vectors_4D.double()
    now_D, previous_D = doubles_4D[0], past.previous_D.double()
    cosine = now_D @ previous_D / (now_D.norm() * previous_D.norm())
    return doubles_4D @ doubles_4D.T, cosine, now_D @ past.sum_D


def _compiled_products(vectors_4D: Tensor, past: Past) -> Products | None:
    """The same in one pass, where there is a compiler for it."""
    if not compiled(vectors_4D):
        return None
    from byzray import kernels  # here, as it loads a compiler

    products_44, others_3 = torch.empty(4, 4, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    arrays = (one.numpy() for one in (*vectors_4D, past.previous_D, past.sum_D, products_44, others_3))
    kernels.inner_products(*arrays)
    with_previous, of_previous, with_past = others_3
    return products_44, with_previous / (products_44[0, 0].sqrt() * of_previous.sqrt()), with_past
