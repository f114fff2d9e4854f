"""Divergence: from which step on the parameters are not finite, and why."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from byzray.setups import Setup


class Divergence(NamedTuple):
    """Where a run diverged.

    Attributes:
        step: the step whose update made the parameters non-finite, which they had been before.
        reason: why, as far as the metrics of that step show.
    """

    step: int
    reason: str


def unsound(vector_D: Tensor) -> Tensor:
    """0 if all coordinates are finite, else NaN: one pass, and no waiting for a GPU."""
    return (vector_D - vector_D).sum()


def reason(setup: Setup, step: int, row: Mapping[str, float], aggregate_finite: bool) -> str:
    """Why the update of a step made the parameters non-finite, in words.

    Args:
        setup: the setup of the run.
        step: the step.
        row: its metrics by their columns, with a study or without. Of the submissions they hold the mean.
        aggregate_finite: whether all coordinates of the aggregate were finite.
    """
    if aggregate_finite:
        norm = f" (norm {row['Defense gradient norm']:.3g})" if setup.study is not None else ""
        rate = setup.rate_at(step)
        return f"the aggregate was finite{norm}, but the update with learning rate {rate:g} overflowed"
    loss = row["Average loss"]
    if setup.study is None:
        if math.isfinite(loss):
            return f"the aggregate was not finite, though the average loss was ({loss:.3g})"
        return f"the average loss was not finite ({loss})"
    # In this order, as an attack on submissions that are not finite is not finite, either.
    if not math.isfinite(row["Honest gradient norm"]):
        if math.isfinite(loss):
            return f"the mean of the honest submissions was not finite, though the average loss was ({loss:.3g})"
        return f"the average loss ({loss}) and the mean of the honest submissions were not finite"
    if setup.attack is not None and not math.isfinite(row["Attack gradient norm"]):
        return f"the Byzantine submissions were not finite, and {setup.defence.label()} let them through"
    return "the aggregate was not finite, though the means of the submissions were"
