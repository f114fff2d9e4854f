"""Bulyan: a coordinate-wise rule over repeated Multi-Krum.

Shapes in names: N submissions, D parameters, T rounds, R submissions that remain.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from byzray.aggregators._base import Aggregator, unmet
from byzray.aggregators._scoring import krum_bound, krum_scores
from byzray.distances import smallest
from byzray.order_statistics import mean_around
from byzray.submissions import Submissions


class Bulyan(Aggregator):
    """Coordinate-wise mean around the median of T = n-2f-2 successive Multi-Krum averages.

    The score of a submission is the sum of its distances to its n-f-2 nearest others. Round k = 0, 1, ... averages the
    min(m, n-f-2-k) best submissions that remain, then the best one leaves. The aggregate is, per coordinate, the mean
    of the T-2f values nearest to the (lower) median of the T averages. As in the code published with El-Mhamdi et al.
    (ICLR 2021), scores are never computed again; with `rescore`, as in Bulyan's own paper, every round scores what
    remains anew, with the n-k-f-2 nearest others that remain.

    Needs n >= 4f+3 and 1 <= m <= n-f-2 (the default m). Bound: as Multi-Krum.

    Reference: E.-M. El-Mhamdi, R. Guerraoui, S. Rouault. The Hidden Vulnerability of Distributed Learning in Byzantium.
    ICML 2018.
    """

    m: Annotated[int, Field(ge=1)] | None = None
    rescore: bool = False

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        rows_ND, distances_NN = submissions.rows_ND, submissions.distances_NN()
        n = submissions.n
        rounds = n - 2 * f - 2
        order = self._rescored_rounds if self.rescore else self._rounds
        weights_TN = torch.zeros(rounds, n, dtype=rows_ND.dtype, device=rows_ND.device)
        for k, ranked_R in enumerate(order(distances_NN, f, rounds)):
            averaged = min(self._m(n, f), n - f - 2 - k)
            # Not by an assignment, which would make a tensor of the number on the host and wait for a GPU to copy it.
            weights_TN[k].index_fill_(0, ranked_R[:averaged], 1 / averaged)
        # All averages at once. A submission that enters none may not be finite, and 0 * inf is no 0.
        used_N1 = (weights_TN != 0).any(dim=0)[:, None]
        averages_TD = weights_TN @ torch.where(used_N1, rows_ND, 0)
        return mean_around(averages_TD, (rounds - 1) // 2, 1, keep=rounds - 2 * f)

    def _m(self, n: int, f: int) -> int:
        return n - f - 2 if self.m is None else self.m

    @staticmethod
    def _rounds(distances_NN: Tensor, f: int, rounds: int) -> list[Tensor]:
        """The remaining submissions of every round, from the best score to the worst."""
        n = len(distances_NN)
        ranked_N = smallest(krum_scores(distances_NN, n - f - 2), n)
        return [ranked_N[k:] for k in range(rounds)]

    @staticmethod
    def _rescored_rounds(distances_NN: Tensor, f: int, rounds: int) -> list[Tensor]:
        """The remaining submissions of every round, from the best score among those that remain to the worst."""
        remaining_R = torch.arange(len(distances_NN), device=distances_NN.device)
        ranked = []
        for _ in range(rounds):
            r = len(remaining_R)
            order_R = smallest(krum_scores(distances_NN[remaining_R][:, remaining_R], r - f - 2), r)
            ranked.append(remaining_R[order_R])
            remaining_R = remaining_R[order_R[1:].sort().values]  # ties go to the lowest index in every round
        return ranked

    def check(self, n: int, f: int) -> str | None:
        m = self._m(n, f)
        return (
            super().check(n, f)
            or unmet(n >= 4 * f + 3, f"n >= 4f+3 = {4 * f + 3}; got n = {n}, f = {f}")
            or unmet(m <= n - f - 2, f"m <= n-f-2 = {n - f - 2}; got m = {m}")
        )

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else krum_bound(n, f)
