"""A sweep's data sets: read once, by the driver, and held once by each node, in Ray's object store."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import ray

from byzray.datasets import Dataset
from byzray.environment import file_digests
from byzray.setups import Setup


class SharedData(NamedTuple):
    """A data set that every node can get from Ray.

    Attributes:
        data: the :class:`byzray.datasets.Data`.
        digests: of its files, see :func:`byzray.environment.file_digests`.
        tests: how many test examples it has.
    """

    data: ray.ObjectRef
    digests: dict[str, str]
    tests: int


def key(dataset: Dataset) -> str:
    """What a data set is known by in processes that know its class by another path, or not yet."""
    return json.dumps(dataset.describe(), sort_keys=True)


def share(setups: Iterable[Setup], root: Path, download: bool) -> dict[str, SharedData]:
    """Put the data sets of setups into Ray's object store.

    Args:
        setups: the setups.
        root: the folder that holds data sets here.
        download: whether missing data sets may be downloaded into it.

    Returns:
        By :func:`key`, all that can be read here. A run reads another one on its node, or fails there and tells why.
    """
    shared = {}
    for dataset in {setup.dataset for setup in setups}:
        with suppress(Exception):
            data = dataset.load(root, download)
            shared[key(dataset)] = SharedData(ray.put(data), file_digests(dataset, root), len(data.x_test))
    return shared
