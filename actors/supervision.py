"""When an actor counts as lost, and how many losses a run tolerates."""

import math
from dataclasses import dataclass

from ray.exceptions import RayTaskError

from actors.local_peers import PeerLost, PeerTimeout
from byzray.mistakes import Failure

# Unless the user sets a deadline, a step may take this many times as long as the slowest one so far, and at least
# MIN_SECONDS; before the first step is done, and for calls that are not steps, START_SECONDS.
SLOWDOWN = 20
MIN_SECONDS = 30.0
START_SECONDS = 300.0


@dataclass(frozen=True)
class Supervision:
    """How a run on actors is supervised; it does not change the result.

    Attributes:
        restarts: how many lost actors are replaced in a run.
        deadline: an actor that does not respond for this many seconds counts as lost; the slowest step of the largest
            models must fit in. None: derived from the pace of the run, see :class:`Timeouts`.
    """

    restarts: int = 20
    deadline: float | None = None


class Timeouts:
    """After how many seconds something that computes steps counts as lost if it does not respond.

    The user's deadline, if there is one. Otherwise 20 times the slowest step so far, at least 30 s, and five minutes
    before the first step is done. Each timeout doubles the limit until the next steps are done, because a healthy step
    may be that slow.

    Args:
        deadline: the user's.

    Attributes:
        slowest: the seconds of the slowest step so far, without the first, which includes set-up; 0 at first.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.slowest = 0.0
        self._learned = 0
        self._factor = 1.0
        self._evaluation = 0.0

    def learn(self, seconds: float) -> None:
        """Record that steps are done, and how long the slowest of them took."""
        self._learned += 1
        self.slowest = seconds if self._learned <= 2 else max(self.slowest, seconds)
        self._factor = 1.0

    def learn_evaluation(self, seconds: float) -> None:
        """Record how long an evaluation took."""
        self._evaluation = max(self._evaluation, seconds)

    def double(self) -> None:
        """Double the limits after a timeout, until the next steps are done."""
        self._factor *= 2

    @property
    def step(self) -> float:
        """For a step."""
        if self.deadline is not None:
            return self.deadline
        return self._factor * (max(MIN_SECONDS, SLOWDOWN * self.slowest) if self._learned else START_SECONDS)

    @property
    def call(self) -> float:
        """For a call that is not a step, such as preparing a run."""
        return self._factor * START_SECONDS if self.deadline is None else self.deadline

    @property
    def evaluation(self) -> float:
        """For an evaluation, which has its own pace and may take longer than the user's deadline."""
        return max(self._factor * max(START_SECONDS, SLOWDOWN * self._evaluation), self.deadline or 0.0)

    def stretch(self, steps: int) -> float:
        """For several steps in a row, in each of which the actors watch each other."""
        if not self._learned and steps > 1:
            return math.inf
        return self.step + SLOWDOWN * steps * self.slowest


class FleetError(Failure):
    """There is no cluster, it has no room for the fleet, or actors were lost more often than allowed."""


class ActorLost(FleetError):
    """An actor of the fleet died or does not respond; it can be replaced.

    Attributes:
        timed_out: whether an actor may still be running, but does not respond.
    """

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


def is_consequence(error: Exception) -> bool:
    """Whether an actor failed only because a peer did."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, PeerLost)


def is_timeout(error: Exception) -> bool:
    """Whether an actor failed because a peer sent nothing in time."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, PeerTimeout)


def root_cause(known: Exception | None, new: Exception) -> Exception:
    """Which of two errors of the same failure is closer to its cause."""
    if known is None:
        return new
    return max(known, new, key=lambda error: (not is_consequence(error), is_timeout(error)))


def actor_error(error: Exception) -> Exception:
    """What to raise for the error of a call to an actor: what its own code raised, or ActorLost."""
    if isinstance(error, RayTaskError) and not is_consequence(error):
        return error.cause if isinstance(error.cause, Exception) else error
    if is_timeout(error):
        return ActorLost("an actor of the fleet did not respond in time", timed_out=True)
    message = " ".join(str(error.cause if isinstance(error, RayTaskError) else error).split())
    return ActorLost(f"an actor of the fleet was lost: {message}")
