"""Data sets of the user's own, as numpy archives."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from byzray.arrays import open_archive, read_array
from byzray.datasets._base import Data, Dataset
from byzray.datasets._files import located

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

# A model has outputs for every label up to the largest; one that is larger than this is no label.
MOST_CLASSES = 100_000


class Npz(Dataset):
    """Your own data in one numpy archive with the arrays x_train, y_train, x_test and y_test.

    Examples are uint8, which are scaled by 1/255, or floating, which are taken as they are. Images are channels first,
    (N, C, H, W); examples of two dimensions, (N, H, W), are images of one channel. Labels are integers in 0..classes-1;
    there are as many classes as the training labels show, at least 2. The test set may be empty.

    Attributes:
        path: the archive; a relative path is looked up in the folder that holds data sets, then in the working folder.
    """

    path: str

    def load(self, root: Path, download: bool) -> Data:
        path = self.file(root)
        arrays = _read(path)
        x_train, y_train = _part(path, arrays, "train")
        x_test, y_test = _part(path, arrays, "test")
        if not len(y_train):
            raise _wrong(path, "x_train", "no examples", "at least one")
        for found, expected in ((x_test.dtype, x_train.dtype), (x_test.shape[1:], x_train.shape[1:])):
            if found != expected:
                raise _wrong(path, "x_test", f"examples of {found}", f"{expected} as in 'x_train'")
        classes = max(2, int(y_train.max()) + 1)
        if len(y_test) and y_test.max() >= classes:
            raise _wrong(path, "y_test", f"label {y_test.max()}", f"labels in 0..{classes - 1} as in 'y_train'")
        scale = 1 / 255 if x_train.dtype == np.uint8 else 1.0
        return Data(x_train, y_train, x_test, y_test, classes=classes, scale=scale)

    def file(self, root: Path) -> Path:
        """Where the archive lies.

        Raises:
            MissingData: it is nowhere it could be.
        """
        return located("data set npz", self.path, root)


def _wrong(path: Path, array: str, found: object, expected: str) -> ValueError:
    """The error to raise for one array of the archive."""
    return ValueError(f"{path}: array {array!r}: found {found}, expected {expected}")


def _open(path: Path) -> NpzFile:
    """The archive, whose arrays are read when they are asked for.

    Raises:
        ValueError: the file is no archive.
    """
    expected = f"expected a numpy archive (.npz) with {', '.join(ARRAYS)}"
    try:
        return open_archive(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}, {expected}") from error


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The four arrays of the archive, unchecked.

    Raises:
        ValueError: the file is no archive, or an array is missing or is not one that can be read.
    """
    arrays = {}
    with _open(path) as archive:
        for name in ARRAYS:
            if name not in archive:
                raise _wrong(path, name, f"only {', '.join(archive.files) or 'an empty archive'}", "this array as well")
            try:
                arrays[name] = read_array(archive, name)
            except ValueError as error:
                # numpy's message distinguishes pickled objects from a damaged archive
                raise _wrong(path, name, f"what numpy cannot read ({error})", "plain numbers") from error
    return arrays


def _part(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The examples, (N, ...) uint8 or float32, and the (N,) int64 labels of one part, "train" or "test".

    Raises:
        ValueError: one of the two is of another form.
    """
    x_name, y_name = f"x_{part}", f"y_{part}"
    x, y = arrays[x_name], arrays[y_name]
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise _wrong(path, x_name, f"values of type {x.dtype}", "uint8 or floating values")
    if x.ndim < 2:
        raise _wrong(path, x_name, f"shape {x.shape}", "one row an example: (N, ...)")
    if y.dtype.kind not in "iu":
        raise _wrong(path, y_name, f"labels of type {y.dtype}", "integers")
    if y.shape != x.shape[:1]:
        raise _wrong(path, y_name, f"shape {y.shape}", f"{x.shape[:1]}, one label for each example of {x_name!r}")
    if len(y) and not 0 <= y.min() <= y.max() < MOST_CLASSES:
        wrong = y.min() if y.min() < 0 else y.max()
        raise _wrong(path, y_name, f"label {wrong}", f"labels >= 0{'' if wrong < 0 else f' and < {MOST_CLASSES}'}")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # counted below
            x = x.astype(np.float32)
        if bad := np.count_nonzero(~np.isfinite(x)):
            raise _wrong(path, x_name, f"{bad} values that are infinite or NaN as float32", "finite ones")
    if x.ndim == 3:
        x = x[:, np.newaxis]
    return np.ascontiguousarray(x), y.astype(np.int64)
