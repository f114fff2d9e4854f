"""What every aggregation rule is.

Shapes in names: N submissions, D parameters, K selected rows.
"""

import math
from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from byzray.options import Options


class Aggregate(NamedTuple):
    """The outcome of a rule: the (D,) vector and, for rules that select rows, the (K,) indices of those it averaged."""

    vector_D: Tensor
    rows_K: Tensor | None = None


class Aggregator(Options):
    """An aggregation rule: (N, D) submissions, of which up to f may be Byzantine, to one (D,) vector.

    A rule is a pure function of its input: it neither modifies nor returns (a view of) it. A submission with a
    non-finite coordinate counts as infinitely far from every other; in coordinate-wise rules NaN sorts as +inf. With
    at most f such submissions the aggregate of a robust rule is finite.

    A rule of your own derives from this class (or from :class:`SelectingAggregator`), declares its options as pydantic
    fields and implements :meth:`aggregate`.
    """

    @abstractmethod
    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        """Aggregate the rows of `gradients_ND`, tolerating `f` Byzantine ones."""

    def __call__(self, gradients_ND: Tensor, f: int) -> Tensor:
        """The aggregate alone, (D,)."""
        return self.aggregate(gradients_ND, f).vector_D

    def check(self, n: int, f: int) -> str | None:
        """Why the rule cannot aggregate n submissions tolerating f ("needs ..., got ..."); None if it can."""
        return unmet(f >= 0, f"f >= 0, got f = {f}") or unmet(n >= 1, f"n >= 1, got n = {n}")

    def bound(self, n: int, f: int) -> float:
        """The variance-norm bound: the largest deviation / norm of the honest submissions under which the rule is
        proven to resist f Byzantine workers out of n; NaN where there is no such proof."""
        return math.nan

    def at_step(self, seed: int, step: int) -> "Aggregator":
        """The rule in force at a step; only a random mixture differs from one step to another."""
        return self


class SelectingAggregator(Aggregator):
    """A rule that returns the mean of some of the submissions: it implements :meth:`select`."""

    @abstractmethod
    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        """The (K,) int64 indices of the rows to average."""

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        rows_K = self.select(gradients_ND, f)
        return Aggregate(gradients_ND[rows_K].mean(dim=0), rows_K)


def unmet(holds: bool, requirement: str) -> str | None:
    """None if the requirement holds, else the message of a failed check."""
    return None if holds else f"needs {requirement}"
