"""Accuracy on the test set.

Shapes in names: B examples, W honest workers, C classes, T of them in the test set.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.datasets import Data
from byzray.division import training
from byzray.gradients import Network
from byzray.randomness import generator
from byzray.sampling import Batch, Examples
from byzray.setups import Setup
from byzray.splits import Sharded, label_shares

Accuracies = tuple[float, ...]
"""Shares of 1, one for each of :func:`accuracy_columns`."""

OF_WORKERS = ("worst worker accuracy", "mean worker accuracy")


def accuracy_columns(setup: Setup) -> tuple[str, ...]:
    """What is measured at an evaluation: the accuracy, and where workers have examples of their own the smallest and
    the mean of the workers' accuracies."""
    return ("accuracy", *OF_WORKERS) if isinstance(setup.split, Sharded) else ("accuracy",)


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
        self._shares_WC = _shares(data, setup) if isinstance(setup.split, Sharded) else None

    def accuracies(self, theta_D: Tensor, step: int, buffers: dict[str, Tensor] | None = None) -> Accuracies:
        """The share of the whole test set that is classified correctly; NaN without test examples.

        Where workers have examples of their own, the smallest and the mean of their accuracies follow. That of a worker
        is the mean over classes of the accuracy of the class, each with its share in the worker's examples; classes
        without a test example are left out.

        Args:
            theta_D: the parameters.
            step: how many steps have been taken.
            buffers: BatchNorm's statistics to use, those of the initialised model by default.
        """
        size = len(self.data.x_test)
        if not size:
            return (math.nan,) * len(accuracy_columns(self.setup))
        shape = () if self._shares_WC is None else (self.data.classes,)
        correct = torch.zeros(shape, dtype=torch.int64, device=self.network.device)
        if self._kept is None and self._keeps:
            self._kept = list(self._batches(step))
        for batch in self._kept or self._batches(step):
            right_B = self.network.right(theta_D, batch, buffers)
            correct += right_B.sum() if self._shares_WC is None else _by_class(right_B, batch.y, self.data.classes)
        if self._shares_WC is None:
            return (correct.item() / size,)
        return _accuracies(correct.cpu().numpy(), self.data.y_test, self._shares_WC)

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


def _shares(data: Data, setup: Setup) -> NDArray[np.float64]:
    """The share of each class in the examples of each honest worker, (W, C)."""
    assert isinstance(setup.split, Sharded)
    divided = training(data, setup)
    return label_shares(divided.y, setup.split.shards(divided), data.classes)


def _by_class(right_B: Tensor, y_B: Tensor, classes: int) -> Tensor:
    """How many are right of each class, (C,): by a comparison, as bincount waits for the GPU."""
    of_class_BC = y_B[:, None] == torch.arange(classes, device=y_B.device)
    return (of_class_BC & right_B[:, None]).sum(dim=0)


def _accuracies(correct_C: NDArray[np.int64], y: NDArray[np.int64], shares_WC: NDArray[np.float64]) -> Accuracies:
    """All accuracies, from how many examples of each class are right."""
    sizes_C = np.bincount(y, minlength=len(correct_C))
    tested_C = sizes_C > 0
    shares_WT = shares_WC[:, tested_C]
    shares_WT = shares_WT[shares_WT.sum(axis=1) > 0]  # of the workers, those with a class that is tested
    accuracies_W = shares_WT @ (correct_C[tested_C] / sizes_C[tested_C]) / shares_WT.sum(axis=1)
    worst, mean = (accuracies_W.min(), accuracies_W.mean()) if len(accuracies_W) else (math.nan, math.nan)
    return int(correct_C.sum()) / len(y), float(worst), float(mean)
