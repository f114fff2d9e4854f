"""Submissions whose Byzantine part moves along a line: what a searched attack asks of a rule, again and again.

Shapes in names: N submissions, of which H honest, F Byzantine, D parameters, B of them in a block, K rows or
ranks, M = N+F padded ranks, P = H+3 vectors of which all others here are combinations.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from byzray.distances import distances, norms
from byzray.order_statistics import sort_columns

BLOCK = 16_384
"""Coordinates converted to double precision at once: a block of all vectors stays within a few megabytes."""


@dataclass(frozen=True, eq=False)
class Line:
    """For every x, the honest submissions followed by `byzantine` rows start + x * direction.

    Here x is a number on the device, a float64 tensor without dimensions, and no method waits for its value. What does
    not depend on it is computed at the first need, once: per x, distances and norms then cost O(N^2) instead of
    O(N^2 D), and order statistics no sort.

    The *harm* of an aggregate is its squared distance to the honest mean. Where an honest value is not finite, the
    mean is not either, and the harm of any aggregate is NaN or infinite.

    Args:
        honest_HD: the honest submissions.
        mean_D: their mean.
        start_D: the Byzantine submissions at x = 0.
        direction_D: where they move.
        byzantine: how many there are.
    """

    honest_HD: Tensor
    mean_D: Tensor
    start_D: Tensor
    direction_D: Tensor
    byzantine: int

    @property
    def n(self) -> int:
        """The number of submissions."""
        return len(self.honest_HD) + self.byzantine

    def vector(self, x: Tensor | float) -> Tensor:
        """The Byzantine submission at x, (D,)."""
        return self.start_D + x * self.direction_D

    def submissions(self, x: Tensor) -> Tensor:
        """All submissions at x, (N, D), overwritten by the next call."""
        self._submissions[len(self.honest_HD) :] = self.vector(x)
        return self._submissions

    def harm(self, aggregate_D: Tensor) -> Tensor:
        """The harm of an aggregate, float64."""
        return (aggregate_D - self.mean_D).square().sum().double()

    def harm_of_weights(self, weights_N: Tensor, rest: Tensor, x: Tensor) -> Tensor:
        """The harm at x of the submissions combined with these weights, float64 and O(N^2).

        Args:
            weights_N: the weights, float64.
            rest: how much they lack of 1; 0 for a mean, whatever rounding makes of the sum.
            x: where.
        """
        h = len(self.honest_HD)
        share = weights_N[h:].sum()
        # The mean, of which the rest is lacking, is the start less the start less the mean.
        others_3 = torch.stack((share + rest, share * x, -rest))
        harm = self._squared_norms(torch.cat((weights_N[:h], others_3))[None])[0]
        # Beyond the range of the submissions' own precision the search must not go on, or its end is no vector.
        return harm.masked_fill(harm > torch.finfo(self.mean_D.dtype).max, math.inf)

    def distances(self, x: Tensor) -> Tensor:
        """The distances (N, N) between the submissions at x, as :func:`byzray.distances.distances`."""
        h = len(self.honest_HD)
        differences_HP = torch.eye(h, h + 3, dtype=torch.float64, device=x.device)
        differences_HP[:, h] = -1
        differences_HP[:, h + 1] = -x
        distances_H = self._norms(differences_HP)
        distances_NN = torch.zeros(self.n, self.n, dtype=torch.float64, device=x.device)
        distances_NN[:h, :h] = self._honest_distances
        distances_NN[:h, h:] = distances_H[:, None]
        distances_NN[h:, :h] = distances_H
        return distances_NN

    def norms(self, x: Tensor) -> Tensor:
        """The norms (N,) of the submissions at x, as :func:`byzray.distances.norms`, in float64."""
        h = len(self.honest_HD)
        vector_P = torch.cat((x.new_zeros(h), torch.stack((torch.zeros_like(x), x, torch.ones_like(x)))))
        return torch.cat((self._honest_norms, self._norms(vector_P[None]).expand(self.byzantine)))

    def ranks(self, first: int, count: int, x: Tensor) -> Tensor:
        """The values at x of the ranks first, ..., first+count-1 of every coordinate, (D, count), as
        :func:`byzray.order_statistics.order_statistics`.

        Among the sorted honest values v_0 <= v_1 <= ..., b equal values u move the value of rank r from v_r at most
        down to v_(r-b): it is u if that lies between the two, else the nearer one.
        """
        if (first, count) not in self._between:
            least_DF = self.mean_D.new_full((len(self.mean_D), self.byzantine), -math.inf)
            padded_DM = torch.cat((least_DF, sort_columns(self.honest_HD), -least_DF), dim=1)
            lower_DK = padded_DM[:, first : first + count].contiguous()
            upper_DK = padded_DM[:, first + self.byzantine :][:, :count].contiguous()
            self._between[first, count] = lower_DK, upper_DK
        moving_D = self.vector(x).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        return moving_D[:, None].clamp(*self._between[first, count])

    def _norms(self, coefficients_KP: Tensor) -> Tensor:
        """The norms of linear combinations of the P vectors, (K,); non-finite ones are +inf."""
        return self._squared_norms(coefficients_KP).sqrt().nan_to_num(nan=math.inf, posinf=math.inf)

    def _squared_norms(self, coefficients_KP: Tensor) -> Tensor:
        return ((coefficients_KP @ self._gram) * coefficients_KP).sum(dim=1).clamp(min=0)

    @cached_property
    def _gram(self) -> Tensor:
        """The inner products, in double precision, of the honest submissions and the start, both less the mean, the
        direction, and the start itself.

        Double precision leaves the digits that the same identity lacks in single precision: see
        :func:`byzray.distances.distances`.
        """
        h = len(self.honest_HD)
        gram_PP = torch.zeros(h + 3, h + 3, dtype=torch.float64, device=self.mean_D.device)
        for first in range(0, len(self.mean_D), BLOCK):
            part = slice(first, first + BLOCK)
            start_B = self.start_D[part]
            others_3B = torch.stack((start_B, self.direction_D[part], start_B))
            vectors_PB = torch.cat((self.honest_HD[:, part], others_3B)).double()
            vectors_PB[: h + 1] -= self.mean_D[part]
            gram_PP += vectors_PB @ vectors_PB.T
        return gram_PP

    @cached_property
    def _honest_distances(self) -> Tensor:
        return distances(self.honest_HD)

    @cached_property
    def _honest_norms(self) -> Tensor:
        return norms(self.honest_HD)

    @cached_property
    def _between(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Between which values those of some ranks stay, whatever x is: both (D, K)."""
        return {}

    @cached_property
    def _submissions(self) -> Tensor:
        return torch.cat((self.honest_HD, self.mean_D.expand(self.byzantine, -1)))
