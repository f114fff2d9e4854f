"""Atomic file writes, the error when one fails, and reading files that anybody may have made.

A run directory may come from somebody else, so its files are opened here: a symbolic link there could stand for any
file of the reader's, and a pipe or a device would never end.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from byzray.mistakes import Failure

# What a file that describes a run or a sweep may have at most, in bytes.
LARGEST_DESCRIPTION = 16 * 2**20

KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


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
        temporary.unlink(missing_ok=True)  # a link of this name would be followed
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, content: str) -> None:
    """Write a text atomically, see :func:`write_atomically`."""
    write_atomically(path, lambda temporary: _write_text(temporary, content))


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def open_plain(path: Path, limit: int | None = None) -> io.BufferedReader:
    """Open a plain file for reading; a link is not followed, and nothing else is waited for.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is something else than a plain file, has more than `limit` bytes, or cannot be read.
    """
    _expect_plain(os.lstat(path).st_mode, path)
    # The file may have been replaced since: without waiting, should it be a pipe now.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _expect_plain(status.st_mode, path)
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"found {status.st_size} bytes, expected at most {limit}", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _expect_plain(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "a device")
        raise OSError(errno.EINVAL, f"found {kind}, expected a plain file", str(path))


def read_plain(path: Path, limit: int = LARGEST_DESCRIPTION) -> bytes:
    """The content of a plain file of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is something else than a plain file, is larger, or cannot be read.
    """
    with open_plain(path, limit) as file:
        return file.read(limit)


def expect_no_link(path: Path) -> None:
    """Expect that a path is no symbolic link.

    Raises:
        OSError: it is one.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "found a symbolic link", str(path))


def not_through_links(path: str, flags: int) -> int:
    """An opener for :func:`open` that writes to no file that a link in the place of `path` stands for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


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
            "once there is room and permission to write, the same command continues from there "
            "(`byzray run` with --resume)"
        ) from error


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
