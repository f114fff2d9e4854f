"""What a person looks at: figures and tables of results."""

from byzray.report.run import run_figure, save_run_figure

__all__ = ["run_figure", "save_run_figure"]
