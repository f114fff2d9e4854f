"""AKSEL: the submissions nearest to the median.

Shapes in names: N submissions, D parameters.
"""

from typing import Literal

from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.distances import norms, smallest
from byzray.submissions import Submissions


class Aksel(Selecting):
    """Mean of the submissions nearest to the coordinate-wise (lower) median, ties to the lowest index.

    Mode `mid` averages (n+1)//2 of them, mode `n-f` as many as its name says.

    Needs n >= 2f+1. No bound.

    Reference: A. Boussetta, E.-M. El-Mhamdi, R. Guerraoui, A. Maurer, S. Rouault. AKSEL: Fast Byzantine SGD.
    OPODIS 2020.
    """

    mode: Literal["mid", "n-f"] = "mid"

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        n = submissions.n
        median_D = submissions.ranks_DK((n - 1) // 2, 1)[:, 0]
        return smallest(norms(submissions.rows_ND - median_D), (n + 1) // 2 if self.mode == "mid" else n - f)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
