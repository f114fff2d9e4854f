"""Pre-aggregators: what is made of the submissions before the rule sees them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from byzray.options import Registry
from byzray.preaggregators._base import PreAggregator

PREAGGREGATORS: Registry[PreAggregator] = Registry(
    "pre-aggregator",
    PreAggregator,  # type: ignore[type-abstract]
    __name__,
)

AnyPreAggregator = Annotated[
    PreAggregator,
    BeforeValidator(PREAGGREGATORS.parse),
    PlainSerializer(lambda part: part.describe(), return_type=dict),
]
"""A field that takes what a setup file writes for a pre-aggregator, holds it, and is dumped as plain data again."""

__all__ = ["PREAGGREGATORS", "AnyPreAggregator", "PreAggregator"]


def __getattr__(name: str) -> Any:
    return PREAGGREGATORS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *PREAGGREGATORS.exports]
