"""Storage of a sweep's results: a folder, or a URI such as ``s3://bucket/prefix`` that pyarrow understands."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from byzray.files import write_atomically
from byzray.mistakes import visible

T = TypeVar("T")

# The files of a run that a plan reads.
STATUS_FILES = ("status.json", "environment.json")

# Copied last, in this order: a checkpoint needs the rows before it, and a status refers to both.
LAST = (".safetensors", "status.json")

# Transfers at a time; each spends most of its time waiting.
TRANSFERS = 16

# So many of a sweep's latest experiments of Ray Tune are kept.
EXPERIMENTS = 5

# The driver creates this file when it is asked to stop; actors of the sweep check for it between stretches.
STOP = ".stop"


class Storage:
    """A sweep's storage. A folder is used directly; a URI has a local copy, fetched and sent file by file.

    A URI has no locks: two sweeps with the same URI would compute the same runs.

    Args:
        where: the folder or URI.

    Attributes:
        where: the same; a folder in full, as other processes see it.
        folder: the local folder.
        filesystem: None for a folder, else pyarrow's.
        path: the place within it.

    Raises:
        ValueError: pyarrow does not understand the URI.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.filesystem: FileSystem | None = None
        if "://" not in where:
            self.folder = Path(where).expanduser().resolve()
            if self.folder.exists() and not self.folder.is_dir():
                raise ValueError("expected a folder, or a URI that pyarrow understands: this is a file")
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
        """The name in messages: without a URI's user and options, which may hold secrets."""
        scheme, separator, rest = self.where.partition("?")[0].rpartition("://")
        place = rest.rpartition("@")[2] if separator else rest
        return f"{scheme}{separator}{place}"

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

    def pull(self, *places: str, names: Sequence[str] = ()) -> None:
        """Fetch files, and everything below folders, into the local folder; with `names`, only files of these names."""
        if self.filesystem is None:
            return
        wanted = [path for place in places for path in self._files(place)]
        self._each([path for path in wanted if not names or path.rpartition("/")[2] in names], self._fetch)

    def push(self, *places: str) -> None:
        """Send files, and everything in local folders. Nothing is removed remotely, see :meth:`remove`."""
        if self.filesystem is None:
            return
        files: list[Path] = []
        for place in places:
            here = self.folder / place
            files += [here] if here.is_file() else [file for file in here.rglob("*") if file.is_file()]
        files = [file for file in files if not file.name.startswith(".")]
        self._each([file for file in files if not file.name.endswith(LAST)], self._send)
        for ending in LAST:
            self._each([file for file in files if file.name.endswith(ending)], self._send)

    def remove(self, *places: str) -> None:
        """Remove files from a remote storage that were removed locally."""
        if self.filesystem is not None:
            there = [path for place in places for path in self._files(place)]
            self._each([path for path in there if not self._local(path).exists()], self.filesystem.delete_file)

    def top(self) -> list[str]:
        """The names at the top level of a remote storage."""
        if self.filesystem is None:
            return []
        return [one.base_name for one in self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))]

    def ask_to_stop(self, ask: bool = True) -> None:
        """Ask the sweep's actors to save their runs and end; with `ask` False, withdraw the request."""
        path = f"{self.path}/{STOP}"
        if self.filesystem is None:
            Path(path).touch() if ask else Path(path).unlink(missing_ok=True)
        elif ask:
            self.filesystem.create_dir(self.path, recursive=True)
            self.filesystem.open_output_stream(path).close()
        elif self._files(STOP):
            self.filesystem.delete_file(path)

    def stop_asked(self) -> bool:
        """Whether the sweep's actors should save their runs and end."""
        return (self.folder / STOP).exists() if self.filesystem is None else bool(self._files(STOP))

    def _files(self, place: str) -> list[str]:
        """The remote files at or below a place."""
        assert self.filesystem is not None
        path = f"{self.path}/{place}".rstrip("/")
        found = self.filesystem.get_file_info(path)
        if found.type == FileType.File:
            return [path]
        below = self.filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
        return [one.path for one in below if one.type == FileType.File and not self._is_link(one.path)]

    def _is_link(self, path: str) -> bool:
        """Whether a file is a symbolic link on this machine, which may point to any other file."""
        return isinstance(self.filesystem, LocalFileSystem) and Path(path).is_symlink()

    def _local(self, path: str) -> Path:
        """The path of the local copy of a remote file.

        Raises:
            ValueError: it would be outside the local folder.
        """
        inside = path.removeprefix(self.path).lstrip("/")
        if ".." in inside.split("/"):
            raise ValueError(f"{self.shown}: holds {visible(inside)!r}, expected no '..' in the names of its files")
        return self.folder / inside

    def _fetch(self, path: str) -> None:
        local = self._local(path)
        local.parent.mkdir(parents=True, exist_ok=True)
        here = LocalFileSystem()
        write_atomically(local, lambda to: copy_files(path, str(to), self.filesystem, here, use_threads=False))

    def _send(self, file: Path) -> None:
        assert self.filesystem is not None
        path = f"{self.path}/{file.relative_to(self.folder).as_posix()}"
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        copy_files(str(file), path, LocalFileSystem(), self.filesystem, use_threads=False)

    def put_aside(self, name: str) -> None:
        """Move a run's directory to ``replaced/``, so that its results are kept."""
        old = f"runs/{name}"
        new = f"replaced/{name}.{time.strftime('%Y%m%d-%H%M%S')}"
        (self.folder / "replaced").mkdir(parents=True, exist_ok=True)
        if (self.folder / old).exists():
            (self.folder / old).rename(self.folder / new)
        if self.filesystem is None:
            return
        for path in self._files(old):
            target = f"{self.path}/{new}/{path.removeprefix(f'{self.path}/{old}/')}"
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            self.filesystem.copy_file(path, target)
            self.filesystem.delete_file(path)

    @staticmethod
    def _each(items: Sequence[T], do: Callable[[T], None]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(do, items))


def remove_old_experiments(storage: Storage) -> None:
    """Remove the files of Ray Tune's experiments but for the latest; nothing depends on them."""
    if storage.filesystem is not None:
        return
    found = sorted(path for path in (storage.folder / "tune").glob("*") if path.is_dir() and not path.is_symlink())
    for path in found[: max(0, len(found) - EXPERIMENTS)]:
        shutil.rmtree(path, ignore_errors=True)
