"""What to do about files that are missing or do not hold what they should."""

from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path

from byzray.datasets.base import MissingData

ELSEWHERE = "If they are elsewhere, name the folder that holds data sets with --data DIR or the variable BYZRAY_DATA."


def absent(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` where there is no file."""
    return [path for path in paths if not path.is_file()]


def listed(paths: Iterable[Path]) -> str:
    """The absolute paths, each on a line of its own."""
    return "".join(f"\n  {path.absolute()}" for path in paths)


def require(name: str, paths: Iterable[Path], fetch: Callable[[], object] | None, instead: str = "") -> None:
    """Make sure that the files of a data set exist.

    Args:
        name: the name of the data set.
        paths: the files.
        fetch: downloads the files; None if that is not permitted.
        instead: a sentence for the message on other files that would do.

    Raises:
        MissingData: some files do not exist, even after `fetch`.
    """
    paths = list(paths)
    missing, failure = absent(paths), None
    if missing and fetch:
        try:
            fetch()
        except (OSError, HTTPException, RuntimeError) as error:  # what urllib and torchvision raise
            failure = error
        missing = absent(paths)
    if not missing:
        return
    # torchvision's reasons span several lines
    advice = f"The download failed: {' '.join(str(failure).split())}" if failure else "Add --download to download them."
    sentences = [f"The data set {name} needs files that do not exist:{listed(missing)}", advice, instead, ELSEWHERE]
    raise MissingData("\n".join(filter(None, sentences))) from failure


def damaged(path: Path, found: object, expected: str) -> ValueError:
    """The error to raise for a downloaded file that does not hold what it should."""
    return ValueError(f"{path.absolute()} is damaged: found {found}, expected {expected}; delete it and get it again")
