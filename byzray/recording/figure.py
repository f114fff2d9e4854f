"""The figure of a finished run; a failure to draw it does not fail the run."""

from byzray.mistakes import visible
from byzray.runs.directory import RunDirectory
from byzray.runs.result import Result

FILES = ("accuracy.png", "accuracy.svg")


def draw_if_missing(result: Result, directory: RunDirectory) -> str | None:
    """Draw the figure of a finished run if it has none.

    Returns:
        why it could not be drawn, if so.
    """
    if all((directory.path / name).exists() for name in FILES):
        return None
    try:
        from byzray.report import save_run_figure  # matplotlib may be broken

        save_run_figure(result, directory.path)
    except Exception as error:  # of matplotlib and its settings, of a full disk
        reason = visible(" ".join(f"no figure: {type(error).__name__}: {error}".split()))
        directory.log(reason)
        return reason
    return None
