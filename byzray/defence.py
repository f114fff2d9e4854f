"""The defence: pre-aggregators and a rule, from submissions to the aggregate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator
from byzray.aggregators._base import checked
from byzray.mistakes import with_label
from byzray.preaggregators import PreAggregator
from byzray.preaggregators._base import mixing
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Mixed, Submissions


class Defence:
    """Pre-aggregators, in the order in which they are applied, and the rule after them.

    Args:
        pre: the pre-aggregators.
        rule: the rule.
    """

    def __init__(self, pre: Sequence[PreAggregator], rule: Aggregator) -> None:
        self.pre = tuple(pre)
        self.rule = rule

    def label(self) -> str:
        """``nnm+trimmed-mean``."""
        return "+".join(part.label() for part in self.parts)

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        """The rule's state before the first step."""
        n, f = self.sizes(step.n, step.f)
        return self.rule.initial_state(replace(step.of(self.rule), n=n, f=f), like_D)

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        """The aggregate of a step, as a combination of these submissions where that is known, and the state after it.

        Raises:
            BrokenContract: the rule or a pre-aggregator returned something of the wrong type or shape.
        """
        n, f = step.n, step.f
        for part in self.pre:
            weights_MN = mixing(part, part.weights(submissions, replace(step.of(part), n=n, f=f)), submissions, f)
            submissions = Mixed(weights_MN, submissions)
            n, f = part.sizes(n, f)
        returned = self.rule.step(submissions, replace(step.of(self.rule), n=n, f=f), state)
        aggregate, state = checked(self.rule, returned, submissions)
        if not isinstance(submissions, Mixed):
            return aggregate, state
        weights_M = aggregate.weights_N(submissions.n)
        weights_N = None if weights_M is None else submissions.of_others(weights_M)
        return Aggregate(lambda: aggregate.vector_D, weights_N=weights_N), state

    def at(self, step: Step, state: State) -> "Bound":
        """This defence at a step."""
        return Bound(self, step, state)

    def sizes(self, n: int, f: int) -> tuple[int, int]:
        """The number of submissions that reach the rule, and how many of them may be Byzantine."""
        for part in self.pre:
            n, f = part.sizes(n, f)
        return n, f

    def check(self, n: int, f: int) -> str | None:
        """Why the defence cannot aggregate n submissions tolerating f, with the label of the part; None if it can."""
        left = ""
        for part in self.parts:
            if reason := part.check(n, f):
                labelled = with_label(part.label(), reason)
                return left + labelled if left else labelled
            if isinstance(part, PreAggregator):
                before, (n, f) = n, part.sizes(n, f)
                if n != before:
                    left = f"{part.label()} leaves n = {n}: "
        return None

    def bound(self, n: int, f: int) -> float:
        """The variance-norm bound of the rule, see :meth:`Aggregator.bound`; NaN with any pre-aggregator."""
        return math.nan if self.pre else self.rule.bound(n, f)

    def kappa(self, n: int, f: int) -> float:
        """The robustness coefficient, see :meth:`Aggregator.kappa`."""
        sizes = [(n, f)]
        for part in self.pre:
            sizes.append(part.sizes(*sizes[-1]))
        kappa = self.rule.kappa(*sizes.pop())
        for part in reversed(self.pre):
            kappa = part.kappa(kappa, *sizes.pop())
        return kappa

    @property
    def root_examples(self) -> int:
        """The number of training examples that the server keeps for itself."""
        return self.rule.root_examples

    @property
    def parts(self) -> tuple[PreAggregator | Aggregator, ...]:
        """The pre-aggregators and the rule."""
        return (*self.pre, self.rule)


@dataclass(frozen=True, eq=False)
class Bound:
    """A defence at a step, for the adversary to evaluate: the states after the step are dropped, nothing advances.

    Attributes:
        defence: the defence.
        step: the step.
        state: its state before the step.
    """

    defence: Defence
    step: Step
    state: State

    def __call__(self, submissions: Submissions) -> Aggregate:
        """The aggregate that the defence would compute from these submissions."""
        return self.defence.step(submissions, self.step, self.state)[0]
