"""Sign flipping.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor

from byzray.attacks._base import Attack, View


class SignFlipping(Attack):
    """The mean of the honest submissions, negated and times `scale`: `empire-strict` under the name users look for."""

    scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return (-self.scale * view.mean(honest_HD)).expand(view.byzantine, -1)
