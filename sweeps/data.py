"""A sweep's data sets: read once by the driver, and kept once per node in Ray's object store."""

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
    """A data set in Ray's object store.

    Attributes:
        data: the :class:`byzray.datasets.Data`, with the owners of its examples if the split is a file.
        digests: of the files, see :func:`byzray.environment.file_digests`.
        tests: the number of test examples.
    """

    data: ray.ObjectRef
    digests: dict[str, str]
    tests: int


def key(setup: Setup) -> str:
    """A key for a setup's data set and the file of its split. It is text, as processes may have imported the classes
    from other paths, or not at all."""
    split = setup.split.describe() if isinstance(setup.split, File) else None
    return json.dumps([setup.dataset.describe(), split], sort_keys=True)


def share(setups: Iterable[Setup], root: Path, download: bool) -> dict[str, SharedData]:
    """Put the data sets of setups into Ray's object store.

    Args:
        setups: the setups.
        root: the folder that holds data sets here.
        download: whether missing data sets may be downloaded into it.

    Returns:
        the data sets that can be read here, by :func:`key`. A run reads any other data set on its node, or fails there.
    """
    shared = {}
    for name, setup in {key(setup): setup for setup in setups}.items():
        with suppress(Exception):
            data = with_owners(setup.dataset.load(root, download), setup, root)
            shared[name] = SharedData(ray.put(data), file_digests(setup, root), len(data.x_test))
    return shared
