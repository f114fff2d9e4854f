"""A little is enough.

Shapes in names: H honest submissions, D parameters.
"""

from torch import Tensor

from byzray.attacks._line import Factor, LineAttack, signed
from byzray.deviations import squared_deviations


class Little(LineAttack):
    """Mean + factor * coordinate-wise standard deviation: a little is enough.

    The deviation has the h-1 denominator. With `negative`, the default as published with El-Mhamdi et al. (ICLR 2021),
    the factor is negated, also when it is searched.

    Needs honest >= 2.

    Reference: M. Baruch, G. Baruch, Y. Goldberg. A Little Is Enough: Circumventing Defenses For Distributed Learning.
    NeurIPS 2019.
    """

    factor: Factor = 1.5
    negative: bool = True

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        variance_D = squared_deviations(honest_HD, mean_D) / (len(honest_HD) - 1)
        deviation_D = variance_D.sqrt().to(mean_D.dtype)
        return mean_D, signed(deviation_D, self.negative), self.factor

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        return None if honest >= 2 else f"needs honest >= 2, got honest = {honest}"
