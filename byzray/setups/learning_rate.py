"""The learning rate of each step."""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_serializer,
    model_validator,
)

from byzray.setups._section import LARGEST_FLOAT, Section

Schedule = Annotated[
    dict[NonNegativeInt, Annotated[PositiveFloat, Field(le=LARGEST_FLOAT, allow_inf_nan=False)]],
    AfterValidator(lambda schedule: dict(sorted(schedule.items()))),
]

FORMS = "'half_life', 'shape' and 'milestones'"


class LearningRate(Section):
    """An initial rate that is constant or falls in one of three ways, or a piecewise-constant schedule.

    Attributes:
        initial: the rate at step 0.
        half_life: hyperbolic decay: the number of steps after which the rate is halved.
        every: with `half_life`: the rate changes only at multiples of this number of steps.
        schedule: rates by the step from which they apply; instead of `initial` and all that belongs to it.
        shape: `cosine`: the rate falls to 0 along half a cosine (Loshchilov and Hutter, SGDR, 2017, without restarts).
        milestones: the rate is multiplied by `decay` at each of these steps, which ascend.
        decay: the factor at each of the milestones.
        warmup: W: in the first W steps the rate, in whatever form, is multiplied by 1/W, 2/W, ..., 1.
    """

    initial: PositiveFloat | None = Field(default=None, le=LARGEST_FLOAT, allow_inf_nan=False)
    half_life: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    every: PositiveInt = 1
    schedule: Schedule | None = None
    shape: Literal["cosine"] | None = None
    # A setup file has lists only, which a strict tuple refuses; the steps themselves stay strict.
    milestones: Annotated[tuple[PositiveInt, ...], Field(strict=False)] | None = None
    decay: float = Field(default=0.1, gt=0, le=1)
    warmup: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.initial is None) == (self.schedule is None):
            raise ValueError(f"expected either 'initial' (with one of {FORMS}, or none) or 'schedule'")
        if self.schedule is not None and 0 not in self.schedule:
            raise ValueError("expected a schedule that starts at step 0")
        forms = {
            "half_life": self.half_life is not None,
            "shape": self.shape is not None,
            "milestones": self.milestones is not None,
        }
        given = [form for form, there in forms.items() if there]
        if self.schedule is not None and (given or self.every != 1):
            raise ValueError("expected no 'half_life', 'every', 'shape' or 'milestones' with 'schedule'")
        if len(given) > 1:
            raise ValueError(f"expected one of {FORMS} at most, got {' and '.join(map(repr, given))}")
        if self.every != 1 and self.half_life is None:  # resolved setups always say 1
            raise ValueError("expected no 'every' without 'half_life'")
        if "decay" in self.model_fields_set and self.milestones is None:
            raise ValueError("expected no 'decay' without 'milestones'")
        if self.milestones is not None and not self.milestones:
            raise ValueError("expected at least one step in 'milestones'")
        if any(after <= before for before, after in pairwise(self.milestones or ())):
            raise ValueError("expected 'milestones' that ascend")
        return self

    @model_serializer
    def _in_its_fields(self) -> dict[str, Any]:
        """All fields; those that came later only where they are set: digests of earlier setups stay valid."""
        fields = ["initial", "half_life", "every", "schedule"]
        found = {field: getattr(self, field) for field in fields}
        if self.shape is not None:
            found["shape"] = self.shape
        if self.milestones is not None:
            found |= {"milestones": list(self.milestones), "decay": self.decay}
        if self.warmup is not None:
            found["warmup"] = self.warmup
        return found

    def at(self, step: int, steps: int) -> float:
        """The rate eta_t in force at a step of a run of so many steps."""
        warm = 1.0 if self.warmup is None else min(1.0, (step + 1) / self.warmup)
        return warm * self._without_warmup(step, steps)

    def _without_warmup(self, step: int, steps: int) -> float:
        if self.schedule is not None:
            return self.schedule[max(start for start in self.schedule if start <= step)]
        assert self.initial is not None
        if self.shape == "cosine":
            return self.initial * (1 + math.cos(math.pi * step / max(steps, 1))) / 2
        if self.milestones is not None:
            return float(self.initial * self.decay ** sum(milestone <= step for milestone in self.milestones))
        if self.half_life is None:
            return self.initial
        return self.initial / (step // self.every * self.every / self.half_life + 1)
