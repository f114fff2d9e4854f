"""AKSEL: the submissions nearest to the median.

Shapes in names: N submissions, D parameters.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from byzray.aggregators.base import SelectingAggregator, unmet
from byzray.aggregators.distances import norms, smallest
from byzray.aggregators.line import Line
from byzray.aggregators.order import lower_median


class Aksel(SelectingAggregator):
    """Mean of the submissions nearest to the coordinate-wise (lower) median, ties to the lowest index.

    Mode `mid` averages (n+1)//2 of them, mode `n-f` as many as its name says.

    Needs n >= 2f+1. No bound.

    Reference: A. Boussetta, E.-M. El-Mhamdi, R. Guerraoui, A. Maurer, S. Rouault. AKSEL: Fast Byzantine SGD.
    OPODIS 2020.
    """

    name = "aksel"

    mode: Literal["mid", "n-f"] = "mid"

    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        return self._nearest(gradients_ND, lower_median(gradients_ND), f)

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        median = line.order_statistics((line.n - 1) // 2, 1)
        return lambda x: line.harm_of_mean(self._nearest(line.submissions(x), median(x)[:, 0], f), x)

    def _nearest(self, gradients_ND: Tensor, median_D: Tensor, f: int) -> Tensor:
        n = len(gradients_ND)
        return smallest(norms(gradients_ND - median_D), (n + 1) // 2 if self.mode == "mid" else n - f)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1, got n = {n}, f = {f}")
