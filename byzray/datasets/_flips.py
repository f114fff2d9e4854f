"""Data sets of images that are flipped at random."""

from typing import Literal

from byzray.datasets._base import Dataset


class FlippedImages(Dataset):
    """Images that are flipped horizontally with probability 1/2, anew each time they are read.

    Attributes:
        flip: which images are flipped. The published code flips the test images too, which makes the accuracy of a
            model on the test set itself random: that is the default. `train` is the usual augmentation.
    """

    flip: Literal["train-and-test", "train", "none"] = "train-and-test"

    @property
    def flip_train(self) -> bool:
        """Whether training images are flipped."""
        return self.flip != "none"

    @property
    def flip_test(self) -> bool:
        """Whether test images are flipped."""
        return self.flip == "train-and-test"
