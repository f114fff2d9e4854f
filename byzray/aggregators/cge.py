"""Comparative gradient elimination: the submissions of least norm.

Shapes in names: N submissions, D parameters.
"""

from collections.abc import Callable

from torch import Tensor

from byzray.aggregators.base import SelectingAggregator, unmet
from byzray.aggregators.distances import norms, smallest
from byzray.aggregators.line import Line


class Cge(SelectingAggregator):
    """Mean of the n-f submissions of least norm, ties to the lowest index: comparative gradient elimination.

    Needs n >= f+1. No bound.

    Reference: S. Liu, N. Gupta, N. Vaidya. Approximate Byzantine Fault-Tolerance in Distributed Optimization.
    PODC 2021.
    """

    name = "cge"

    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        return self._least(norms(gradients_ND), f)

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        return lambda x: line.harm_of_mean(self._least(line.norms(x), f), x)

    @staticmethod
    def _least(norms_N: Tensor, f: int) -> Tensor:
        return smallest(norms_N, len(norms_N) - f)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= f + 1, f"n >= f+1, got n = {n}, f = {f}")
