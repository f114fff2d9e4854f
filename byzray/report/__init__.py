"""Reports: figures, tables and pages of results."""

from typing import TYPE_CHECKING

from byzray.lazy import imported_on_use

if TYPE_CHECKING:
    from byzray.report.frame import load_runs
    from byzray.report.run import run_figure, save_run_figure
    from byzray.report.write import Report, write_report

__all__ = ["Report", "load_runs", "run_figure", "save_run_figure", "write_report"]

# Everything is imported on first use: matplotlib takes a second, and may be broken.
__getattr__ = imported_on_use(
    __name__,
    {
        "Report": "write",
        "load_runs": "frame",
        "run_figure": "run",
        "save_run_figure": "run",
        "write_report": "write",
    },
)
