"""Base class of splits.

Shapes in names: N examples, K workers, B examples a batch.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from byzray.options import Options
from byzray.randomness import generator


class Training(NamedTuple):
    """The examples that are divided, and who draws from them.

    Attributes:
        y: (N,) int64, their labels.
        classes: C; labels are 0..C-1.
        seed: the seed of the run.
        honest: how many workers are honest, the first ones.
        workers: how many draw examples: those, and Byzantine ones if the attack has them train.
        batch_size: examples a batch.
        local_steps: batches a worker draws at each step.
        shuffle: whether the order is drawn anew in each epoch, where all share one stream.
        owners: (N,) int64, the honest worker that each example belongs to, where a file says so.
    """

    y: NDArray[np.int64]
    classes: int
    seed: int
    honest: int
    workers: int
    batch_size: int
    local_steps: int
    shuffle: bool = True
    owners: NDArray[np.int64] | None = None


class Stream(ABC):
    """Which examples workers draw: a function of the worker and the step, whatever was drawn before."""

    def __init__(self, training: Training) -> None:
        self.training = training

    @abstractmethod
    def indices(self, workers: range, step: int, local_step: int = 0) -> NDArray[np.int64]:
        """The positions (K*B,) of the examples that consecutive workers draw, worker after worker."""


class Split(Options):
    """Divides the training set among the workers.

    A split of your own derives from this class or, if each worker has examples of its own, from
    :class:`byzray.splits.PartitionSplit`.
    """

    @abstractmethod
    def stream(self, training: Training) -> Stream:
        """What the workers draw.

        Raises:
            ValueError: these examples cannot be divided so.
        """

    def notes(self, stream: Stream) -> list[str]:
        """What the user should know of examples divided so."""
        return []


def in_epochs(size: int, first: int, count: int, seed: int, purpose: str, *address: int) -> NDArray[np.int64]:
    """Positions `first`, ..., `first + count - 1` of an endless sequence, (count,): epoch after epoch all positions
    0..size-1, in an order drawn from the seed, the purpose, the address and the number of the epoch."""
    pieces = []
    for epoch in range(first // size, (first + count - 1) // size + 1):
        order = _order(size, seed, purpose, *address, epoch)
        pieces.append(order[max(first - epoch * size, 0) : first + count - epoch * size])
    return np.concatenate(pieces)


# A worker stays in an epoch for many steps.
@lru_cache(maxsize=128)
def _order(size: int, seed: int, purpose: str, *address: int) -> NDArray[np.int64]:
    return generator(seed, purpose, *address).permutation(size)
