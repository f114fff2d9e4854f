"""Update: the progress of a run, which the loop yields and observers receive."""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from byzray.runs.result import Result
from byzray.setups import Setup
from byzray.timings import Timings


@dataclass(frozen=True)
class Update:
    """The progress of a run.

    Attributes:
        setup: the setup of the run.
        step: the number of steps taken.
        loss: the average loss of the last step; NaN before the first.
        accuracy: the last measured one; NaN before the first.
        best: the highest measured accuracy.
        ended: whether this is the last update.
        diverged: whether its parameters became non-finite.
        events: what happened since the last update, such as actors that were lost and replaced.
        row: the metrics of the last step, by the names of their columns; empty before the first.
        steps_per_second: of the last stretch of steps; NaN before the first.
        timings: how the time was spent since the last update.
        replaced: the names of actors that were lost and replaced since then.
    """

    setup: Setup
    step: int
    loss: float
    accuracy: float
    best: float
    ended: bool = False
    diverged: bool = False
    events: tuple[str, ...] = ()
    row: Mapping[str, float] = field(default_factory=dict)
    steps_per_second: float = math.nan
    timings: Timings = field(default_factory=dict)
    replaced: tuple[str, ...] = ()


# Called after each stretch of steps; a true return value asks the run to stop there, to be continued later.
Progress = Callable[[Update], bool | None]

Updates = Generator[Update, None, Result]
