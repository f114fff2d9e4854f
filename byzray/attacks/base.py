"""What every attack is.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from abc import abstractmethod

from torch import Tensor

from byzray.aggregators import Aggregator
from byzray.options import Options


class Attack(Options):
    """The adversary's strategy: it sees every honest submission and the server's rule, and answers for all Byzantine
    workers at once.

    An attack of your own derives from this class, declares its options as pydantic fields and implements
    :meth:`__call__`.
    """

    @abstractmethod
    def __call__(self, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:
        """The Byzantine submissions.

        Args:
            honest_HD: the honest submissions of this step, not to be modified.
            byzantine: how many submissions to answer, at least 1.
            rule: the aggregation rule in force at this step.
            f: how many Byzantine submissions the rule is told to tolerate.

        Returns:
            (byzantine, D) submissions; equal rows may be an expanded view of one.
        """

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        """Why the attack cannot be mounted, in the form "needs ..., got ..."; None if it can."""
        return None
