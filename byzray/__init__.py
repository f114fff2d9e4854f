"""Byzantine-resilient distributed SGD, simulated: rules, attacks, and momentum where you want it.

Heavy modules are imported on first use, so that actors, which need only some, start faster.
"""

import os
from typing import TYPE_CHECKING

from byzray.lazy import imported_on_use

if TYPE_CHECKING:
    from byzray.mistakes import Interrupted, SetupError
    from byzray.recording.update import Update
    from byzray.report.frame import load_runs
    from byzray.runs.directory import RunExists
    from byzray.runs.result import Result
    from byzray.setups import Setup, load_setup
    from byzray.simulation import simulate

__version__ = "0.2.0"

# Limit how long PyTorch's threads spin while they wait for each other: with the default, a step takes several times
# longer on a machine that others use. GNU OpenMP reads this once, when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["Interrupted", "Result", "RunExists", "Setup", "SetupError", "Update", "load_runs", "load_setup", "simulate"]

__getattr__ = imported_on_use(
    __name__,
    {
        "Interrupted": "mistakes",
        "Result": "runs.result",
        "RunExists": "runs.directory",
        "Setup": "setups",
        "SetupError": "mistakes",
        "Update": "recording.update",
        "load_runs": "report.frame",
        "load_setup": "setups",
        "simulate": "simulation",
    },
)
