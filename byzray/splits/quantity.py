"""Shards of unequal sizes."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from byzray.splits._partition import PartitionSplit
from byzray.splits._retrying import retried


class Quantity(PartitionSplit):
    """Shards of examples at random, of sizes drawn from a symmetric Dirichlet distribution.

    The smaller `beta`, the less equal the sizes. If some worker gets fewer than `minimum` examples, all is drawn again,
    at most 100 times.

    Reference: Q. Li, Y. Diao, Q. Chen, B. He. Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE
    2022.
    """

    beta: Annotated[float, Field(gt=0.01, allow_inf_nan=False)] = 0.5
    minimum: NonNegativeInt = 10

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        def drawn() -> Sequence[NDArray[np.int64]]:
            order = generator.permutation(len(y))
            shares = generator.dirichlet(np.full(workers, self.beta))
            return np.split(order, np.floor(np.cumsum(shares)[:-1] * len(y)).astype(np.int64))

        return retried(drawn, f"quantity with beta = {self.beta}", "beta", self.minimum, workers, len(y))
