"""Numpy archives of others, read without trust: a size that a damaged header states is not allocated."""

import math
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

# What a byte of a zip archive can stand for at most: 258 bytes in two bits.
LARGEST_RATIO = 1032


def open_archive(path: Path) -> NpzFile:
    """The archive, whose arrays are to be read by :func:`read_array`.

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
    except Exception as error:  # whatever zipfile stumbles over
        found = str(error) if str(error) == "found a single array" else "found another kind of file, or a damaged one"
        raise ValueError(found) from error
    packed = sum(one.compress_size for one in archive.zip.infolist())
    if packed > size:
        archive.close()
        raise ValueError(f"found a damaged archive, whose parts have {packed} bytes in {size}")
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
    except Exception as error:  # whatever numpy and zipfile stumble over
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
