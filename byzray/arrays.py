"""Arrays and archives of others, read without trust: a size that a damaged header states is not allocated."""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from byzray.files import open_plain

# What a byte of a zip archive can stand for at most: 258 bytes in two bits.
LARGEST_RATIO = 1032

# An archive may stand for this many bytes, or for so many times its own size if that is more: a few megabytes of zeros,
# packed, would fill the memory.
UNPACKED_BYTES, UNPACKED_RATIO = 2**30, 20

# The largest vector that is read, in bytes.
LARGEST_VECTOR = 2**34

# How many values of a vector are checked at once.
BLOCK = 2**20


def open_archive(path: Path) -> NpzFile:
    """The archive; read its arrays with :func:`read_array`.

    Raises:
        ValueError: the file cannot be read or is no archive; the message says what was found.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise ValueError("found a single array")
            size = file.seek(0, os.SEEK_END)
        archive = np.load(path, allow_pickle=False)  # to unpickle is to run code
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile may raise anything
        found = str(error) if str(error) == "found a single array" else "found another kind of file, or a damaged one"
        raise ValueError(found) from error
    packed = sum(one.compress_size for one in archive.zip.infolist())
    if packed > size:
        archive.close()
        raise ValueError(f"found a damaged archive, whose parts have {packed} bytes in {size}")
    unpacked = sum(one.file_size for one in archive.zip.infolist())
    if unpacked > (most := max(UNPACKED_BYTES, UNPACKED_RATIO * size)):
        archive.close()
        raise ValueError(f"found an archive of {size} bytes that stands for {unpacked}, more than {most}")
    return archive


def read_array(archive: NpzFile, name: str) -> NDArray[Any]:
    """An array of the archive.

    Raises:
        KeyError: there is none of this name.
        ValueError: it cannot be read.
    """
    assert archive.zip is not None  # the archive is open
    member = name if name in archive.zip.namelist() else f"{name}.npy"
    information = archive.zip.getinfo(member)
    try:
        _check_size(archive.zip, information)
        return np.asarray(archive[name])
    except Exception as error:  # numpy and zipfile may raise anything
        raise ValueError(str(error) or type(error).__name__) from error


def _check_size(archive: ZipFile, information: ZipInfo) -> None:
    """Refuse an array that is larger than its part of the archive can be."""
    if information.file_size > LARGEST_RATIO * (information.compress_size + 1):
        raise ValueError(f"{information.compress_size} bytes cannot stand for {information.file_size}")
    with archive.open(information) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        needed = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and needed != information.file_size - file.tell():
            raise ValueError(f"{information.file_size - file.tell()} bytes are no {dtype} array of shape {shape}")


@contextmanager
def _vector(path: Path) -> Iterator[tuple[io.BufferedReader, np.dtype[Any], int]]:
    """A file that holds one vector: at its first value, with their type and number.

    Raises:
        ValueError: it holds something else.
        OSError: it cannot be read.
    """
    with open_plain(path, LARGEST_VECTOR) as file:
        try:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
        except Exception as error:  # whatever numpy raises
            raise ValueError(f"is no array that numpy can read ({error})") from error
        bytes_left = os.fstat(file.fileno()).st_size - file.tell()
        if len(shape) != 1 or dtype.kind != "f" or shape[0] * dtype.itemsize != bytes_left:
            raise ValueError(f"found {bytes_left} bytes and the header of a {dtype} array of shape {shape}")
        yield file, dtype, shape[0]


def read_vector(path: Path) -> NDArray[Any]:
    """The vector in an ``.npy`` file.

    Raises:
        ValueError: it holds something else.
        OSError: it cannot be read.
    """
    with _vector(path) as (file, dtype, length):
        return np.fromfile(file, dtype, length)


def is_finite(path: Path) -> bool:
    """Whether all values of the vector in an ``.npy`` file are finite, without all of it in memory.

    Raises:
        ValueError: it holds something else.
        OSError: it cannot be read.
    """
    with _vector(path) as (file, dtype, length):
        blocks = range(0, length, BLOCK)
        return all(np.isfinite(np.fromfile(file, dtype, min(BLOCK, length - start))).all() for start in blocks)
