"""Files that are whole or not there, and what it means when one cannot be written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from byzray.mistakes import Failure


class StorageFault(Failure):
    """A file cannot be written: a full disk, say. The message says what that means for what was computed."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path`: a reader sees the old or the new.

    It is on the disk when this returns, so that not even a loss of power leaves less than one of them.

    Raises:
        OSError: it cannot be written; the old one is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file of a run atomically.

    Raises:
        StorageFault: it cannot be written; the old one is intact.
    """
    with writing(path):
        write_atomically(path, write)


def remove_temporaries(folder: Path) -> None:
    """Remove what a process that was killed in :func:`write_atomically` left in a folder that no other uses."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into what the user can do."""
    try:
        yield
    except OSError as error:
        raise StorageFault(
            f"{path}: cannot be written ({error.strerror or error}). What was saved before is intact: "
            "once there is room and permission to write, the same command with --resume goes on from there"
        ) from error


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
