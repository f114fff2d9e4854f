"""Bucketing."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from byzray.preaggregators._base import PreAggregator
from byzray.step import Step
from byzray.submissions import Submissions


class Bucketing(PreAggregator):
    """The means of buckets of `size` submissions, the last one smaller, in an order drawn anew at each step.

    Each Byzantine submission may spoil a bucket of its own, so that f stays while n becomes ceil(n / size). Needs what
    the rule after it needs of those.

    Reference: S. P. Karimireddy, L. He, M. Jaggi. Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing.
    ICLR 2022.
    """

    depends_on_step = True

    size: PositiveInt = 2

    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        n = submissions.n
        order = torch.from_numpy(step.generator("bucketing").permutation(n))
        weights_MN = torch.zeros(self.sizes(n, step.f)[0], n, dtype=torch.float64)
        for bucket_N, rows in zip(weights_MN, order.split(self.size), strict=True):
            bucket_N[rows] = 1 / len(rows)
        return weights_MN.to(submissions.device)

    def sizes(self, n: int, f: int) -> tuple[int, int]:
        return -(-n // self.size), f
