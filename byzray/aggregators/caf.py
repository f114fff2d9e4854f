"""CAF: the covariance-bound agnostic filter.

Shapes in names: N submissions.
"""

import math

import torch
from torch import Tensor

from byzray.aggregators._base import Weighting, unmet
from byzray.aggregators._spectral import centred_gram, finite_squares
from byzray.submissions import Submissions


class Caf(Weighting):
    """A weighted mean, as submissions lose weight along the directions in which they differ most.

    The covariance-bound agnostic filter: weights c begin as 1. While they sum to more than n-2f, and once at least: mu
    is the weighted mean, (lambda, v) the top eigenpair of the weighted covariance; if lambda is the smallest so far, mu
    is remembered; then c_i loses the share tau_i / max tau, where tau_i = <x_i - mu, v>^2. Each round takes all weight
    of one submission. The rounds run on the host.

    Needs n >= 2f+1. No bound; a kappa of the order of f/n is proven, without its constant.

    Reference: Y. Allouah, R. Guerraoui, J. Stephan. Towards Trustworthy Federated Learning with Untrusted Participants.
    ICML 2025.
    """

    computes_on_host = True

    def weights(self, submissions: Submissions, f: int) -> Tensor:
        squares_NN = finite_squares(submissions.distances_NN().cpu())
        c_N = (~submissions.norms_N().isinf()).cpu().double()
        best_N, least = c_N / c_N.sum().clamp(min=1), math.inf
        while c_N.any():  # none is finite in a run that diverged
            weights_N = c_N / c_N.sum()
            gram_NN = centred_gram(squares_NN, weights_N)
            roots_N = weights_N.sqrt()
            values_N, vectors_NN = torch.linalg.eigh(roots_N[:, None] * gram_NN * roots_N)
            if values_N[-1] < least:
                best_N, least = weights_N, float(values_N[-1])
            # Products with v, but for a common factor.
            tau_N = torch.where(c_N > 0, (gram_NN @ (roots_N * vectors_NN[:, -1])).square(), 0)
            if not tau_N.max() > 0:
                break
            c_N = c_N * (1 - tau_N / tau_N.max())
            if c_N.sum() <= submissions.n - 2 * f:
                break
        return best_N.to(submissions.device)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
