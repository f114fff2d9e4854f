"""SVHN, the house numbers of Google's Street View."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzray.datasets._base import Data, Dataset
from byzray.datasets._files import check_sums, damaged, is_file, reading, require

SIDE = 32  # pixels
CLASSES = 10

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Svhn(Dataset):
    """SVHN, digits of house numbers: 73,257 + 26,032 colour images of 32x32, 10 classes.

    Read from ROOT/train_32x32.mat and ROOT/test_32x32.mat, where torchvision puts them; the third file of this set,
    `extra`, is not used. The label 10 in the files is class 0, the digit 0. Prepared without flips, as digits have no
    mirror images: x/255 normalised per channel with the mean (.4377, .4438, .4728) and the deviation (.1980, .2010,
    .1970) of the training images.

    Source: Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng. Reading Digits in Natural Images with
    Unsupervised Feature Learning. NIPS Workshop on Deep Learning and Unsupervised Feature Learning, 2011.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self, root: Path, download: bool) -> Data:
        from torchvision.datasets import SVHN

        files = {part: root / SVHN.split_list[part][1] for part in ("train", "test")}

        def fetch() -> None:
            for part, path in files.items():
                if not is_file(path):
                    SVHN(root, split=part, download=True)

        require(self.name, files.values(), fetch if download else None)
        # scipy's reader may end the process on a damaged file
        check_sums({path: SVHN.split_list[part][2] for part, path in files.items()})
        return Data(
            *_read(files["train"]),
            *_read(files["test"]),
            classes=CLASSES,
            scale=1 / 255,
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
        )


def _read(path: Path) -> Part:
    """(N, 3, 32, 32) uint8 images and (N,) int64 labels of one file.

    Raises:
        ValueError: the file is damaged.
    """
    x, y = _variables(path)
    if x.dtype != np.uint8:
        raise damaged(path, f"X of type {x.dtype}", "uint8")
    if x.ndim != 4 or x.shape[:3] != (SIDE, SIDE, 3):
        raise damaged(path, f"X of shape {x.shape}", f"({SIDE}, {SIDE}, 3, N)")
    if y.dtype.kind not in "iu":
        raise damaged(path, f"y of type {y.dtype}", "integers")
    count = x.shape[3]
    if y.shape != (count, 1):
        raise damaged(path, f"y of shape {y.shape}", f"{(count, 1)}, a label for each image")
    if not count:
        raise damaged(path, "no images", "at least one")
    for label in (y.max(), y.min()):
        if not 1 <= label <= CLASSES:
            raise damaged(path, f"label {label}", f"labels in 1..{CLASSES}")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y[:, 0].astype(np.int64) % CLASSES


def _variables(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The arrays X and y of a file of MATLAB, unchecked.

    Raises:
        ValueError: there is no such array, or the file is of another kind.
    """
    from scipy.io import loadmat

    names = ("X", "y")
    with reading(path, "a .mat file with X and y"):
        variables = loadmat(path, variable_names=names)
    for name in names:
        if name not in variables:
            raise damaged(path, f"no {name}", "the variables X and y")
    return variables["X"], variables["y"]
