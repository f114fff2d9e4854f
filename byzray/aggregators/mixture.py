"""One of several rules at every step."""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from byzray import randomness
from byzray.aggregators.base import Aggregate, Aggregator
from byzray.aggregators.registry import AGGREGATORS, AnyAggregator


class Component(BaseModel):
    """A rule of a mixture and how often it is drawn, relative to the others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rule: AnyAggregator
    frequency: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = 1.0

    @field_validator("rule")
    @classmethod
    def _no_mixture(cls, rule: Aggregator) -> Aggregator:
        if isinstance(rule, RandomMixture):
            raise ValueError("a random mixture cannot contain another one")
        return rule


class RandomMixture(Aggregator):
    """One of several `rules` at every step, drawn with given frequencies from the seed of the run.

    Needs what each of its rules needs. Bound: the smallest of theirs, NaN if one has none.
    """

    name = "random-mixture"

    rules: Annotated[list[Component], Field(min_length=1)]

    def at_step(self, seed: int, step: int) -> Aggregator:
        """The rule drawn for a step, a function of the seed and the step alone."""
        total = math.fsum(component.frequency for component in self.rules)
        probabilities = [component.frequency / total for component in self.rules]
        drawn = randomness.generator(seed, "mixture", step).choice(len(self.rules), p=probabilities)
        return self.rules[drawn].rule.at_step(seed, step)

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        raise TypeError("a random mixture aggregates nothing itself: draw the rule of a step with at_step(seed, step)")

    def check(self, n: int, f: int) -> str | None:
        for component in self.rules:
            if reason := component.rule.check(n, f):
                return f"{component.rule.label()}: {reason}"
        return None

    def bound(self, n: int, f: int) -> float:
        bounds = [component.rule.bound(n, f) for component in self.rules]
        return math.nan if any(map(math.isnan, bounds)) else min(bounds)


AGGREGATORS.classes[RandomMixture.name] = RandomMixture  # here, as its field needs the registry of all others
