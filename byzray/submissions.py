"""What rules ask of N submissions, in three forms: a matrix, honest rows and a point on a line, mixtures of others.

Distances, norms and order statistics are computed at the first need, and where the form allows it without forming the
rows.

Shapes in names: N submissions, U without repetitions of the last, D parameters, K selected rows or ranks, M mixed
submissions, P = N+1 points: the submissions and the origin.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from byzray.distances import FURTHEST, distances, distances_from, finite_rows, norms, norms_as_published
from byzray.line import Line
from byzray.order_statistics import (
    mean,
    mean_around,
    mean_around_ranks,
    mean_of_ranks,
    mean_of_rows,
    order_statistics,
)
from byzray.parallel import compiled, over_ranges

SPARSE = 1 / 8
"""Up to this share of weights that are not 0, adding up rows is faster than a product of matrices."""

WEIGHTS_AT_ONCE = 2**22
"""So many weights are compared at once."""

COMPARED = 2**28
"""Up to so many products, distances of mixtures follow from those of what is mixed; beyond, their rows are formed."""


class Submissions(ABC):
    """N submissions of D coordinates, not to be modified.

    One with a coordinate that is not finite is infinitely far from all others, and its norm is infinite.

    Attributes:
        n: N.
        device: where they are.
        rows_ND: the matrix; what it costs to form it depends on the form.
    """

    n: int
    device: torch.device

    @property
    @abstractmethod
    def rows_ND(self) -> Tensor: ...

    @abstractmethod
    def distances_NN(self) -> Tensor:
        """The Euclidean distances, float64, see :func:`byzray.distances.distances`."""

    def distances_from(self, row: int) -> Tensor:
        """The distances (N,) from one of them."""
        return self.distances_NN()[row]

    @abstractmethod
    def norms_N(self) -> Tensor:
        """The Euclidean norms, float64, see :func:`byzray.distances.norms`."""

    def published_norms_N(self) -> Tensor:
        """The norms, of a matrix as the published code rounds them: see :func:`byzray.distances.norms_as_published`."""
        return self.norms_N()

    @property
    def distinct_UD(self) -> Tensor:
        """The rows, where the last one need not be repeated if it is submitted several times."""
        return self.rows_ND

    def ranks_DK(self, first: int, count: int) -> Tensor:
        """The values of the ranks first, ..., first+count-1 of every coordinate, see
        :func:`byzray.order_statistics.order_statistics`."""
        return order_statistics(self.distinct_UD, first, count, self.n - len(self.distinct_UD) + 1)

    def mean_of_ranks(self, first: int, count: int) -> Tensor:
        """The mean (D,) of the values of the ranks first, ..., first+count-1 of every coordinate."""
        return mean(self.ranks_DK(first, count), dim=1)

    def mean_around(self, first: int, count: int, keep: int) -> Tensor:
        """The mean (D,) of the `keep` values of every coordinate that are nearest to the mean over the ranks first,
        ..., first+count-1; a tie keeps the lower value."""
        return mean_around_ranks(self.ranks_DK(0, self.n), first, count, keep)

    def mean_of(self, rows_K: Tensor) -> Tensor:
        """The mean (D,) of some rows, added up in the order of their indices (K,)."""
        return mean_of_rows(self.rows_ND, rows_K)

    def mean_of_all(self) -> Tensor:
        """The mean (D,) of all."""
        return self.rows_ND.mean(dim=0)

    def combine(self, weights_N: Tensor) -> Tensor:
        """The sum (D,) of the rows times their weights, which need not sum to 1. Rows of weight 0 are not read: they
        may be NaN."""
        return combined(weights_N[None], self.rows_ND)[0]

    def columns(self, positions_K: Tensor) -> "Submissions":
        """The submissions with some of their coordinates only, given by their positions (K,)."""
        return Matrix(self.rows_ND.index_select(1, positions_K))


class Matrix(Submissions):
    """Submissions that lie in a matrix (N, D).

    Args:
        matrix_ND: the matrix.
        distinct: how many of its rows are written; those below are equal to the last of these, and are written at the
            first need. By default all.
    """

    def __init__(self, matrix_ND: Tensor, distinct: int | None = None) -> None:
        self.n, self.device = len(matrix_ND), matrix_ND.device
        self._matrix_ND = matrix_ND
        self._distinct_UD = matrix_ND if distinct is None else matrix_ND[:distinct]
        self._times = self.n - len(self._distinct_UD) + 1

    @cached_property
    def rows_ND(self) -> Tensor:
        if self._times > 1:  # by .data, as for PyTorch the submissions do not change by it
            self._matrix_ND.data[len(self._distinct_UD) :] = self._distinct_UD[-1]
        return self._matrix_ND

    @property
    def distinct_UD(self) -> Tensor:
        return self._distinct_UD

    def mean_of_ranks(self, first: int, count: int) -> Tensor:
        return mean_of_ranks(self._distinct_UD, first, count, self._times)

    def mean_around(self, first: int, count: int, keep: int) -> Tensor:
        return mean_around(self._distinct_UD, first, count, keep, self._times)

    def mean_of(self, rows_K: Tensor) -> Tensor:
        return mean_of_rows(self._distinct_UD, self._rows_N[rows_K])  # an IndexError for others than these

    @cached_property
    def _distances_NN(self) -> Tensor:
        distances_UU = distances(self._distinct_UD)
        if self._times == 1:
            return distances_UU
        distances_NN = distances_UU[self._rows_N][:, self._rows_N]
        if not finite_rows(self._distinct_UD[-1:]).all():  # then equal ones are infinitely far apart, too
            last = len(self._distinct_UD) - 1
            distances_NN[last:, last:].fill_(math.inf).fill_diagonal_(0)
        return distances_NN

    def distances_NN(self) -> Tensor:
        return self._distances_NN

    def distances_from(self, row: int) -> Tensor:
        if "_distances_NN" in self.__dict__ or row >= len(self._distinct_UD):
            return self._distances_NN[row]
        return distances_from(self._distinct_UD, row)[self._rows_N]

    @cached_property
    def _norms_N(self) -> Tensor:
        norms_U = norms(self._distinct_UD)
        return norms_U if self._times == 1 else norms_U[self._rows_N]

    def norms_N(self) -> Tensor:
        return self._norms_N

    def published_norms_N(self) -> Tensor:
        return norms_as_published(self._distinct_UD)[self._rows_N]

    @property
    def _rows_N(self) -> Tensor:
        """Where each submission lies among the distinct ones."""
        return torch.arange(self.n, device=self.device).clamp(max=len(self._distinct_UD) - 1)


class OnLine(Submissions):
    """Honest submissions, and Byzantine ones at the point x of a line: distances and norms cost O(N^2), order
    statistics no sort. Its rows are overwritten by those at the next point."""

    def __init__(self, line: Line, x: Tensor) -> None:
        self.n, self.device = line.n, x.device
        self.line = line
        self.x = x

    @cached_property
    def rows_ND(self) -> Tensor:
        return self.line.submissions(self.x)

    def distances_NN(self) -> Tensor:
        return self.line.distances(self.x)

    def norms_N(self) -> Tensor:
        return self.line.norms(self.x)

    def ranks_DK(self, first: int, count: int) -> Tensor:
        return self.line.ranks(first, count, self.x)


class Mixed(Submissions):
    """M submissions that are combinations of N others: W x.

    Rows of W need not sum to 1; the rest is the weight of the origin. A submission in which one that is not finite has
    a weight is NaN in every coordinate. Distances and norms follow from those of the others and cost nothing in D:
    for rows w, w' of W that sum to 1, ||wx - w'x||^2 = -1/2 (w - w') D2 (w - w'), where D2 are the squared distances
    of all x and the origin.

    Args:
        weights_MN: W, float64.
        others: x.
    """

    def __init__(self, weights_MN: Tensor, others: Submissions) -> None:
        self.n, self.device = len(weights_MN), weights_MN.device
        self.weights_MN: Tensor = weights_MN @ others.weights_MN if isinstance(others, Mixed) else weights_MN
        self.others: Submissions = others.others if isinstance(others, Mixed) else others

    @cached_property
    def rows_ND(self) -> Tensor:
        distinct_UD, weights_MU = self.others.distinct_UD, self.weights_MN
        if (last := len(distinct_UD) - 1) < self.others.n - 1:  # the last one stands for all that equal it
            if (weights_MU < 0).any():  # weights that add up to 0 would hide what is not finite
                distinct_UD = self.others.rows_ND
            else:
                weights_MU = torch.cat((weights_MU[:, :last], weights_MU[:, last:].sum(dim=1, keepdim=True)), dim=1)
        if distinct_UD.is_cuda:
            return combined(weights_MU, distinct_UD).index_select(0, self._first_M)
        again_K = (self._first_M != torch.arange(self.n)).nonzero()[:, 0]
        # Those that are copied get no weights: where few are left, only the rows that have some are read.
        rows_MD = combined(weights_MU.index_fill(0, again_K, 0), distinct_UD)
        return rows_MD.index_copy_(0, again_K, rows_MD.index_select(0, self._first_M[again_K]))

    def combine(self, weights_N: Tensor) -> Tensor:
        return self.others.combine(self.of_others(weights_N))

    def mean_of(self, rows_K: Tensor) -> Tensor:
        return self.combine(uniform(rows_K, self.n))

    def mean_of_all(self) -> Tensor:
        return self.combine(torch.full((self.n,), 1 / self.n, dtype=torch.float64, device=self.device))

    def of_others(self, weights_M: Tensor) -> Tensor:
        """What weights (M,) of these submissions are as weights (N,) of the others."""
        used_MN = torch.where(weights_M[:, None] != 0, self.weights_MN, 0)
        return weights_M.to(used_MN.dtype) @ used_MN

    def columns(self, positions_K: Tensor) -> Submissions:
        return Mixed(self.weights_MN, self.others.columns(positions_K))

    def distances_NN(self) -> Tensor:
        return self._distances_MM

    @cached_property
    def _distances_MM(self) -> Tensor:
        if self.n**2 * (self.others.n + 1) ** 2 > COMPARED:
            return distances(self.rows_ND)
        weights_MP = torch.cat((self.weights_MN, 1 - self.weights_MN.sum(dim=1, keepdim=True)), dim=1)
        first, second = torch.triu_indices(self.n, self.n, offset=1, device=weights_MP.device)
        lengths = self._lengths(weights_MP.index_select(0, first) - weights_MP.index_select(0, second))
        distances_MM = lengths.new_zeros(self.n, self.n)
        distances_MM[first, second] = distances_MM[second, first] = lengths
        distances_MM = distances_MM.index_select(0, self._first_M).index_select(1, self._first_M)
        either_MM = self._unsound_M[:, None] | self._unsound_M
        return distances_MM.masked_fill(either_MM, math.inf).fill_diagonal_(0)

    def norms_N(self) -> Tensor:
        return self._norms_M

    @cached_property
    def _norms_M(self) -> Tensor:
        weights_MP = torch.cat((self.weights_MN, -self.weights_MN.sum(dim=1, keepdim=True)), dim=1)
        return self._lengths(weights_MP).index_select(0, self._first_M).masked_fill(self._unsound_M, math.inf)

    def _lengths(self, weights: Tensor) -> Tensor:
        """The lengths of combinations whose weights, that of the origin last, sum to 0: (count, P) -> (count,)."""
        squares = -0.5 * ((weights @ self._squares_PP) * weights).sum(dim=1)
        return squares.clamp(min=0).sqrt().clamp(max=FURTHEST)

    @cached_property
    def _squares_PP(self) -> Tensor:
        """The squared distances between the others and the origin; 0 where one is not finite."""
        norms_N = self.others.norms_N()
        distances_PP = torch.zeros(len(norms_N) + 1, len(norms_N) + 1, dtype=torch.float64, device=norms_N.device)
        distances_PP[:-1, :-1] = self.others.distances_NN()
        distances_PP[-1, :-1] = distances_PP[:-1, -1] = norms_N
        return distances_PP.masked_fill(distances_PP.isinf(), 0).square()

    @cached_property
    def _unsound_M(self) -> Tensor:
        """In which submissions one that is not finite has a weight, or a weight is not finite, (M,) bool."""
        unsound_MN = (torch.where(self.others.norms_N().isinf(), self.weights_MN, 0) != 0) | ~self.weights_MN.isfinite()
        return unsound_MN.any(dim=1)

    @cached_property
    def _first_M(self) -> Tensor:
        """For each submission the first of the same weights, (M,): they are equal to the bit, which a product of
        matrices does not promise."""
        at_once = max(1, WEIGHTS_AT_ONCE // max(1, self.weights_MN.numel()))
        parts = [(self.weights_MN == weights_K1N).all(dim=2) for weights_K1N in self.weights_MN[:, None].split(at_once)]
        same_MM = torch.cat(parts)
        return same_MM.fill_diagonal_(True).int().argmax(dim=1)  # NaN is not equal to itself


def combined(weights_MN: Tensor, rows_ND: Tensor) -> Tensor:
    """Combinations (M, D) of rows; NaN in every coordinate where a row that is not finite has a weight. Rows without
    any weight are not read."""
    rows_ND = rows_ND.detach()
    weights_MN = weights_MN.to(rows_ND.dtype)
    used_N = (weights_MN != 0).any(dim=0)
    if not rows_ND.is_cuda:  # where to look is not to wait
        if weights_MN.count_nonzero() <= SPARSE * weights_MN.numel() and compiled(rows_ND):
            product_MD, finite = _combined_sparsely(weights_MN, rows_ND)
        else:
            if not used_N.all():
                weights_MN, rows_ND = weights_MN[:, used_N], rows_ND[used_N]
            product_MD = weights_MN @ rows_ND
            finite = bool(product_MD.sum().isfinite())
        if finite:
            return product_MD
    else:
        rows_ND = torch.where(used_N[:, None], rows_ND, 0)
    finite_N = finite_rows(rows_ND)
    product_MD = weights_MN @ torch.where(finite_N[:, None], rows_ND, 0)
    unsound_M = (torch.where(finite_N, 0, weights_MN) != 0).any(dim=1)
    return product_MD.masked_fill_(unsound_M[:, None], math.nan)


def _combined_sparsely(weights_MN: Tensor, rows_ND: Tensor) -> tuple[Tensor, bool]:
    """The combinations, of few rows each, and whether all of them are finite for sure."""
    from byzray import kernels  # here, as it loads a compiler

    product_MD = rows_ND.new_empty(len(weights_MN), rows_ND.shape[1])
    rows, weights, product = (one.contiguous().numpy() for one in (rows_ND, weights_MN, product_MD))
    finite: list[bool] = []
    over_ranges(
        rows_ND.shape[1],
        kernels.TILE,
        lambda begin, end: finite.append(kernels.combinations(rows, weights, product, begin, end)),
    )
    return product_MD, all(finite)


def uniform(rows_K: Tensor, n: int) -> Tensor:
    """The weights (N,), float64, of the mean of some rows; a row that is selected again counts again."""
    shares_K = torch.full((len(rows_K),), 1 / len(rows_K), dtype=torch.float64, device=rows_K.device)
    return torch.zeros(n, dtype=torch.float64, device=rows_K.device).index_add(0, rows_K, shares_K)
