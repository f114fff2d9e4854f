"""The runs of a folder as one table, for Python callers."""

from pathlib import Path

import pandas as pd

from byzray.report.archive import is_archive, read_archive
from byzray.report.collect import collect
from byzray.report.panels import arrange
from byzray.report.tables import runs_table

# What a report needs to find its way.
INTERNAL = ["setup", "pair", "panel", "reference_setup"]


def load_runs(directory: str | Path) -> pd.DataFrame:
    """One row for each run in a folder, those that are planned and missing included.

    What lies there is read as data: no class that a setup names is imported.

    Args:
        directory: the output of a sweep, a folder of runs, or an archive of runs (``NAME.parquet``).

    Returns:
        columns run (the directory's name), what it simulates (dataset, split, n, f, rule, attack, placement, ...),
        seed, bound and kappa of its defence, state, step, best_accuracy and last_accuracy (shares of 1),
        worst_worker_accuracy (the last of the smallest accuracy among workers, where they have examples of their own),
        largest_kappa_hat (over steps), diverged_at (the step, if it did) and seconds.

    Raises:
        byzray.mistakes.WrongInput: the folder holds no runs.
    """
    path = Path(directory)
    runs = (read_archive(path, str(path)) if is_archive(path) else collect(path)).runs
    return runs_table(runs, arrange(run.setup for run in runs)).drop(columns=INTERNAL)
