"""How a setup divides the training set: a part that the server keeps, and what the workers draw of the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from byzray.datasets import Data
from byzray.randomness import generator
from byzray.sampling import TrainingStream
from byzray.setups import Setup
from byzray.splits import Stream, Training
from byzray.splits._base import in_epochs
from byzray.splits.file import File


def with_owners(data: Data, setup: Setup, root: Path) -> Data:
    """The data set, with the worker that each training example belongs to where a file of the split says so.

    Args:
        data: the data set.
        setup: the setup.
        root: the folder that holds data sets.

    Raises:
        byzray.datasets.MissingData: the file is not there.
        ValueError: it does not hold what it should.
    """
    if not isinstance(setup.split, File):
        return data
    return replace(data, owners=setup.split.owners(root, len(data.y_train)))


def worker_stream(data: Data, setup: Setup, device: torch.device) -> TrainingStream:
    """The batches of the workers that train.

    Raises:
        ValueError: the data cannot be divided so.
    """
    stream = setup.split.stream(training(data, setup))
    return TrainingStream(data, stream, device, _parts(data, setup)[1] if setup.defence.root_examples else None)


def training(data: Data, setup: Setup) -> Training:
    """The examples that the workers draw from.

    Raises:
        ValueError: the server's part leaves none.
    """
    y, owners = data.y_train, data.owners
    if setup.defence.root_examples:
        _, left = _parts(data, setup)
        y, owners = y[left], None if owners is None else owners[left]
    return Training(
        y=y,
        classes=data.classes,
        seed=setup.seed,
        honest=setup.honest,
        workers=len(setup.trained),
        batch_size=setup.batch_size,
        local_steps=setup.local_steps,
        shuffle=data.shuffle,
        owners=owners,
    )


def root_stream(data: Data, setup: Setup, device: torch.device) -> TrainingStream:
    """The batches of a worker at the server, which has the server's part to itself.

    Raises:
        ValueError: the server's part leaves the workers none.
    """
    kept, _ = _parts(data, setup)
    own = training(data, setup)._replace(y=data.y_train[kept], honest=1, workers=1)
    return TrainingStream(data, _RootStream(own), device, kept)


def _parts(data: Data, setup: Setup) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of the server's examples, and of the others, in order."""
    size, kept = len(data.y_train), setup.defence.root_examples
    if kept >= size:
        raise ValueError(
            f"the defence keeps root = {kept} examples, expected fewer than the {size} of the training set"
        )
    root = generator(setup.seed, "root").permutation(size)[:kept]
    return root, np.setdiff1d(np.arange(size), root)


class _RootStream(Stream):
    def indices(self, workers: range, step: int, local_step: int = 0) -> NDArray[np.int64]:
        own = self.training
        first = (step * own.local_steps + local_step) * own.batch_size
        return in_epochs(len(own.y), first, own.batch_size, own.seed, "root epoch")
