"""Equal shards at random."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from byzray.splits._partition import PartitionSplit


class Iid(PartitionSplit):
    """Equally many examples for each worker, at random."""

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        return np.array_split(generator.permutation(len(y)), workers)
