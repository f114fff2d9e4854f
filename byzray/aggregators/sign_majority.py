"""Signs by majority.

Shapes in names: N submissions, D parameters.
"""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor

from byzray.aggregators._base import Aggregator, unmet
from byzray.submissions import Submissions


class SignMajority(Aggregator):
    """`scale` times the sign that most submissions have, coordinate by coordinate: signSGD with majority vote.

    0 and NaN vote for neither. The norm is scale sqrt(d), whatever the submissions: rates are as small as 1e-4. With
    momentum at the workers it is signum.

    Needs n >= 2f+1. No bound and no kappa: near an optimum the steps stay as long.

    Reference: J. Bernstein, J. Zhao, K. Azizzadenesheli, A. Anandkumar. signSGD with Majority Vote is Communication
    Efficient and Fault Tolerant. ICLR 2019.
    """

    scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        votes_ND = submissions.rows_ND.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0).sign()
        return self.scale * votes_ND.sum(dim=0).sign()

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
