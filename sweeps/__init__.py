"""Sweeps of many setups: grids, plans, and their execution with Ray Tune.

Heavy modules are imported on first use: Tune takes seconds, and runs' actors need none of it.
"""

from typing import TYPE_CHECKING

from byzray.lazy import imported_on_use

if TYPE_CHECKING:
    from sweeps.definition import Sweep, load_sweep
    from sweeps.observer import Observer
    from sweeps.outcome import Outcome
    from sweeps.runner import run

__all__ = ["Observer", "Outcome", "Sweep", "load_sweep", "run"]

__getattr__ = imported_on_use(
    __name__,
    {
        "Observer": "observer",
        "Outcome": "outcome",
        "Sweep": "definition",
        "load_sweep": "definition",
        "run": "runner",
    },
)
