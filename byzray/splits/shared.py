"""All workers draw from one stream, as published."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from byzray.randomness import generator
from byzray.splits._base import Split, Stream, Training


# A batch lies in two epochs at most, unless the data set is tiny.
@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, size: int, shuffle: bool) -> NDArray[np.int64]:
    """The order in which an epoch goes through the training set: (size,) positions, not to be modified."""
    return generator(seed, "epoch", epoch).permutation(size) if shuffle else np.arange(size)


class _SharedStream(Stream):
    def indices(self, workers: range, step: int, local_step: int = 0) -> NDArray[np.int64]:
        training = self.training
        row = (step * training.local_steps + local_step) * training.workers
        first, last = (row + workers.start) * training.batch_size, (row + workers.stop) * training.batch_size
        size = len(training.y)
        pieces = []
        for epoch in range(first // size, (last - 1) // size + 1):
            begin = epoch * size
            order = epoch_order(training.seed, epoch, size, training.shuffle)
            pieces.append(order[max(first - begin, 0) : last - begin])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Shared(Split):
    """One shuffled stream without replacement, from which all workers draw in turn, epoch after epoch, as published.

    At the end of an epoch the stream runs on into the next; the published code cuts the last batch short.
    """

    def stream(self, training: Training) -> Stream:
        return _SharedStream(training)
