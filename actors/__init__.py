"""Runs on Ray actors: one for the server, and one for each worker or cohort of workers, which keep their momentum.

Heavy modules are imported on first use, so that actors, which import this package too, start fast.
"""

from typing import TYPE_CHECKING

import byzray  # noqa: F401  before PyTorch, whose threads it sets up
from byzray.lazy import imported_on_use

if TYPE_CHECKING:
    from actors.cluster import connect
    from actors.fleet import Fleet
    from actors.simulation import simulate
    from actors.supervision import FleetError, Supervision

__all__ = ["Fleet", "FleetError", "Supervision", "connect", "simulate"]

__getattr__ = imported_on_use(
    __name__,
    {
        "connect": "cluster",
        "Fleet": "fleet",
        "FleetError": "supervision",
        "Supervision": "supervision",
        "simulate": "simulation",
    },
)
