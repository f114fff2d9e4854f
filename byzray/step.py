"""What everybody may know at a step: the rule, the pre-aggregators and the adversary."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from byzray import randomness
from byzray.options import Options
from byzray.state import State


@dataclass(frozen=True)
class Step:
    """A step of a run.

    How many workers attack is not here: it is known to the adversary alone.

    Attributes:
        seed: the seed of the run.
        number: the number of the step, from 0.
        n: how many submissions come.
        f: the number of Byzantine submissions to tolerate.
        rate: the learning rate.
        theta_D: the parameters before the update, not to be modified; none outside of a run.
        root_D: what a worker at the server submits, if the defence asks for one.
        prefix: what the purposes of random draws begin with: nothing for byzray's own classes.
    """

    seed: int = 0
    number: int = 0
    n: int = 1
    f: int = 0
    rate: float = math.nan
    theta_D: Tensor | None = None
    root_D: Tensor | None = None
    prefix: str = ""

    def generator(self, purpose: str, *more: int) -> np.random.Generator:
        """A numpy generator for one purpose at this step, the same however often it is asked for.

        Args:
            purpose: what is drawn: a rule that draws two things asks for two generators.
            more: further numbers that distinguish draws, such as an iteration.
        """
        return randomness.generator(self.seed, self.prefix + purpose, self.number, *more)

    def generator_of_run(self, purpose: str, *more: int) -> np.random.Generator:
        """The same, but for the whole run: every step draws alike."""
        whole = " of the run" if self.prefix else ""  # the address must not be that of a step
        return randomness.generator(self.seed, f"{self.prefix}{purpose}{whole}", *more)

    def root_submission(self) -> Tensor:
        """What a worker at the server submits that runs the honest code on the server's own data, (D,).

        Raises:
            LookupError: the server has none; a rule asks for it by `root_examples`.
        """
        if self.root_D is None:
            raise LookupError("there is no root submission: outside of a run, or for a rule without root_examples")
        return self.root_D

    def of(self, option: Options) -> Self:
        """The step as a class sees it: what a user's own draws is apart from what byzray draws."""
        return self if option.is_builtin() else replace(self, prefix=f"{option.written()} ")


class Stateful(Options):
    """What rules and attacks have in common: they may carry something from one step to the next, and ask the step.

    Attributes:
        depends_on_step: whether it asks the step for more than n and f; such steps are not captured on a GPU.
    """

    depends_on_step: ClassVar[bool] = False

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        """The state before the first step, by name.

        Args:
            step: the first step.
            like_D: a vector of the shape, the type and the device of a submission, without meaning.
        """
        return {}
