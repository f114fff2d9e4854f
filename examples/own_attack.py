"""An attack of your own, in one file: own.yaml names it `own_attack:SignFlip`."""

from pydantic import PositiveFloat
from torch import Tensor

from byzray.aggregators import Aggregator
from byzray.attacks import Attack


class SignFlip(Attack):
    """Each Byzantine worker sends the negative of one honest submission, scaled."""

    scale: PositiveFloat = 1.0

    def __call__(self, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:
        return -self.scale * honest_HD[:byzantine]

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        return None if byzantine <= honest else f"needs byzantine <= honest, got {byzantine} > {honest}"
