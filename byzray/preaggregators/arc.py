"""ARC: adaptive robust clipping.

Shapes in names: N submissions.
"""

from torch import Tensor

from byzray.preaggregators._scaling import Scaling


class Arc(Scaling):
    """The k = floor(2f(n-f)/n) longest submissions are shrunk to the norm of the next: adaptive robust clipping.

    That norm is at most the largest honest one. With f = 0 nothing changes.

    Needs n >= 2f+1. kappa: that of what follows, plus 2f/(n-2f).

    Reference: Y. Allouah, R. Guerraoui, N. Gupta, A. Jellouli, G. Rizk, J. Stephan. Adaptive Gradient Clipping for
    Robust Federated Learning. ICLR 2025.
    """

    def largest(self, norms_N: Tensor, f: int) -> Tensor | float:
        n = len(norms_N)
        return norms_N.sort(descending=True).values[2 * f * (n - f) // n]

    def check(self, n: int, f: int) -> str | None:
        return None if n >= 2 * f + 1 else f"needs n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}"

    def kappa(self, kappa: float, n: int, f: int) -> float:
        return kappa + 2 * f / (n - 2 * f)
