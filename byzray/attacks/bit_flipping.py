"""Bit flipping.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor

from byzray.attacks._base import Attack, View


class BitFlipping(Attack):
    """Each Byzantine worker runs the honest code and sends what it computed, negated and times `scale`.

    It sees nothing of the others. Known as sign flipping, too.
    """

    trains = True

    scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        assert view.own_FD is not None
        return -self.scale * view.own_FD
