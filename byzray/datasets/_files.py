"""What to do about files that are missing or do not hold what they should."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from byzray.datasets._base import MissingData

ELSEWHERE = "If they are elsewhere, name the folder that holds data sets with --data DIR or the variable BYZRAY_DATA."

DOWNLOAD = "To download them, add --download to `byzray run` or `byzray sweep` (in Python: download=True)."


def absent(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` where there is no file."""
    return [path for path in paths if not is_file(path)]


def is_file(path: Path) -> bool:
    """Whether there is such a file; a path that is too long names none."""
    return os.path.isfile(path)


def listed(paths: Iterable[Path]) -> str:
    """The absolute paths, each on a line of its own."""
    return "".join(f"\n  {path.absolute()}" for path in paths)


def located(name: str, path: str, root: Path) -> Path:
    """Where a file of the user's own lies: a relative path is looked up in the folder that holds data sets, then in the
    working folder.

    Args:
        name: what needs it, in the message.
        path: the path, as the user wrote it.
        root: the folder that holds data sets.

    Raises:
        MissingData: it is nowhere it could be.
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError:  # there is no such user
        given = Path(path)
    candidates = [given] if given.is_absolute() else [root / given, given]
    for candidate in candidates:
        if is_file(candidate):
            return candidate.absolute()
    raise MissingData(
        f"The {name} needs a file that does not exist; looked for:{listed(candidates)}\n"
        "Set its 'path', or the folder that holds data sets with --data DIR or the variable BYZRAY_DATA."
    )


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
        except Exception as error:  # torchvision reads what it has downloaded, and fails on damaged files in any way
            failure = error
        missing = absent(paths)
    if not missing:
        return
    # torchvision's reasons span several lines
    advice = f"The download failed: {' '.join(str(failure).split())}" if failure else DOWNLOAD
    sentences = [f"The data set {name} needs files that do not exist:{listed(missing)}", advice, instead, ELSEWHERE]
    raise MissingData("\n".join(filter(None, sentences))) from failure


def check_sums(files: Mapping[Path, str]) -> None:
    """Check the md5 sums of files before a parser reads them that cannot handle damaged ones.

    Raises:
        ValueError: a file is another one, or cannot be read.
    """
    from torchvision.datasets.utils import check_integrity

    for path, md5 in files.items():
        with reading(path, "a file"):
            whole = check_integrity(path, md5)
        if not whole:
            raise damaged(path, "another md5 sum", md5)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn any error of a parser into a ValueError that names the file."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path.absolute()}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        expected += f" ({reason})" if reason else ""
        raise damaged(path, f"{path.stat().st_size} bytes of another form", expected) from error


def damaged(path: Path, found: object, expected: str) -> ValueError:
    """The error to raise for a downloaded file that does not hold what it should."""
    return ValueError(f"{path.absolute()} is damaged: found {found}, expected {expected}; delete it and get it again")
