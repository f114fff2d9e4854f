"""Splits that give each honest worker examples of its own.

Shapes in names: N examples, C classes.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from byzray.randomness import generator
from byzray.splits._base import Split, Stream, Training, in_epochs


class Sharded(Split):
    """Deals the training set among the honest workers, each example to one of them: its shard.

    A worker goes through its shard in an order drawn anew in each epoch, and does not wait for the others. Byzantine
    workers that train draw from the whole training set: shards belong to the honest, whose mean is then that over all
    data.
    """

    @abstractmethod
    def dealt(self, training: Training) -> Sequence[NDArray[np.int64]]:
        """The positions of each honest worker's examples.

        Raises:
            ValueError: the examples cannot be divided so.
        """

    def shards(self, training: Training) -> list[NDArray[np.int64]]:
        """What :meth:`dealt` returns, checked.

        Raises:
            ValueError: the examples cannot be divided so, or not each belongs to exactly one worker.
        """
        shards = [np.asarray(one) for one in self.dealt(training)]
        if len(shards) != training.honest:
            raise ValueError(f"split {self.label()} made {len(shards)} shards, expected {training.honest}")
        size = len(training.y)
        dealt = np.concatenate(shards)
        if not np.issubdtype(dealt.dtype, np.integer) or not np.array_equal(np.sort(dealt), np.arange(size)):
            raise ValueError(f"split {self.label()} did not give each of the {size} examples to exactly one worker")
        if empty := [worker for worker, shard in enumerate(shards) if not len(shard)]:
            raise ValueError(f"split {self.label()} gave worker {empty[0]} no example")
        return shards

    def stream(self, training: Training) -> Stream:
        return _ShardStream(training, self.shards(training))

    def notes(self, stream: Stream) -> list[str]:
        assert isinstance(stream, _ShardStream)
        smallest, batch_size = min(map(len, stream.shards)), stream.training.batch_size
        if smallest >= batch_size:
            return []
        return [
            f"a worker has {smallest} examples, fewer than batch_size = {batch_size}: its batches hold some "
            "examples more than once"
        ]


class PartitionSplit(Sharded):
    """Draws each honest worker's examples. A partition of your own derives from this class and implements
    :meth:`positions`."""

    @abstractmethod
    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        """The positions of each worker's examples.

        Args:
            y: (N,) the labels.
            workers: how many shards to make.
            classes: C; labels are 0..C-1.
            generator: what random draws come from.

        Raises:
            ValueError: the examples cannot be divided so.
        """

    def dealt(self, training: Training) -> Sequence[NDArray[np.int64]]:
        return self.positions(training.y, training.honest, training.classes, generator(training.seed, "partition"))


class _ShardStream(Stream):
    def __init__(self, training: Training, shards: Sequence[NDArray[np.int64]]) -> None:
        super().__init__(training)
        self.shards = shards

    def indices(self, workers: range, step: int, local_step: int = 0) -> NDArray[np.int64]:
        return np.concatenate([self._of(worker, step, local_step) for worker in workers])

    def _of(self, worker: int, step: int, local_step: int) -> NDArray[np.int64]:
        training = self.training
        size, seed = training.batch_size, training.seed
        first = (step * training.local_steps + local_step) * size
        if worker >= training.honest:
            return in_epochs(len(training.y), first, size, seed, "byzantine", worker - training.honest)
        shard = self.shards[worker]
        return shard[in_epochs(len(shard), first, size, seed, "shard", worker)]


def label_skew(y: NDArray[np.int64], shards: Sequence[NDArray[np.int64]], classes: int) -> float:
    """How much the labels of shards differ: the mean over them of 1/2 sum_c |p_i(c) - p(c)|, where p are the shares of
    the classes in all examples and p_i those in shard i; 0 if they are alike, 1 - 1/C for one class each."""
    whole_C = np.bincount(y, minlength=classes) / len(y)
    shares_WC = label_shares(y, [shard for shard in shards if len(shard)], classes)
    return float(np.mean(np.abs(shares_WC - whole_C).sum(axis=1) / 2))


def label_shares(y: NDArray[np.int64], shards: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.float64]:
    """The share of each class in each of W shards, (W, C); none is empty."""
    return np.stack([np.bincount(y[shard], minlength=classes) / len(shard) for shard in shards])
