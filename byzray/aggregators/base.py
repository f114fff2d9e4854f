"""What every aggregation rule is.

Shapes in names: N submissions, D parameters, K selected rows.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from byzray.aggregators.distances import distances
from byzray.aggregators.line import Line
from byzray.aggregators.order import mean
from byzray.mistakes import BrokenContract
from byzray.options import Options

BLOCK = 65_536
"""Coordinates averaged at once on a CPU, so that their sums stay in its cache."""


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

    Attributes:
        computes_on_host: whether the rule looks at values on the host, which waits for a GPU at every step.
    """

    computes_on_host: ClassVar[bool] = False

    @abstractmethod
    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        """Aggregate the rows of `gradients_ND`, tolerating `f` Byzantine ones."""

    def __call__(self, gradients_ND: Tensor, f: int) -> Tensor:
        """The aggregate alone, (D,).

        Raises:
            BrokenContract: the rule returns something else.
        """
        aggregate = self.aggregate(gradients_ND, f)
        check_aggregate(self, aggregate, gradients_ND)
        return aggregate.vector_D

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        """What a searched attack maximises: a function from x to the harm of the aggregate there, its squared distance
        to the honest mean.

        Both are float64 tensors without dimensions, on the device of the submissions. On a GPU the harm should be
        computed without waiting for any value. A rule overrides this where it can tell sooner than by aggregating.
        """
        return lambda x: line.harm(self(line.submissions(x), f))

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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A shorter way to the harm does not pass on to a derived rule that aggregates in another way.
        ways = {"harm_along", "__call__", "aggregate", "select"}
        nearest = next(base for base in cls.__mro__ if not ways.isdisjoint(vars(base)))
        if "harm_along" not in vars(nearest):
            cls.harm_along = Aggregator.harm_along  # type: ignore[method-assign]


class SelectingAggregator(Aggregator):
    """A rule that returns the mean of some of the submissions: it implements :meth:`select`."""

    @abstractmethod
    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        """The (K,) int64 indices of the rows to average."""

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        rows_K = self.select(gradients_ND, f)
        check_rows(self, rows_K, len(gradients_ND))
        return Aggregate(mean_of_rows(gradients_ND, rows_K), rows_K)


class DistanceSelectingAggregator(SelectingAggregator):
    """A selecting rule to which the distances between the submissions are enough."""

    @abstractmethod
    def select_by_distances(self, distances_NN: Tensor, f: int) -> Tensor:
        """The (K,) int64 indices of the rows to average."""

    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        return self.select_by_distances(distances(gradients_ND), f)

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        return lambda x: line.harm_of_mean(self.select_by_distances(line.distances(x), f), x)


def check_aggregate(rule: Aggregator, aggregate: object, gradients_ND: Tensor) -> None:
    """Check what a rule returned for some submissions.

    Raises:
        BrokenContract: it is something else than a vector, with the rows that were selected if any were.
    """
    name, expected = f"aggregator {rule.label()}", tuple(gradients_ND.shape[1:])
    if not isinstance(aggregate, Aggregate):
        raise BrokenContract(f"{name} returned {type(aggregate).__name__}, expected Aggregate(vector_D)")
    if not isinstance(aggregate.vector_D, Tensor):
        found = type(aggregate.vector_D).__name__
        raise BrokenContract(f"{name} returned Aggregate of {found}, expected of a tensor of shape {expected}")
    if aggregate.vector_D.shape != expected:
        raise BrokenContract(f"{name} returned shape {tuple(aggregate.vector_D.shape)}, expected {expected}")
    if aggregate.rows_K is not None:
        check_rows(rule, aggregate.rows_K, len(gradients_ND))


def check_rows(rule: Aggregator, rows_K: object, n: int) -> None:
    """Check what a rule selected of n rows.

    Raises:
        BrokenContract: it is something else than indices of rows.
    """
    if not isinstance(rows_K, Tensor):
        found = type(rows_K).__name__
    elif rows_K.dtype not in (torch.int64, torch.int32):
        found = f"a tensor of {rows_K.dtype}"
    elif rows_K.dim() != 1 or not len(rows_K):
        found = f"a tensor of shape {tuple(rows_K.shape)}"
    elif rule.is_builtin() or rows_K.is_cuda or 0 <= rows_K.min() <= rows_K.max() < n:  # a GPU would be waited for
        return
    else:
        found = f"indices from {rows_K.min()} to {rows_K.max()}"
    raise BrokenContract(
        f"aggregator {rule.label()} selected {found}, expected a tensor (K,) of torch.int64, rows of 0..{n - 1}"
    )


def mean_of_rows(gradients_ND: Tensor, rows_K: Tensor) -> Tensor:
    """The mean (D,) of some rows, given by their indices."""
    if gradients_ND.is_cuda or gradients_ND.dtype not in (torch.float32, torch.float64):
        return mean(gradients_ND.index_select(0, rows_K), dim=0)
    # On a CPU the indices can be looked at, and the rows need not be copied.
    first, *others = rows_K.tolist()
    mean_D = gradients_ND[first].detach().clone()
    for block_NB, mean_B in zip(gradients_ND.detach().split(BLOCK, dim=1), mean_D.split(BLOCK), strict=True):
        for row in others:
            mean_B.add_(block_NB[row])
    mean_D.div_(len(rows_K))
    return mean_D if mean_D.sum().isfinite() else mean(gradients_ND.detach().index_select(0, rows_K), dim=0)


def unmet(holds: bool, requirement: str) -> str | None:
    """None if the requirement holds, else the message of a failed check."""
    return None if holds else f"needs {requirement}"
