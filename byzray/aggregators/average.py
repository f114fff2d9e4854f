"""The mean of all submissions: not robust, and the baseline for every rule."""

import torch
from torch import Tensor

from byzray.aggregators._base import Selecting
from byzray.submissions import Submissions


class Average(Selecting):
    """Mean of all submissions; one Byzantine worker sets it to any value.

    Needs n >= 1. No bound.
    """

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        return torch.arange(submissions.n, device=submissions.device)

    def _mean(self, submissions: Submissions, rows_K: Tensor) -> Tensor:
        return submissions.mean_of_all()
