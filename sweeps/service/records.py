"""The record of a submitted sweep: what it is, and what is asked of it now. All that a service must not forget."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from byzray.client.models import Submission
from byzray.files import read_plain, replace_text, sync

Asked = Literal["run", "pause", "cancel"]

ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}-[0-9a-f]{10}")

# A folder with this suffix is being deleted.
DELETED = ".deleted"


class Record(BaseModel):
    """The record of a sweep.

    Attributes:
        id: its id, the name of its folder.
        owner: who submitted it.
        submission: what was submitted.
        name: of the sweep.
        runs: how many runs it has.
        submitted: when.
        asked: whether it is to be computed.
        round: how often it was resumed; what its driver reports belongs to a round.
        priority: among the sweeps of its owner.
        at_once: the largest number of runs at a time.
        versions: of the packages that its first runs were computed with.
        mix_versions: whether it goes on with other ones.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    submission: Submission
    name: str
    runs: int
    submitted: datetime
    asked: Asked = "run"
    round: int = 0
    priority: int = 0
    at_once: int | None = None
    versions: dict[str, str] = {}
    mix_versions: bool = False


class Records:
    """The records of a service.

    Args:
        folder: of its sweeps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, int], Record]] = {}

    def of(self, sweep: str) -> Path:
        """The folder of a sweep."""
        return self.folder / sweep

    def get(self, sweep: str) -> Record | None:
        """The record of a sweep; None if there is none. It is read again when it has changed."""
        if not ID.fullmatch(sweep):
            return None
        path = self.of(sweep) / "service.json"
        try:
            found = path.lstat()
            version = found.st_mtime_ns, found.st_ino
            known = self._known.get(sweep)
            if known is None or known[0] != version:
                known = self._known[sweep] = version, Record.model_validate_json(read_plain(path))
            return known[1]
        except (OSError, ValidationError):
            self._known.pop(sweep, None)
            return None

    def all(self) -> list[Record]:
        """All records, the newest first."""
        with suppress(FileNotFoundError):
            found = (self.get(path.name) for path in self.folder.iterdir())
            return sorted((one for one in found if one), key=lambda one: (one.submitted, one.id), reverse=True)
        return []

    def add(self, record: Record) -> Record:
        """Write the record of a new sweep; it is on the disk when this returns.

        Returns:
            the record; an earlier one, if there is one.
        """
        with self._locked():
            if (known := self.get(record.id)) is not None:
                return known
            self.of(record.id).mkdir(parents=True, exist_ok=True)
            self._write(record)
            sync(self.folder)  # the name of the sweep's folder, too
            return record

    def change(self, sweep: str, **changes: Any) -> Record | None:
        """Change some fields of a record; None if there is no such sweep."""
        with self._locked():
            record = self.get(sweep)
            if record is None:
                return None
            changed = record.model_copy(update=changes)
            if changed != record:
                self._write(changed)
            return changed

    def delete(self, sweep: str) -> None:
        """Delete a sweep with all its results."""
        with self._locked():
            folder = self.of(sweep)
            # First its name, so that it is either there as a whole or not at all.
            gone = folder.with_name(f".{sweep}.{time.time_ns()}{DELETED}")
            with suppress(FileNotFoundError):
                folder.rename(gone)
                sync(self.folder)
            self._known.pop(sweep, None)
        shutil.rmtree(gone, ignore_errors=True)

    def tidy(self) -> None:
        """Go on with what was being deleted when the service was killed."""
        for path in self.folder.glob(f".*{DELETED}"):
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".records.lock", timeout=30):
            yield

    def _write(self, record: Record) -> None:
        content = record.model_dump_json(indent=2) + "\n"
        replace_text(self.of(record.id) / "service.json", content)
