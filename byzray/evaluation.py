"""Accuracy on the test set."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from byzray.datasets import Data
from byzray.gradients import Network
from byzray.randomness import generator
from byzray.sampling import Batch, Examples
from byzray.setups import Setup

# Examples evaluated at once: enough to fill the device, few enough for the activations of large networks. Dense ones
# have few, and on a GPU the fewest passes are the fastest.
BATCH = 1000
DENSE_BATCH = 10_000

# Up to so many values, test examples of dense networks, which would take about as long to prepare as to classify, are
# kept as prepared: 64 MB.
KEPT_VALUES = 2**24


class Evaluation:
    """Measures accuracies.

    Args:
        setup: the setup of the run.
        data: the data set, of which the test examples are needed.
        network: the model.
    """

    def __init__(self, setup: Setup, data: Data, network: Network) -> None:
        self.setup = setup
        self.data = data
        self.network = network
        self.examples = Examples(data, data.x_test, data.y_test, network.device)
        self._keeps = setup.model.dense and not data.flip_test and data.x_test.size <= KEPT_VALUES
        self._kept: list[Batch] | None = None

    def accuracy(self, theta_D: Tensor, step: int, buffers: dict[str, Tensor] | None = None) -> float:
        """The share of the whole test set that is classified correctly; NaN without test examples.

        Args:
            theta_D: the parameters.
            step: how many steps have been taken.
            buffers: BatchNorm's statistics to use, those of the initialised model by default.
        """
        size = len(self.data.x_test)
        if not size:
            return math.nan
        correct = torch.zeros((), dtype=torch.int64, device=self.network.device)
        if self._kept is None and self._keeps:
            self._kept = list(self._batches(step))
        for batch in self._kept or self._batches(step):
            correct += self.network.correct(theta_D, batch, buffers)
        return correct.item() / size

    def _batches(self, step: int) -> Iterator[Batch]:
        """The test examples in batches."""
        size = len(self.data.x_test)
        flips = None
        if self.data.flip_test:
            flips = generator(self.setup.seed, "test flip", step).random(size) < 0.5
        on_gpu = self.network.device.type == "cuda"
        at_once = DENSE_BATCH if on_gpu and self.setup.model.dense else BATCH
        for start in range(0, size, at_once):
            part = slice(start, start + at_once)
            yield self.examples.batch(part, None if flips is None else torch.from_numpy(flips[part]))
