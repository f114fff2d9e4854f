"""The rules by name, and the type of a pydantic field that holds any of them."""

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from byzray.aggregators.aksel import Aksel
from byzray.aggregators.average import Average
from byzray.aggregators.base import Aggregator
from byzray.aggregators.bulyan import Bulyan
from byzray.aggregators.cge import Cge
from byzray.aggregators.coordinatewise import Meamed, Median, Phocas, TrimmedMean
from byzray.aggregators.krum import Krum, MultiKrum
from byzray.aggregators.minimum_diameter import MinimumDiameter
from byzray.options import ListedRegistry

AGGREGATORS: ListedRegistry[Aggregator] = ListedRegistry(
    "aggregator",
    Aggregator,  # type: ignore[type-abstract]
    [Average, Median, TrimmedMean, Phocas, Meamed, MultiKrum, Krum, Bulyan, MinimumDiameter, Aksel, Cge],
)

AnyAggregator = Annotated[
    Aggregator, BeforeValidator(AGGREGATORS.parse), PlainSerializer(lambda rule: rule.describe(), return_type=dict)
]
"""A field that takes what a setup file writes for a rule, holds the rule, and is dumped as plain data again."""
