"""Fall of empires, to the letter of its paper.

Shapes in names: H honest submissions, D parameters.
"""

import torch
from torch import Tensor

from byzray.attacks._line import Factor, LineAttack


class EmpireStrict(LineAttack):
    """-epsilon * mean: fall of empires, to the letter of its paper.

    Reference: C. Xie, O. Koyejo, I. Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation. UAI 2019.
    """

    epsilon: Factor = 1.0

    def line(self, honest_HD: Tensor, mean_D: Tensor, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        return torch.zeros_like(mean_D), -mean_D, self.epsilon
