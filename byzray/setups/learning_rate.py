"""The learning rate of each step."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from byzray.setups._section import LARGEST_FLOAT, Section

Schedule = Annotated[
    dict[NonNegativeInt, Annotated[PositiveFloat, Field(le=LARGEST_FLOAT, allow_inf_nan=False)]],
    AfterValidator(lambda schedule: dict(sorted(schedule.items()))),
]


class LearningRate(Section):
    """Hyperbolic decay from an initial rate, or a piecewise-constant schedule.

    Attributes:
        initial: the rate at step 0.
        half_life: the number of steps after which the rate is halved; none: it stays constant.
        every: the rate changes only at multiples of this number of steps.
        schedule: rates by the step from which they apply; excludes the other three.
    """

    initial: PositiveFloat | None = Field(default=None, le=LARGEST_FLOAT, allow_inf_nan=False)
    half_life: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    every: PositiveInt = 1
    schedule: Schedule | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.initial is None) == (self.schedule is None):
            raise ValueError("expected either 'initial' (with 'half_life' and 'every') or 'schedule'")
        if self.schedule is not None:
            if self.half_life is not None or self.every != 1:
                raise ValueError("expected no 'half_life' and no 'every', which belong to 'initial', not to 'schedule'")
            if 0 not in self.schedule:
                raise ValueError("expected a schedule that starts at step 0")
        return self

    def at(self, step: int) -> float:
        """The rate eta_t in force at a step."""
        if self.schedule is not None:
            return self.schedule[max(start for start in self.schedule if start <= step)]
        assert self.initial is not None
        if self.half_life is None:
            return self.initial
        return self.initial / (step // self.every * self.every / self.half_life + 1)
