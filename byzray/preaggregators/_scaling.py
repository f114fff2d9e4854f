"""Pre-aggregators that shrink submissions towards the origin.

Shapes in names: N submissions.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from byzray.preaggregators._base import PreAggregator
from byzray.step import Step
from byzray.submissions import Submissions


class Scaling(PreAggregator):
    """Shrinks each submission to a norm of at most some limit; one that is not finite becomes 0."""

    @abstractmethod
    def largest(self, norms_N: Tensor, f: int) -> Tensor | float:
        """The largest norm that stays."""

    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        norms_N = submissions.norms_N()
        largest = self.largest(norms_N, step.f)
        factors_N = torch.where(norms_N <= largest, 1, largest / norms_N)
        return torch.where(norms_N.isinf(), 0, factors_N).diag()
