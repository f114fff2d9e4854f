"""Data sets: each is a file here, whose name is the one that setups write.

Importing this package imports neither torchvision nor scikit-learn, which actors that only train never need.
"""

from typing import Any

from byzray.datasets._base import Data, Dataset, MissingData
from byzray.options import Registry

__all__ = ["DATASETS", "Data", "Dataset", "MissingData"]

DATASETS: Registry[Dataset] = Registry("data set", Dataset, __name__)  # type: ignore[type-abstract]


def __getattr__(name: str) -> Any:
    return DATASETS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *DATASETS.exports]
