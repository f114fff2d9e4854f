"""Coordinates at which rounding decides what a rule keeps.

`phocas` and `meamed` keep the values of a coordinate that are nearest to a center. Where the lowest value kept and the
next one above them are equally far from the center but for rounding, either may be kept: with another order of
additions, or another processor, the parameter is another.

Shapes in names: N submissions, D parameters, S shifts of the window by one value.
"""

import torch
from torch import Tensor

from byzray.datasets import Data
from byzray.order_statistics import mean, sort_columns
from byzray.setups import Setup
from byzray.simulation import LocalSimulation
from byzray.submissions import Matrix

NEAR = 64 * 2.0**-24
"""Up to so much of the values themselves, two differences between them and a center are equal but for rounding, that of
the gradients included."""

CENTERS = {"meamed": lambda n, f: ((n - 1) // 2, 1), "phocas": lambda n, f: (f, n - 2 * f)}
"""Of the rules, over which ranks the center is the mean: the first, and how many."""


def near_ties(setup: Setup, data: Data, parameters: Tensor) -> Tensor:
    """Which coordinates (D,) met a near-tie at some step of a run with one of these rules, computed here."""
    simulation = LocalSimulation(setup, data, parameters)
    near_D = torch.zeros(simulation.server.network.dimension, dtype=torch.bool)
    for step in range(setup.steps):
        simulation.advance(step + 1)
        rows_ND = Matrix(simulation.server.submissions_ND, setup.honest + min(1, setup.byzantine)).rows_ND
        near_D |= _near_ties(rows_ND.cpu(), setup.tolerated, setup.aggregator.name)
    return near_D


def _near_ties(rows_ND: Tensor, f: int, rule: str) -> Tensor:
    n = len(rows_ND)
    first, count = CENTERS[rule](n, f)
    sorted_DN = sort_columns(rows_ND)
    center_D1 = mean(sorted_DN[:, first : first + count], dim=1)[:, None]
    left_DS, gained_DS = sorted_DN[:, :f], sorted_DN[:, n - f :]
    difference_DS = ((center_D1 - left_DS) - (gained_DS - center_D1)).abs()
    rounding_DS = NEAR * torch.maximum(left_DS.abs(), gained_DS.abs())
    # Of equal candidates either gives the same mean.
    return ((difference_DS <= rounding_DS) & (gained_DS - left_DS > rounding_DS)).any(dim=1)
