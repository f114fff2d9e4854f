"""A partition of the user's own, from a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.arrays import open_archive, read_array
from byzray.datasets._files import located
from byzray.splits._base import Training
from byzray.splits._partition import Sharded

ARRAY = "worker"


class File(Sharded):
    """A partition of your own, from an archive.

    The numpy archive `path` holds the array `worker`, which says for each training example to which honest worker, from
    0 on, it belongs.

    Each honest worker needs an example. The archive may be that of the data set `npz`.

    Attributes:
        path: the archive; a relative path is looked up in the folder that holds data sets, then in the working folder.
    """

    path: str

    def file(self, root: Path) -> Path:
        """Where the archive lies.

        Raises:
            MissingData: it is nowhere it could be.
        """
        return located("split file", self.path, root)

    def owners(self, root: Path, examples: int) -> NDArray[np.int64]:
        """The worker that each training example belongs to, (N,).

        Args:
            root: the folder that holds data sets.
            examples: how many training examples there are.

        Raises:
            MissingData: the archive is nowhere it could be.
            ValueError: it does not hold what it should.
        """
        path = self.file(root)
        owners_N = _read(path)
        if owners_N.dtype.kind not in "iu":
            raise _wrong(path, f"values of type {owners_N.dtype}", "integers")
        if owners_N.shape != (examples,):
            raise _wrong(path, f"shape {owners_N.shape}", f"({examples},), one worker for each training example")
        least, largest = int(owners_N.min()), int(owners_N.max())
        if least < 0 or largest >= examples:  # more workers than examples
            raise _wrong(path, f"worker {least if least < 0 else largest}", "the numbers of honest workers, from 0 on")
        return owners_N.astype(np.int64)

    def dealt(self, training: Training) -> Sequence[NDArray[np.int64]]:
        if training.owners is None:
            raise ValueError(f"{self.path}: not read, expected data from byzray.data.load_data")
        last = training.honest - 1
        if (largest := training.owners.max()) > last:
            raise _wrong(self.path, f"worker {largest}", f"honest workers, 0..{last}")
        counts = np.bincount(training.owners, minlength=training.honest)
        if not counts.all():
            raise _wrong(self.path, f"no example of worker {counts.argmin()}", f"at least one for each of 0..{last}")
        return [np.flatnonzero(training.owners == worker) for worker in range(training.honest)]


def _wrong(path: Path | str, found: str, expected: str) -> ValueError:
    return ValueError(f"{path}: array {ARRAY!r}: found {found}, expected {expected}")


def _read(path: Path) -> NDArray[np.generic]:
    """The array, unchecked.

    Raises:
        ValueError: the file is no archive, or the array is missing or cannot be read.
    """
    try:
        archive = open_archive(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}, expected a numpy archive (.npz) with the array {ARRAY!r}") from error
    with archive:
        if ARRAY not in archive:
            raise _wrong(path, f"only {', '.join(archive.files) or 'an empty archive'}", "this array")
        try:
            return read_array(archive, ARRAY)
        except ValueError as error:
            raise _wrong(path, f"what numpy cannot read ({error})", "plain integers") from error
