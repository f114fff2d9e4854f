"""Clipping at a norm.

Shapes in names: N submissions.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor

from byzray.preaggregators._scaling import Scaling


class Clipping(Scaling):
    """Submissions longer than `limit` are shrunk to it; `median` is the lower median of the norms.

    With `average` after it this is norm bounding. No fixed limit leaves a rule its kappa, and most use one
    nevertheless; the median norm is at most an honest one if n >= 2f+1. Workers' own `clip` is another thing: only
    honest ones obey it.

    Reference: Y. Allouah, R. Guerraoui, N. Gupta, A. Jellouli, G. Rizk, J. Stephan. Adaptive Gradient Clipping for
    Robust Federated Learning. ICLR 2025.
    """

    limit: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | Literal["median"] = 2.0

    def largest(self, norms_N: Tensor, f: int) -> Tensor | float:
        if self.limit != "median":
            return self.limit
        return norms_N.sort().values[(len(norms_N) - 1) // 2]
