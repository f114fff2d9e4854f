"""Fall of empires.

Shapes in names: H honest submissions, D parameters.
"""

from torch import Tensor

from byzray.attacks._line import Factor, LineAttack, signed
from byzray.deviations import Spread


class Empire(LineAttack):
    """(1 - factor) * mean: fall of empires, by manipulation of the inner product.

    With `negative` the factor is negated, also when it is searched.

    Reference: C. Xie, O. Koyejo, I. Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation. UAI 2019.
    """

    factor: Factor = 1.1
    negative: bool = False

    def line(self, honest: Spread, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        mean_D = honest.mean_D
        return mean_D, signed(-mean_D, self.negative), self.factor
