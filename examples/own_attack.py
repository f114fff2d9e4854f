"""An attack of your own with a state and random draws: own.yaml names it `own_attack:SignSwitch`."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from byzray.attacks import Attack, View
from byzray.state import State
from byzray.step import Step


class SignSwitch(Attack):
    """All Byzantine workers send the honest mean times -scale or +scale; at random steps the sign switches.

    A rule that remembers earlier steps has learned the old sign.
    """

    scale: PositiveFloat = 1.0
    chance: Annotated[float, Field(ge=0, le=1)] = 0.1

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"sign": -torch.ones((), device=like_D.device)}

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        switches = view.step.generator("switch").random() < self.chance  # the same in a run that is continued
        sign = -state["sign"] if switches else state["sign"]
        return (sign * self.scale * honest_HD.mean(dim=0)).expand(view.byzantine, -1), {"sign": sign}
