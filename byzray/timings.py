"""Where the time of a step goes."""

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch

# Seconds spent, by who spent them (`run`: all is one process; `server`, `worker 3`) and on what.
Timings = dict[tuple[str, str], float]

# So many events on a GPU's stream are kept before their times are read, if nothing reads them earlier.
KEPT_EVENTS = 4096


class Stopwatch:
    """Seconds by phase, of what one thread does on one device.

    On a GPU events on its stream take the time, so that nothing waits for it. Within a captured step (see
    :mod:`byzray.graphs`) phases are not distinguished.
    """

    def __init__(self, device: torch.device) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any]] | None = [] if device.type == "cuda" else None
        self._last = 0.0

    def start(self) -> None:
        """Begin; what went on since the last call belongs to no phase."""
        self.lap("")

    def lap(self, phase: str) -> None:
        """What went on since the last call belongs to this phase."""
        if self._events is not None:
            if torch.cuda.is_current_stream_capturing():
                return
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((phase, event))
            if len(self._events) > 2 * KEPT_EVENTS:
                self._settle(KEPT_EVENTS)  # which are done long since
            return
        now = time.perf_counter()
        self._seconds[phase] += now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """The seconds of each phase since the last call of this; on a GPU waits until all of it is done."""
        if self._events:
            self._settle(len(self._events) - 1)
        taken = {phase: seconds for phase, seconds in self._seconds.items() if phase}
        self._seconds.clear()
        return taken

    def _settle(self, count: int) -> None:
        """Turn what lies between the first events into seconds."""
        assert self._events is not None
        done = self._events[: count + 1]
        done[-1][1].synchronize()
        for (_, before), (phase, event) in pairwise(done):
            self._seconds[phase] += before.elapsed_time(event) / 1000
        del self._events[:count]
