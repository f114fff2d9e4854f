"""Base class of pre-aggregators.

Shapes in names: N submissions, M of which they make.
"""

import math
from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from byzray.mistakes import BrokenContract
from byzray.options import Options
from byzray.step import Step
from byzray.submissions import Submissions


class PreAggregator(Options):
    """Makes M submissions of N before the rule: combinations of them, W x.

    It neither modifies the submissions nor carries anything to the next step. One of your own derives from this class,
    declares its options as pydantic fields and implements :meth:`weights`; if M is not N, :meth:`sizes` as well.

    Attributes:
        depends_on_step: whether it asks the step for more than n and f; such steps are not captured on a GPU.
    """

    depends_on_step: ClassVar[bool] = False

    @abstractmethod
    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        """W, (M, N) float64. Where its rows do not sum to 1, the rest is the weight of the origin."""

    def sizes(self, n: int, f: int) -> tuple[int, int]:
        """M, and how many of those may be Byzantine, given n submissions of which f may be."""
        return n, f

    def check(self, n: int, f: int) -> str | None:
        """Why it cannot work with n submissions and f ("needs ...; got ..."); None if it can."""
        return None

    def kappa(self, kappa: float, n: int, f: int) -> float:
        """The robustness coefficient of what follows together with this part, given that of what follows; NaN where
        there is none. See :meth:`byzray.aggregators.Aggregator.kappa`."""
        return math.nan


def mixing(part: PreAggregator, found: object, submissions: Submissions, f: int) -> Tensor:
    """The weights that a pre-aggregator returned for submissions of which f may be Byzantine, (M, N) float64.

    Raises:
        BrokenContract: they are something else than M times N real numbers.
    """
    expected = part.sizes(submissions.n, f)[0], submissions.n
    if not isinstance(found, Tensor):
        what = type(found).__name__
    elif not found.is_floating_point():
        what = f"a tensor of {found.dtype}"
    elif found.shape != expected:
        what = f"a tensor of shape {tuple(found.shape)}"
    else:
        return found.detach().double().to(submissions.device)
    raise BrokenContract(
        f"pre-aggregator {part.label()} returned {what} as weights, expected a tensor (M, N) of shape {expected}"
    )
