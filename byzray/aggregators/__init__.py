"""Aggregation rules: (N, D) submissions, of which up to f may be Byzantine, to one (D,) vector."""

from byzray.aggregators.aksel import Aksel
from byzray.aggregators.average import Average
from byzray.aggregators.base import Aggregate, Aggregator, SelectingAggregator
from byzray.aggregators.bulyan import Bulyan
from byzray.aggregators.cge import Cge
from byzray.aggregators.coordinatewise import Meamed, Median, Phocas, TrimmedMean
from byzray.aggregators.krum import Krum, MultiKrum
from byzray.aggregators.minimum_diameter import MinimumDiameter
from byzray.aggregators.mixture import RandomMixture
from byzray.aggregators.registry import AGGREGATORS, AnyAggregator

__all__ = [
    "AGGREGATORS",
    "Aggregate",
    "Aggregator",
    "Aksel",
    "AnyAggregator",
    "Average",
    "Bulyan",
    "Cge",
    "Krum",
    "Meamed",
    "Median",
    "MinimumDiameter",
    "MultiKrum",
    "Phocas",
    "RandomMixture",
    "SelectingAggregator",
    "TrimmedMean",
]
