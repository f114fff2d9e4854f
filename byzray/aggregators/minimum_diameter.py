"""Minimum-diameter averaging: the tightest subset, found without enumerating the subsets.

Shapes in names: N submissions, D parameters, K = N-f selected ones.
"""

import math
from bisect import bisect_left

import torch
from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.submissions import Submissions


class MinimumDiameter(Selecting):
    """Mean of the n-f submissions of least diameter (largest distance between two of them), known as MDA and "brute".

    Of several such subsets, the first in lexicographic order of its indices. The search is exact. Its time grows
    exponentially with f alone, and little in practice. It runs on the host, which waits for the distances.

    Needs n >= 2f+1. Bound: (n-f) / (sqrt(8) f).

    Reference: E.-M. El-Mhamdi, R. Guerraoui, A. Guirguis, L. N. Hoang, S. Rouault. Genuinely Distributed Byzantine
    Machine Learning. PODC 2020.
    """

    computes_on_host = True

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        rows = tightest_subset(submissions.distances_NN().tolist(), submissions.n - f)
        return torch.tensor(rows, device=submissions.device)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")

    def bound(self, n: int, f: int) -> float:
        if self.check(n, f):
            return math.nan
        return (n - f) / (math.sqrt(8) * f) if f else math.inf


def tightest_subset(distances_NN: list[list[float]], size: int) -> list[int]:
    """The lexicographically first of the subsets of `size` rows that have the least diameter."""
    n = len(distances_NN)
    diameters = sorted({distance for row in distances_NN for distance in row})
    # Feasibility grows with the diameter allowed. The largest distance allows everything.
    best = bisect_left(
        diameters,
        True,
        hi=len(diameters) - 1,
        key=lambda d: has_subset(_far_apart(distances_NN, d), (1 << n) - 1, size),
    )
    far = _far_apart(distances_NN, diameters[best])
    chosen: list[int] = []
    candidates = (1 << n) - 1
    for row in range(n):
        if len(chosen) == size:
            break
        if not candidates >> row & 1:
            continue
        candidates &= ~(1 << row)
        if has_subset(far, candidates & ~far[row], size - len(chosen) - 1):
            chosen.append(row)
            candidates &= ~far[row]
    return chosen


def _far_apart(distances_NN: list[list[float]], diameter: float) -> list[int]:
    """For every row, the set (as the bits of an integer) of the rows further from it than the diameter."""
    return [sum(1 << j for j, distance in enumerate(row) if distance > diameter) for row in distances_NN]


def has_subset(far: list[int], rows: int, size: int) -> bool:
    """Whether `size` of the rows (a set of bits) are pairwise not far apart.

    Equivalently, whether few enough rows can leave so that no two that stay are far apart: a vertex cover of the graph
    of far pairs, the textbook case of a search whose exponent is the number of rows that leave, not of all rows.
    """
    spare = rows.bit_count() - size
    while True:
        if spare < 0:
            return False
        neighbours = {row: far[row] & rows for row in _members(rows)}
        degrees = {row: others.bit_count() for row, others in neighbours.items() if others}
        if not degrees:
            return True
        row = max(degrees, key=degrees.__getitem__)
        degree = degrees[row]
        if sum(degrees.values()) > 2 * spare * degree:
            return False  # even `spare` rows of the largest degree would not cover all far pairs
        pendant = next((other for other in degrees if degrees[other] == 1), None)
        if pendant is not None:
            rows, spare = rows & ~neighbours[pendant], spare - 1  # never worse than letting the pendant row leave
        elif degree > spare or degree == 2:
            # Its far rows are too many to leave in its place, or only cycles are left, where any row may leave first.
            rows, spare = rows & ~(1 << row), spare - 1
        elif has_subset(far, rows & ~(1 << row), size):
            return True
        else:
            rows, spare = rows & ~neighbours[row], spare - degree


def _members(rows: int) -> list[int]:
    return [row for row in range(rows.bit_length()) if rows >> row & 1]
