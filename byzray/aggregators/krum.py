"""Krum: the submission with the nearest neighbours."""

import math

from byzray.aggregators._scoring import Scoring


class Krum(Scoring):
    """The submission with the lowest Krum score: Multi-Krum with m = 1.

    Needs n >= 2f+3. Bound: as Multi-Krum. kappa: 6 (1 + f/(n-2f)) with `squared` distances.

    Reference: P. Blanchard, E.-M. El-Mhamdi, R. Guerraoui, J. Stainer. Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent. NeurIPS 2017.
    """

    def selected(self, n: int, f: int) -> int:
        return 1

    def kappa(self, n: int, f: int) -> float:
        proven = self.squared and not self.check(n, f)
        return 6 * (1 + f / (n - 2 * f)) if proven else math.nan
