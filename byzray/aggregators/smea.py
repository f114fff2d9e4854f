"""SMEA: the submissions that vary least in any direction.

Shapes in names: N submissions, K = N-f selected ones, C subsets.
"""

import math
from itertools import combinations, islice

import torch
from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.aggregators._spectral import finite_squares
from byzray.submissions import Submissions

MOST_SUBSETS = 1_000_000
AT_ONCE = 4096


class Smea(Selecting):
    """Mean of the n-f submissions whose covariance has the smallest largest eigenvalue.

    That is smallest maximum eigenvalue averaging; of equal subsets it takes the first in lexicographic order. All
    subsets are compared on the host, so that at most a million are allowed.

    Needs n >= 2f+1 and C(n, f) <= 1,000,000. No bound. kappa: 4f/(n-2f).

    Reference: Y. Allouah, R. Guerraoui, N. Gupta, R. Pinot, J. Stephan. On the Privacy-Robustness-Utility Trilemma in
    Distributed Learning. ICML 2023.
    """

    computes_on_host = True

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        distances_NN = submissions.distances_NN().cpu()
        finite = (~submissions.norms_N().isinf()).cpu().nonzero()[:, 0]
        size = submissions.n - f
        if len(finite) < size:  # more are not finite than are tolerated
            return torch.arange(size, device=submissions.device)
        squares_NN = finite_squares(distances_NN)
        best, least = finite[:size], math.inf
        subsets = combinations(finite.tolist(), size)
        while chunk := list(islice(subsets, AT_ONCE)):
            subsets_CK = torch.tensor(chunk)
            squares_CKK = squares_NN[subsets_CK[:, :, None], subsets_CK[:, None, :]]
            means_CK = squares_CKK.mean(dim=2)
            all_C = means_CK.mean(dim=1)
            # Twice the inner products of each subset, less its mean.
            centred_CKK = means_CK[:, :, None] + means_CK[:, None, :] - squares_CKK - all_C[:, None, None]
            largest_C = torch.linalg.eigvalsh(centred_CKK)[:, -1]
            first = int(largest_C.argmin())
            if largest_C[first] < least:
                best, least = subsets_CK[first], float(largest_C[first])
        return best.to(submissions.device)

    def check(self, n: int, f: int) -> str | None:
        return (
            super().check(n, f)
            or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
            or unmet(
                math.comb(n, f) <= MOST_SUBSETS,
                f"at most {MOST_SUBSETS:,} subsets; got C(n, f) = {math.comb(n, f):,} with n = {n}, f = {f}",
            )
        )

    def kappa(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 4 * f / (n - 2 * f)
