"""Splits: which examples are whose."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from byzray.options import Registry
from byzray.splits._base import Split, Stream, Training
from byzray.splits._partition import PartitionSplit, Sharded, label_shares, label_skew

SPLITS: Registry[Split] = Registry("split", Split, __name__)  # type: ignore[type-abstract]

AnySplit = Annotated[
    Split, BeforeValidator(SPLITS.parse), PlainSerializer(lambda split: split.describe(), return_type=dict)
]
"""A field that takes what a setup file writes for a split, holds the split, and is dumped as plain data again."""

__all__ = [
    "SPLITS",
    "AnySplit",
    "PartitionSplit",
    "Sharded",
    "Split",
    "Stream",
    "Training",
    "label_shares",
    "label_skew",
]


def __getattr__(name: str) -> Any:
    return SPLITS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *SPLITS.exports]
