"""Sweeps of many setups: grids, plans, and their execution with Ray Tune."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.definition import Sweep, load_sweep
    from sweeps.observer import Observer
    from sweeps.outcome import Outcome
    from sweeps.runner import run

__all__ = ["Observer", "Outcome", "Sweep", "load_sweep", "run"]

_HOMES = {
    "Observer": "observer",
    "Outcome": "outcome",
    "Sweep": "definition",
    "load_sweep": "definition",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sweeps.{_HOMES[name]}"), name)
