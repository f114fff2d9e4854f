"""byzray report."""

from typing import TYPE_CHECKING, Annotated

import typer

from byzray.commands._shared import err, out, pull_results
from byzray.mistakes import parsed

if TYPE_CHECKING:
    from sweeps.storage import Storage


def report(directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URI of the results.")]) -> None:
    """Write the report of all runs in a folder: a page, figures and tables."""
    from sweeps.storage import Storage

    with parsed("DIR", directory, Storage) as storage:
        write_report(storage)


def write_report(storage: "Storage") -> None:
    """Write the report of a storage, and print its summary."""
    from byzray.report import write_report as write

    err.print("byzray: writing the report and its figures")
    pull_results(storage)
    written = write(storage.folder, shown=storage.shown)
    storage.push("report")
    storage.remove("report")  # figures of an earlier one
    for line in written.summary:
        out.print(line, markup=False)
