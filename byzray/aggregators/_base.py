"""Base classes of aggregation rules.

Shapes in names: N submissions, D parameters, K selected rows.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from byzray.mistakes import BrokenContract
from byzray.options import Options
from byzray.state import State
from byzray.step import Stateful, Step
from byzray.submissions import Matrix, Submissions, uniform

# What a rule for byzray 0.1 may implement, which nothing calls any more.
RENAMED = {
    "select": "rows(submissions, f)",
    "select_by_distances": "rows(submissions, f), which asks for submissions.distances_NN()",
    "harm_along": "not needed",
}


class Aggregate:
    """The outcome of a rule.

    Args:
        vector: the vector (D,), or what forms it once it is read.
        rows_K: the indices (K,) of the submissions of which it is the mean, if it is one.
        weights_N: float64, what it holds of each submission, if it is a combination of them.

    Attributes:
        rows_K, given_weights_N: as given.
    """

    def __init__(
        self, vector: Tensor | Callable[[], Tensor], rows_K: Tensor | None = None, weights_N: Tensor | None = None
    ) -> None:
        self._vector = vector
        self.given_weights_N = weights_N
        self.rows_K = rows_K

    @cached_property
    def vector_D(self) -> Tensor:
        """The vector (D,)."""
        return self._vector() if callable(self._vector) else self._vector

    def weights_N(self, n: int) -> Tensor | None:
        """What it holds of each of the n submissions, (N,) float64; none where that is not known."""
        return self.given_weights_N if self.rows_K is None else uniform(self.rows_K, n)


class Aggregator(Stateful):
    """An aggregation rule: N submissions, of which up to f may be Byzantine, to one (D,) vector.

    A rule neither modifies nor returns (a view of) what it is given, and depends on that alone: what it carries from
    one step to the next is its state, and what it draws comes from the step. A submission with a non-finite coordinate
    counts as infinitely far from every other; in coordinate-wise rules NaN sorts as +inf. With at most f such
    submissions the aggregate of a robust rule is finite.

    A rule of your own derives from this class, from :class:`Selecting` or from :class:`Weighting`, declares its options
    as pydantic fields and implements the one method of that class; with a state, or random draws, :meth:`step` and
    :meth:`initial_state`.

    Attributes:
        computes_on_host: whether the rule reads values on the host, which waits for a GPU at every step.
    """

    computes_on_host: ClassVar[bool] = False

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        """The aggregate (D,), tolerating `f` Byzantine submissions."""
        raise NotImplementedError(f"{self.label()} cannot aggregate submissions alone: call step")

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        """The aggregate of a step and the state after it: tensors of the same names and shapes.

        Do not modify the state: a searched attack evaluates the aggregate of many submissions, and the
        states after those are dropped.
        """
        return Aggregate(self.aggregate(submissions, step.f)), state

    def __call__(self, rows_ND: Tensor, f: int) -> Tensor:
        """The aggregate (D,) of the rows of a matrix at the first step of a run."""
        step = Step(n=len(rows_ND), f=f).of(self)
        returned = self.step(Matrix(rows_ND), step, self.initial_state(step, rows_ND[0]))
        return checked(self, returned, Matrix(rows_ND))[0].vector_D

    @property
    def root_examples(self) -> int:
        """How many training examples the server keeps for itself, see :meth:`byzray.step.Step.root_submission`."""
        return 0

    def at_step(self, seed: int, step: int) -> "Aggregator":
        """The rule in force at a step; only a random mixture differs from one step to another."""
        return self

    def check(self, n: int, f: int) -> str | None:
        """Why the rule cannot aggregate n submissions tolerating f ("needs ...; got ..."); None if it can."""
        return unmet(f >= 0, f"f >= 0; got f = {f}") or unmet(n >= 1, f"n >= 1; got n = {n}")

    def bound(self, n: int, f: int) -> float:
        """The variance-norm bound: the largest deviation / norm of the honest submissions under which the rule is
        proven to resist f Byzantine workers out of n; NaN where there is no such proof."""
        return math.nan

    def kappa(self, n: int, f: int) -> float:
        """The robustness coefficient: for every n-f of the submissions, the squared distance of the aggregate to their
        mean is at most kappa times their mean squared distance to it; NaN where no such kappa is known.

        Reference: Y. Allouah, S. Farhadkhani, R. Guerraoui, N. Gupta, R. Pinot, J. Stephan. Fixing by Mixing: A Recipe
        for Optimal Byzantine ML under Heterogeneity. AISTATS 2023.
        """
        return math.nan

    @classmethod
    def outdated(cls) -> str | None:
        users = [base for base in cls.__mro__ if issubclass(base, Options) and not base.is_builtin()]
        own = {name for base in users for name in vars(base)}
        if own.isdisjoint(("aggregate", "rows", "weights", "step")):
            for name, now in RENAMED.items():
                if name in own:
                    return f"{name} is {now} since byzray 0.2, see docs/porting.md"
        return None

    @classmethod
    def lacking(cls) -> list[str]:
        whole = cls.aggregate is not Aggregator.aggregate or cls.step is not Aggregator.step
        return super().lacking() or ([] if whole else ["aggregate"])


class Selecting(Aggregator):
    """A rule that returns the mean of some of the submissions: it implements :meth:`rows`."""

    @abstractmethod
    def rows(self, submissions: Submissions, f: int) -> Tensor:
        """The indices (K,) int64 of the submissions to average, which are added up in this order."""

    def _mean(self, submissions: Submissions, rows_K: Tensor) -> Tensor:
        """The mean (D,) of the rows that were selected."""
        return submissions.mean_of(rows_K)

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return self._mean(submissions, rows_of(self, self.rows(submissions, f), submissions))

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        if type(self).aggregate is not Selecting.aggregate:  # of a user's class, which goes on from the mean
            return super().step(submissions, step, state)
        rows_K = rows_of(self, self.rows(submissions, step.f), submissions)
        return Aggregate(lambda: self._mean(submissions, rows_K), rows_K=rows_K), state


class Weighting(Aggregator):
    """A rule that returns a combination of the submissions: it implements :meth:`weights`."""

    @abstractmethod
    def weights(self, submissions: Submissions, f: int) -> Tensor:
        """The weights (N,), which need not sum to 1; submissions of weight 0 may be anything."""

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.combine(weights_of(self, self.weights(submissions, f), submissions))

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        if type(self).aggregate is not Weighting.aggregate:
            return super().step(submissions, step, state)
        weights_N = weights_of(self, self.weights(submissions, step.f), submissions)
        return Aggregate(lambda: submissions.combine(weights_N), weights_N=weights_N), state


def checked(rule: Aggregator, returned: object, submissions: Submissions) -> tuple[Aggregate, State]:
    """What the step of a rule returned for some submissions, where a bare vector will do for an :class:`Aggregate`; the
    vector of a user's own rule is formed.

    Raises:
        BrokenContract: it is something else than a vector and a state.
    """
    name = f"aggregator {rule.label()}"
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise BrokenContract(f"{name} returned {type(returned).__name__} from step, expected an aggregate and a state")
    found, state = returned
    aggregate = found if isinstance(found, Aggregate) else None
    if aggregate is not None and rule.is_builtin():
        return aggregate, state
    vector = found if aggregate is None else aggregate.vector_D
    if not isinstance(vector, Tensor):
        raise BrokenContract(f"{name} returned {type(vector).__name__}, expected a tensor (D,)")
    expected = tuple(submissions.rows_ND.shape[1:])
    if vector.shape != expected:
        raise BrokenContract(f"{name} returned shape {tuple(vector.shape)}, expected {expected}")
    if aggregate is None:
        return Aggregate(vector), state
    rows_K, weights_N = aggregate.rows_K, aggregate.given_weights_N
    return (
        Aggregate(
            vector,
            None if rows_K is None else rows_of(rule, rows_K, submissions),
            None if weights_N is None else weights_of(rule, weights_N, submissions),
        ),
        state,
    )


def rows_of(rule: Aggregator, found: object, submissions: Submissions) -> Tensor:
    """What a rule selected of some submissions as a tensor of indices, where they are.

    Raises:
        BrokenContract: it is something else than indices of rows.
    """
    if isinstance(found, list | tuple) and all(type(row) is int for row in found):
        found = torch.tensor(found, dtype=torch.int64)
    n = submissions.n
    if not isinstance(found, Tensor):
        what = type(found).__name__
    elif found.dtype not in (torch.int64, torch.int32):
        what = f"a tensor of {found.dtype}"
    elif found.dim() != 1 or not len(found):
        what = f"a tensor of shape {tuple(found.shape)}"
    elif rule.is_builtin() or found.is_cuda or 0 <= found.min() <= found.max() < n:  # a GPU would be waited for
        return found.long().to(submissions.device)
    else:
        what = f"indices from {found.min()} to {found.max()}"
    raise BrokenContract(
        f"aggregator {rule.label()} selected {what}, "
        f"expected a tensor (K,) of torch.int64 or a list, rows of 0..{n - 1}"
    )


def weights_of(rule: Aggregator, found: object, submissions: Submissions) -> Tensor:
    """The weights that a rule returned, (N,) float64.

    Raises:
        BrokenContract: they are something else than N real numbers.
    """
    if isinstance(found, list | tuple) and all(isinstance(weight, int | float) for weight in found):
        found = torch.tensor(found, dtype=torch.float64)
    if not isinstance(found, Tensor):
        what = type(found).__name__
    elif not found.is_floating_point():
        what = f"a tensor of {found.dtype}"
    elif found.shape != (submissions.n,):
        what = f"a tensor of shape {tuple(found.shape)}"
    else:
        return found.detach().double().to(submissions.device)
    raise BrokenContract(
        f"aggregator {rule.label()} returned {what} as weights, "
        f"expected {submissions.n} numbers, a tensor (N,) or a list"
    )


def unmet(holds: bool, requirement: str) -> str | None:
    """None if the requirement holds, else the message of a failed check."""
    return None if holds else f"needs {requirement}"
