"""A little is enough.

Shapes in names: H honest submissions, D parameters.
"""

import math
from statistics import NormalDist
from typing import Literal

from torch import Tensor

from byzray.attacks._line import Factor, LineAttack, signed
from byzray.deviations import Spread


class Little(LineAttack):
    """Mean + factor * coordinate-wise standard deviation: a little is enough.

    The deviation has the h-1 denominator. With `negative`, the default as published with El-Mhamdi et al. (ICLR 2021),
    the factor is negated, also when it is searched. With the factor `auto` it is that of the attack's own paper, from
    the number of workers and of those that attack: the normal quantile of (ceil(n/2) - 1) / (n - b). So large a share
    of the honest workers may lie nearer to the mean; the others and the attackers together are a majority.

    Needs honest >= 2, and for `auto` a share above 1/2: at least 2 that attack if n is odd, 3 if it is even.

    Reference: M. Baruch, G. Baruch, Y. Goldberg. A Little Is Enough: Circumventing Defenses For Distributed Learning.
    NeurIPS 2019.
    """

    factor: Factor | Literal["auto"] = 1.5
    negative: bool = True

    def line(self, honest: Spread, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        factor = quantile(honest.size, byzantine) if self.factor == "auto" else self.factor
        return honest.mean_D, signed(honest.deviation_D(), self.negative), factor

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        if honest < 2:
            return f"needs honest >= 2; got honest = {honest}"
        if self.factor == "auto" and (byzantine >= honest or quantile(honest, byzantine) <= 0):
            n = honest + byzantine
            least = 2 + (n % 2 == 0)
            return f"needs {least} <= byzantine < honest with factor auto at n = {n}; got byzantine = {byzantine}"
        return None


def quantile(honest: int, byzantine: int) -> float:
    """z of the attack's own paper."""
    return NormalDist().inv_cdf((math.ceil((honest + byzantine) / 2) - 1) / honest)
