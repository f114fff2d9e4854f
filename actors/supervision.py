"""What it means to lose an actor, and how often that is put up with."""

from dataclasses import dataclass

from ray.exceptions import RayTaskError

from actors.near import PeerLost, PeerSilent
from byzray.mistakes import Failure


@dataclass(frozen=True)
class Supervision:
    """How a run on actors is supervised; it shapes no result.

    Attributes:
        restarts: how many times in a run actors that were lost are replaced.
        deadline: after so many seconds without a sign of life an actor counts as lost. The slowest step of the largest
            models must fit in.
    """

    restarts: int = 20
    deadline: float = 600.0


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
