"""The handwritten digits that scikit-learn ships."""

from pathlib import Path

import numpy as np

from byzray.datasets._base import Data, Dataset


class Digits(Dataset):
    """Handwritten digits embedded in scikit-learn: 1,797 images of 8x8, 10 classes; no files needed.

    Raw values are 0..16, scaled to [0, 1]. Every fifth example is for testing: 1,438 to train, 359 to test.

    Source: the test set of E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning
    Repository, 1998.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def classes(self) -> int:
        return 10

    def load(self, root: Path, download: bool) -> Data:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = digits.images.astype(np.uint8)[:, np.newaxis]
        y = digits.target.astype(np.int64)
        test = np.arange(len(y)) % 5 == 4
        return Data(x[~test], y[~test], x[test], y[test], classes=self.classes, scale=1 / 16)
