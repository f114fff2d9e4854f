"""Min-sum: no larger sum of squared distances to the honest submissions than one of these has.

Shapes in names: H honest submissions, D parameters.
"""

from typing import Literal

import torch
from torch import Tensor

from byzray.attacks._perturbation import Perturbation


class MinSum(Perturbation):
    """The honest mean, moved along p until its squared distances to the honest submissions add up to an honest one's.

    a + gamma p with the largest gamma for which the sum of squared distances to the honest submissions is at most that
    of the honest submission of the largest such sum (`bound: max`, the paper) or of the smallest (`min`, its code). p
    is `direction`: `std`, the negated standard deviation of each coordinate, `unit`, -a/||a||, or `sign`, -sign(a).

    That is gamma = max_k ||s_k - a|| / ||p||, or min_k.

    Reference: V. Shejwalkar, A. Houmansadr. Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning. NDSS 2021.
    """

    bound: Literal["max", "min"] = "max"

    def gamma(self, deviations_HD: Tensor, p_D: Tensor) -> Tensor:
        lengths_H = torch.linalg.vector_norm(deviations_HD, dim=1, dtype=torch.float64)
        length = lengths_H.max() if self.bound == "max" else lengths_H.min()
        return length / torch.linalg.vector_norm(p_D, dtype=torch.float64)
