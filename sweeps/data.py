"""A sweep's data sets: read once, by the driver, and held once by each node, in Ray's object store."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import ray

from byzray.division import with_owners
from byzray.environment import file_digests
from byzray.setups import Setup
from byzray.splits.file import File


class SharedData(NamedTuple):
    """A data set that every node can get from Ray.

    Attributes:
        data: the :class:`byzray.datasets.Data`, divided if a file of the split says how.
        digests: of the files, see :func:`byzray.environment.file_digests`.
        tests: how many test examples it has.
    """

    data: ray.ObjectRef
    digests: dict[str, str]
    tests: int


def key(setup: Setup) -> str:
    """What a setup's data set, with the file of its split, is known by in processes that know the classes by another
    path, or not yet."""
    split = setup.split.describe() if isinstance(setup.split, File) else None
    return json.dumps([setup.dataset.describe(), split], sort_keys=True)


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
    for name, setup in {key(setup): setup for setup in setups}.items():
        with suppress(Exception):
            data = with_owners(setup.dataset.load(root, download), setup, root)
            shared[name] = SharedData(ray.put(data), file_digests(setup, root), len(data.x_test))
    return shared
