"""Where a sweep keeps what it computes: a folder, or a URI such as ``s3://bucket/prefix`` that pyarrow understands."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyarrow.fs import FileSelector, FileSystem, FileType

T = TypeVar("T")

# What a plan needs to know of a run.
STATUS_FILES = ("status.json", "environment.json")

# Copied last, so that whoever sees a run's status also sees the files that it speaks of.
LAST = "status.json"

# Transfers at a time: most of one is waiting.
TRANSFERS = 16


class Storage:
    """A sweep's storage. A folder is used as it is; of a URI there is a local copy, fetched and sent file by file.

    Args:
        where: the folder or URI.

    Attributes:
        where: the same; a folder in full, as other processes see it.
        folder: the local folder.
        filesystem: None for a folder, else pyarrow's.
        path: the place within it.

    Raises:
        ValueError: the URI is none that pyarrow understands.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.filesystem: FileSystem | None = None
        if "://" not in where:
            self.folder = Path(where).expanduser().resolve()
            self.where = self.path = str(self.folder)
            return
        try:
            self.filesystem, path = FileSystem.from_uri(where)
        except Exception as error:
            raise ValueError(f"expected a folder, or a URI that pyarrow understands: {error}") from error
        self.path = path.rstrip("/")
        self.folder = Path(tempfile.mkdtemp(prefix="byzray-"))

    @property
    def shown(self) -> str:
        """As messages show it: without a URI's options, which may hold secrets."""
        return self.where.partition("?")[0]

    @property
    def runs(self) -> Path:
        """The local folder of the run directories."""
        return self.folder / "runs"

    def __enter__(self) -> "Storage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the local copy of a remote storage."""
        if self.filesystem is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pull(self, names: Sequence[str] = (), below: str = "") -> None:
        """Fetch files below a place into the local folder: all, or those of these names."""
        if self.filesystem is None:
            return
        found = self.filesystem.get_file_info(
            FileSelector(f"{self.path}/{below}".rstrip("/"), allow_not_found=True, recursive=True)
        )
        wanted = [one.path for one in found if one.type == FileType.File and (not names or one.base_name in names)]
        self._each(wanted, self._fetch)

    def push(self, below: str) -> None:
        """Send all files below a place of the local folder, or the one file there; what is gone here goes there."""
        if self.filesystem is None:
            return
        here = self.folder / below
        files = [here] if here.is_file() else [file for file in here.rglob("*") if file.is_file()]
        files = [file for file in files if not file.name.startswith(".")]
        self._each([file for file in files if file.name != LAST], self._send)
        self._each([file for file in files if file.name == LAST], self._send)
        if here.is_dir():
            there = self.filesystem.get_file_info(FileSelector(f"{self.path}/{below}", recursive=True))
            gone = [one.path for one in there if one.type == FileType.File and not self._local(one.path).exists()]
            self._each(gone, self.filesystem.delete_file)

    def _local(self, path: str) -> Path:
        return self.folder / path.removeprefix(self.path).lstrip("/")

    def _fetch(self, path: str) -> None:
        assert self.filesystem is not None
        local = self._local(path)
        local.parent.mkdir(parents=True, exist_ok=True)
        with self.filesystem.open_input_stream(path) as source, local.open("wb") as target:
            shutil.copyfileobj(source, target)

    def _send(self, file: Path) -> None:
        assert self.filesystem is not None
        path = f"{self.path}/{file.relative_to(self.folder).as_posix()}"
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with file.open("rb") as source, self.filesystem.open_output_stream(path) as target:
            shutil.copyfileobj(source, target)

    def put_aside(self, name: str) -> None:
        """Move a run's directory out of the way, to ``replaced/``: what was computed is kept."""
        old = f"runs/{name}"
        new = f"replaced/{name}.{time.strftime('%Y%m%d-%H%M%S')}"
        (self.folder / "replaced").mkdir(parents=True, exist_ok=True)
        if (self.folder / old).exists():
            (self.folder / old).rename(self.folder / new)
        if self.filesystem is None:
            return
        found = self.filesystem.get_file_info(FileSelector(f"{self.path}/{old}", recursive=True))
        for one in found:
            if one.type == FileType.File:
                target = f"{self.path}/{new}/{one.base_name}"
                self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
                self.filesystem.copy_file(one.path, target)
                self.filesystem.delete_file(one.path)

    @staticmethod
    def _each(items: Sequence[T], do: Callable[[T], None]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(do, items))
