"""Runs on Ray actors: one for the server, and one for each worker or cohort of workers, which keep their momentum.

Heavy modules are imported on first use, so that actors, which import this package too, start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import byzray  # noqa: F401  before PyTorch, whose threads it sets up

if TYPE_CHECKING:
    from actors.cluster import connect
    from actors.fleet import Fleet
    from actors.simulation import simulate
    from actors.supervision import FleetError, Supervision

__all__ = ["Fleet", "FleetError", "Supervision", "connect", "simulate"]

_HOMES = {
    "connect": "cluster",
    "Fleet": "fleet",
    "FleetError": "supervision",
    "Supervision": "supervision",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"actors.{_HOMES[name]}"), name)
