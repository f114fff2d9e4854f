"""One of several rules at every step."""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from byzray import randomness
from byzray.aggregators import AnyAggregator
from byzray.aggregators._base import Aggregate, Aggregator, checked
from byzray.mistakes import with_label
from byzray.options import Options
from byzray.state import State, below, prefixed
from byzray.step import Step
from byzray.submissions import Submissions


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

    A rule that is not drawn keeps its state. Rules that ask for data of the server's own share the largest part asked
    for. Needs what each of its rules needs. Bound: the smallest of theirs, NaN if one has none; kappa: the largest.
    """

    rules: Annotated[list[Component], Field(min_length=1)]

    def parts(self) -> list[Options]:
        return [component.rule for component in self.rules]

    def at_step(self, seed: int, step: int) -> Aggregator:
        return self.rules[self._drawn(seed, step)].rule

    def _drawn(self, seed: int, step: int) -> int:
        """The position of the rule that is drawn for a step, a function of the seed and the step alone."""
        total = math.fsum(component.frequency for component in self.rules)
        probabilities = [component.frequency / total for component in self.rules]
        return int(randomness.generator(seed, "mixture", step).choice(len(self.rules), p=probabilities))

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        state: State = {}
        for i, component in enumerate(self.rules):
            state |= prefixed(component.rule.initial_state(step.of(component.rule), like_D), f"{i}.")
        return state

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        drawn = self._drawn(step.seed, step.number)
        rule, prefix = self.rules[drawn].rule, f"{drawn}."
        returned = rule.step(submissions, step.of(rule), below(state, prefix))
        aggregate, after = checked(rule, returned, submissions)
        return aggregate, {**state, **prefixed(after, prefix)}

    @property
    def root_examples(self) -> int:
        return max(component.rule.root_examples for component in self.rules)

    def check(self, n: int, f: int) -> str | None:
        for component in self.rules:
            if reason := component.rule.check(n, f):
                return with_label(component.rule.label(), reason)
        return None

    def bound(self, n: int, f: int) -> float:
        bounds = [component.rule.bound(n, f) for component in self.rules]
        return math.nan if any(map(math.isnan, bounds)) else min(bounds)

    def kappa(self, n: int, f: int) -> float:
        kappas = [component.rule.kappa(n, f) for component in self.rules]
        return math.nan if any(map(math.isnan, kappas)) else max(kappas)
