"""A share at random, the rest sorted by label."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from byzray.splits._partition import PartitionSplit


class Similarity(PartitionSplit):
    """A share `gamma` of the examples is dealt at random, the others sorted by their labels.

    With 0 each worker sees few classes, with 1 all are alike.

    Reference: S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh. SCAFFOLD: Stochastic
    Controlled Averaging for Federated Learning. ICML 2020.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.5

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        order = generator.permutation(len(y))
        alike, rest = np.split(order, [round(self.gamma * len(y))])
        by_label = rest[np.argsort(y[rest], kind="stable")]
        return [
            np.concatenate(both)
            for both in zip(np.array_split(alike, workers), np.array_split(by_label, workers), strict=True)
        ]
