"""What a person looks at: figures and tables of results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from byzray.report.run import run_figure, save_run_figure

if TYPE_CHECKING:
    from byzray.report.collect import NothingToReport
    from byzray.report.write import Report, write_report

__all__ = ["NothingToReport", "Report", "run_figure", "save_run_figure", "write_report"]

# Every run imports this package for its own figure; what only a report needs is imported on first use.
_HOMES = {"NothingToReport": "collect", "Report": "write", "write_report": "write"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"byzray.report.{_HOMES[name]}"), name)
