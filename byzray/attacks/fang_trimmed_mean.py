"""The attack of Fang et al. on the trimmed mean and the median.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from byzray.attacks._base import Attack, View


class FangTrimmedMean(Attack):
    """Beyond the honest extremes of each coordinate, on the side that opposes the mean.

    Where the mean is positive, all attackers draw uniformly between the honest minimum m and m/b if m > 0, else b m;
    where it is negative, between the honest maximum M and b M if M > 0, else M/b; where it is 0 they send the mean.

    Reference: M. Fang, X. Cao, J. Jia, N. Gong. Local Model Poisoning Attacks to Byzantine-Robust Federated Learning.
    USENIX Security 2020.
    """

    depends_on_step = True

    b: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        drawn = view.step.generator("fang").random((view.byzantine, honest_HD.shape[1]))
        uniform_FD = torch.from_numpy(drawn).to(honest_HD)
        mean_D, low_D, high_D = view.mean(honest_HD), honest_HD.amin(dim=0), honest_HD.amax(dim=0)
        below_D = torch.where(low_D > 0, low_D / self.b, self.b * low_D)
        above_D = torch.where(high_D > 0, self.b * high_D, high_D / self.b)
        under_FD = low_D - uniform_FD * (low_D - below_D)
        over_FD = high_D + uniform_FD * (above_D - high_D)
        return torch.where(mean_D > 0, under_FD, torch.where(mean_D < 0, over_FD, mean_D))
