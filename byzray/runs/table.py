"""Table: rows of a run in memory and in a CSV file."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from byzray.files import not_through_links, open_plain, read_plain, sync, writing
from byzray.metrics import METRIC_COLUMNS

# The columns of all tables that hold integers, and those that hold words.
COUNTS = ("step", "worker", *METRIC_COLUMNS[:2])
WORDS = ("fault", "submission")

# The largest table that is read, in bytes: with the study, about ten million steps.
LARGEST_TABLE = 4 * 2**30

# Small frames take far more memory than their rows; joining them takes longer the more rows there are.
MOST_FRAMES = 100


class Table:
    """Rows in memory and, if there is a file, appended to that CSV file at each flush, without rounding.

    The table knows the length and the digest of what it wrote: a position, from which it can be resumed.

    Args:
        columns: their names.
        path: the file; it is overwritten, except after :meth:`resume_from`.
    """

    def __init__(self, columns: Sequence[str], path: Path | None = None) -> None:
        self.columns = list(columns)
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Remove all rows; the file is overwritten at the next flush."""
        self.frames: list[pd.DataFrame] = []
        self.flushed = 0  # how many of the frames the file holds
        self.length = 0  # of what the file holds, in bytes
        self.digest = _digest(b"")

    def content(self, position: Mapping[str, Any]) -> bytes:
        """The content of the file up to a position.

        Raises:
            ValueError: it changed since, or has other columns.
        """
        assert self.path is not None
        length, digest = position["bytes"], position["digest"]
        try:
            with open_plain(self.path) as file:
                content = file.read(length)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from error
        if len(content) < length:
            raise ValueError(f"expected at least {length} bytes, found {len(content)}")
        if _digest(content).hexdigest() != digest:
            raise ValueError(f"expected the digest {digest} of the first {length} bytes, found another")
        columns = content.partition(b"\n")[0].decode("utf-8").split(",")
        if columns != self.columns:
            raise ValueError(
                f"was begun by another version: found the columns {_listed(columns, self.columns)}, "
                f"expected {_listed(self.columns, columns)}"
            )
        return content

    def resume_from(self, content: bytes) -> None:
        """Continue from a position of the file, given the content up to it; later rows are removed.

        Raises:
            StorageFault: the file cannot be written.
        """
        assert self.path is not None
        self.clear()
        self.digest = _digest(content)
        self.length = len(content)
        with writing(self.path):
            os.truncate(self.path, self.length)
        self.frames = [_parse(content.decode("utf-8"))]
        self.flushed = 1

    def position(self) -> dict[str, Any]:
        """Where the file ends now, after a flush: its length in bytes and its digest."""
        return {"bytes": self.length, "digest": self.digest.hexdigest()}

    def last_step(self) -> int | None:
        """The step of the last row."""
        return int(self.frames[-1][self.columns[0]].iloc[-1]) if self.frames and len(self.frames[-1]) else None

    def extend(self, frame: pd.DataFrame) -> None:
        """Add rows with the table's columns."""
        self.frames.append(frame)

    def flush(self, durably: bool = False) -> None:
        """Append new rows to the file; `durably`: with fsync.

        Raises:
            StorageFault: it cannot be written; the next flush repairs the file.
        """
        new = self.frames[self.flushed :]
        if self.path is not None:
            self._append(new, durably)
        if len(self.frames) > MOST_FRAMES:
            self.frames = [self.frame()]
        self.flushed = len(self.frames)

    def _append(self, new: Sequence[pd.DataFrame], durably: bool) -> None:
        assert self.path is not None
        frame = pd.concat(new) if new else pd.DataFrame(columns=self.columns)
        text = frame.to_csv(header=not self.length, index=False, na_rep="nan") if new or not self.length else ""
        content = text.encode()
        with writing(self.path):
            if content:
                # Overwrite what an earlier attempt left that failed on a full disk.
                with open(self.path, "r+b" if self.length else "wb", opener=not_through_links) as file:
                    file.seek(self.length)
                    file.truncate()
                    file.write(content)
                self.length += len(content)
                self.digest.update(content)
            if durably:
                sync(self.path)

    def frame(self) -> pd.DataFrame:
        """All rows."""
        return pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame(columns=self.columns)


def _listed(columns: Sequence[str], others: Sequence[str]) -> str:
    """Some columns in words: those that the others lack, if there are any, stand for all."""
    lacking = [name for name in columns if name not in others]
    return f"with {', '.join(lacking)}" if lacking else f"without {', '.join(n for n in others if n not in columns)}"


def _digest(content: bytes) -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)


def read_table(path: Path, limit: int = LARGEST_TABLE) -> pd.DataFrame:
    """Read a table without rounding; an incomplete last line is skipped.

    Raises:
        ValueError: it holds something else than numbers.
        OSError: it cannot be read, or has more than `limit` bytes.
    """
    return _parse(read_plain(path, limit).decode("utf-8"))


def _parse(content: str) -> pd.DataFrame:
    complete = io.StringIO(content[: content.rfind("\n") + 1])
    # Read as text: pandas' own parser of numbers is off by the last digit in some of its releases.
    text = pd.read_csv(complete, dtype=str, keep_default_na=False)
    kinds = {name: "int64" if name in COUNTS else "float64" for name in text.columns if name not in WORDS}
    try:
        return text.astype(kinds)
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
