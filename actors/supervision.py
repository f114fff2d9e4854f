"""What it means to lose an actor, and how often that is put up with."""

import math
from dataclasses import dataclass

from ray.exceptions import RayTaskError

from actors.near import PeerLost, PeerSilent
from byzray.mistakes import Failure

# Without a deadline of the user's own a step may take so many times as long as the slowest one so far, but at least so
# many seconds. Before there is a pace to go by, and for calls that are no steps, it is these seconds.
SLOWER = 20
LEAST_SECONDS = 30.0
START_SECONDS = 300.0


@dataclass(frozen=True)
class Supervision:
    """How a run on actors is supervised; it shapes no result.

    Attributes:
        restarts: how many times in a run actors that were lost are replaced.
        deadline: after so many seconds without a sign of life an actor counts as lost. The slowest step of the largest
            models must fit in. None: it follows from the pace of the run, see :class:`Patience`.
    """

    restarts: int = 20
    deadline: float | None = None


class Patience:
    """How long something that computes steps may be silent before it counts as lost, in seconds.

    That is the user's deadline, if there is one. Else it follows from the pace of the run: 20 times the slowest step so
    far, but at least 30 s, and five minutes before there is a pace. Each time that something counted as lost for its
    silence the limit doubles until the next steps are done, as a sound step may be that slow.

    Args:
        deadline: the user's.

    Attributes:
        slowest: the seconds of the slowest step so far, without the first, which sets things up; 0 before there is one.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.slowest = 0.0
        self._learned = 0
        self._factor = 1.0
        self._evaluation = 0.0

    def learn(self, seconds: float) -> None:
        """Steps are done, of which the slowest took so long."""
        self._learned += 1
        self.slowest = seconds if self._learned <= 2 else max(self.slowest, seconds)
        self._factor = 1.0

    def learn_evaluation(self, seconds: float) -> None:
        """An evaluation is done, which took so long."""
        self._evaluation = max(self._evaluation, seconds)

    def double(self) -> None:
        """Something counted as lost for its silence."""
        self._factor *= 2

    @property
    def step(self) -> float:
        """For a step."""
        if self.deadline is not None:
            return self.deadline
        return self._factor * (max(LEAST_SECONDS, SLOWER * self.slowest) if self._learned else START_SECONDS)

    @property
    def call(self) -> float:
        """For what is no step, such as to get ready for a run."""
        return self._factor * START_SECONDS if self.deadline is None else self.deadline

    @property
    def evaluation(self) -> float:
        """For an evaluation, which has a pace of its own and may take longer than the user's deadline."""
        return max(self._factor * max(START_SECONDS, SLOWER * self._evaluation), self.deadline or 0.0)

    def stretch(self, steps: int) -> float:
        """For so many steps in a row, within each of which the actors watch each other."""
        if not self._learned and steps > 1:
            return math.inf
        return self.step + SLOWER * steps * self.slowest


class FleetError(Failure):
    """The fleet could not be placed, or actors were lost for good."""


class ActorLost(FleetError):
    """An actor of the fleet has died, or stays silent; it can be replaced.

    Attributes:
        silent: whether some actor still seems to run, but does not answer.
    """

    def __init__(self, reason: str, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


def is_consequence(error: Exception) -> bool:
    """Whether an error is but the echo of a peer's."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, PeerLost)


def is_silence(error: Exception) -> bool:
    """Whether an error says that a peer has sent nothing for too long."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, PeerSilent)


def more_telling(known: Exception | None, new: Exception) -> Exception:
    """Which of two errors of one failure says more about its cause."""
    if known is None:
        return new
    return max(known, new, key=lambda error: (not is_consequence(error), is_silence(error)))


def reason(error: Exception) -> Exception:
    """What to raise for an error of a call to an actor: that of its code itself, if it is one."""
    if isinstance(error, RayTaskError) and not is_consequence(error):
        return error.cause if isinstance(error.cause, Exception) else error
    if is_silence(error):
        return ActorLost("an actor of the fleet has sent nothing for too long", silent=True)
    said = " ".join(str(error.cause if isinstance(error, RayTaskError) else error).split())
    return ActorLost(f"an actor of the fleet was lost: {said}")
