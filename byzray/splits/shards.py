"""Blocks of examples sorted by label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from byzray.splits._partition import PartitionSplit


class Shards(PartitionSplit):
    """The examples, sorted by label, are cut into blocks, of which each worker gets `classes` at random.

    A worker then sees about so many classes.

    Reference: B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas. Communication-Efficient Learning of Deep
    Networks from Decentralized Data. AISTATS 2017.
    """

    classes: PositiveInt = 2

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        count = workers * self.classes
        if count > len(y):
            raise ValueError(
                f"split shards needs classes * workers <= examples; got classes = {self.classes}, "
                f"workers = {workers}, examples = {len(y)}"
            )
        blocks = np.array_split(np.argsort(y, kind="stable"), count)
        chosen = generator.permutation(count).reshape(workers, self.classes)
        return [np.concatenate([blocks[block] for block in own]) for own in chosen]
