"""Aggregation rules: N submissions, of which up to f may be Byzantine, to one (D,) vector."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from byzray.aggregators._base import Aggregate, Aggregator, Selecting, Weighting
from byzray.options import Registry

AGGREGATORS = Registry("aggregator", Aggregator, __name__)

AnyAggregator = Annotated[
    Aggregator, BeforeValidator(AGGREGATORS.parse), PlainSerializer(lambda rule: rule.describe(), return_type=dict)
]
"""A field that takes what a setup file writes for a rule, holds the rule, and is dumped as plain data again."""

__all__ = ["AGGREGATORS", "Aggregate", "Aggregator", "AnyAggregator", "Selecting", "Weighting"]


def __getattr__(name: str) -> Any:
    if name == "SelectingAggregator":
        raise ImportError("since byzray 0.2 it is Selecting, which implements rows(submissions, f): docs/porting.md")
    return AGGREGATORS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *AGGREGATORS.exports]
