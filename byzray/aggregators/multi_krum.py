"""Multi-Krum: the mean of the submissions with the nearest neighbours."""

from typing import Annotated

from pydantic import Field

from byzray.aggregators._scoring import Scoring


class MultiKrum(Scoring):
    """Mean of the m submissions with the lowest Krum scores, ties to the lowest index.

    The score of a submission is the sum of its distances to its n-f-1 nearest others. That, and m = n-f-2, is what the
    code published with El-Mhamdi et al. computes; Krum's own paper scores with `squared` distances to the n-f-2 nearest
    `neighbours`.

    Needs n >= 2f+3 and 1 <= m <= n-f-2 (the default m). Bound: 1 / sqrt(2 (n-f + f (n + f (n-f-2) - 2) / (n-2f-2))).

    Reference: P. Blanchard, E.-M. El-Mhamdi, R. Guerraoui, J. Stainer. Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent. NeurIPS 2017.
    """

    m: Annotated[int, Field(ge=1)] | None = None

    def selected(self, n: int, f: int) -> int:
        return n - f - 2 if self.m is None else self.m
