"""byzray report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byzray.commands._shared import err, out, pull_results
from byzray.mistakes import WrongInput, parsed

if TYPE_CHECKING:
    from sweeps.storage import Storage


def report(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder or URI of the results, or an archive: NAME.parquet.")
    ],
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the complete runs to this archive (NAME.parquet), too."),
    ] = None,
) -> None:
    """Write the report of all runs in a folder or an archive: a page, figures and tables."""
    from byzray.report.archive import SUFFIX, add_to_archive, is_archive
    from byzray.report.collect import collect
    from sweeps.storage import Storage

    if archive is not None and archive.suffix != SUFFIX:
        raise WrongInput(f"--archive: got {str(archive)!r}, expected a name that ends in {SUFFIX}")
    if "://" in directory and directory.endswith(SUFFIX):
        raise WrongInput(f"{directory}: expected an archive that is a local file")
    if is_archive(Path(directory)):
        if archive is not None:
            raise WrongInput(f"--archive: {directory} is an archive itself, expected a folder of runs")
        _print_report(Path(directory))
        return
    with parsed("DIR", directory, Storage) as storage:
        write_report(storage)
        if archive is not None:
            added, held = add_to_archive(archive, collect(storage.folder, storage.shown).runs)
            out.print(f"{archive}: {added} runs added, {held} in it", markup=False)


def write_report(storage: "Storage") -> None:
    """Write the report of a storage, and print its summary."""
    pull_results(storage)
    _print_report(storage.folder, storage.shown)
    storage.push("report")
    storage.remove("report")  # figures of an earlier one


def _print_report(path: Path, shown: str | None = None) -> None:
    from byzray.report import write_report as write

    err.print("byzray: writing the report and its figures")
    for line in write(path, shown=shown).summary:
        out.print(line, markup=False)
