"""Attacks that lie on a line from the honest submissions, at a distance that is given or searched.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import inspect
from abc import abstractmethod
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.attacks._search import maximise
from byzray.defence import Bound
from byzray.deviations import Spread
from byzray.line import Line
from byzray.submissions import OnLine

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["searched"]


class LineAttack(Attack):
    """An attack start + factor * direction; a factor `searched` is the one found, within a budget of `evaluations` of
    the rule, to push the aggregate furthest from the honest mean."""

    evaluations: Annotated[int, Field(ge=1, le=10_000)] = 16

    @abstractmethod
    def line(self, honest: Spread, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        """The start, the direction, and the factor, not to be changed in place.

        Args:
            honest: the spread of the honest submissions.
            byzantine: how many Byzantine ones to answer with.
        """

    @classmethod
    def outdated(cls) -> str | None:
        if "mean_D" in inspect.signature(cls.line).parameters:
            return "line(honest_HD, mean_D, ...) is line(honest, byzantine) since byzray 0.2, see docs/porting.md"
        return super().outdated()

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        honest = view.spread(honest_HD)
        start_D, direction_D, factor = self.line(honest, view.byzantine)
        line = Line(honest_HD, honest.mean_D, start_D, direction_D, view.byzantine)
        if factor == "searched":
            found = maximise(partial(_harm, line, view.defence), self.evaluations, honest_HD.device)
            return line.vector(found).expand(view.byzantine, -1)
        return line.vector(factor).expand(view.byzantine, -1)


def _harm(line: Line, defence: Bound, x: Tensor) -> Tensor:
    """How far the aggregate is from the honest mean at x, squared."""
    aggregate = defence(OnLine(line, x))
    weights_N = aggregate.weights_N(line.n)
    if weights_N is None:
        return line.harm(aggregate.vector_D)
    rest = 1 - weights_N.sum() if aggregate.rows_K is None else torch.zeros_like(x)
    return line.harm_of_weights(weights_N, rest, x)


def signed(direction_D: Tensor, negative: bool) -> Tensor:
    """The direction, or the opposite one."""
    return -direction_D if negative else direction_D
