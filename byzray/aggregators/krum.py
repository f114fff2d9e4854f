"""Krum: the submission with the nearest neighbours."""

from byzray.aggregators._scoring import Scoring


class Krum(Scoring):
    """The submission with the lowest Krum score: Multi-Krum with m = 1.

    Needs n >= 2f+3. Bound: as Multi-Krum.

    Reference: P. Blanchard, E.-M. El-Mhamdi, R. Guerraoui, J. Stainer. Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent. NeurIPS 2017.
    """

    def selected(self, n: int, f: int) -> int:
        return 1
