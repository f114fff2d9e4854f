"""Reports: figures, tables and pages of results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byzray.report.frame import load_runs
    from byzray.report.run import run_figure, save_run_figure
    from byzray.report.write import Report, write_report

__all__ = ["Report", "load_runs", "run_figure", "save_run_figure", "write_report"]

# Everything is imported on first use: matplotlib takes a second, and may be broken.
_HOMES = {
    "Report": "write",
    "load_runs": "frame",
    "run_figure": "run",
    "save_run_figure": "run",
    "write_report": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"byzray.report.{_HOMES[name]}"), name)
