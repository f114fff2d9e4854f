"""Checkpoints: states from which a run can continue, each in a file that shows whether it is intact.

A checkpoint is a safetensors file (never unpickled), named after its step and the digest of all its bytes:
``00000120-<32 hexadecimal digits>.safetensors``. A changed file no longer matches its name.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from byzray.files import expect_no_link, open_plain, remove_temporaries, sync, writing
from byzray.mistakes import lines

# The newest, and the one before in case the newest is damaged.
KEPT = 2

# The largest checkpoint that is read, in bytes.
LARGEST = 2**40

NAME = re.compile(r"(\d{8,})-([0-9a-f]{32})\.safetensors")


# The default interval between two checkpoints, in seconds ...
CHECKPOINT_SECONDS = 60.0

# ... which is longer where saving would take more than this share of the time.
CHECKPOINT_SHARE = 0.01


@dataclass(frozen=True)
class CheckpointInterval:
    """The interval between two checkpoints of a run.

    Attributes:
        steps: every so many steps.
        seconds: about every so many seconds; without either, about once a minute, but less often if saving is slow.
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``100`` (steps) or ``30s`` (seconds).

        Raises:
            ValueError: it is neither.
        """
        number = text.removesuffix("s")
        try:
            interval = cls(seconds=float(number)) if number != text else cls(steps=int(number))
        except ValueError:
            interval = cls(steps=0)
        if not 0 < (interval.seconds or interval.steps or 0) < math.inf:
            raise ValueError("expected a number of steps, such as 100, or of seconds, such as 30s")
        return interval

    def due(self, step: int, waited: float, cost: float) -> bool:
        """Whether to save a state now.

        Args:
            step: how many steps were taken.
            waited: seconds since the last checkpoint, or since the start.
            cost: seconds that the last checkpoint took; 0 if there is none.
        """
        if self.steps is not None:
            return step % self.steps == 0
        return waited > (self.seconds or max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE))


class Checkpoint(NamedTuple):
    """A state, its step and its record.

    Attributes:
        step: the number of steps taken.
        state: the tensors that the next step depends on.
        record: plain data that was saved with it.
    """

    step: int
    state: dict[str, Tensor]
    record: dict[str, Any]


class Damaged(Exception):
    """A checkpoint is not what was saved; the message names the file."""


class Position(BaseModel):
    """The end of a table when a checkpoint was saved, see :meth:`byzray.runs.table.Table.position`."""

    model_config = ConfigDict(strict=True)

    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    digest: str


class Record(BaseModel):
    """The record that a run saves with its state.

    Attributes:
        files: the positions of its tables, by the names of their files.
        seconds: how long it took so far.
        diverged: step and reason of its divergence.
    """

    model_config = ConfigDict(strict=True)

    files: dict[str, Position]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    diverged: tuple[NonNegativeInt, str] | None


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: their folder, created when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """The checkpoint files, newest first."""
        found = [path for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.partition("-")[0]), reverse=True)

    def intact(self, refused: list[str]) -> Iterator[Checkpoint]:
        """The intact checkpoints, newest first; the reasons for skipping others are appended to `refused`."""
        for path in self.paths():
            try:
                yield self.load(path)
            except Damaged as damage:
                refused.append(str(damage))

    def load(self, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            Damaged: it is not what was saved.
        """
        try:
            self.check(path)
            step = int(path.name.partition("-")[0])
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in list(file.keys())}
                return Checkpoint(step, state, json.loads(file.metadata()["record"]))
        except OSError as error:
            raise Damaged(f"{path}: cannot be read ({error.strerror or error})") from error
        except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:  # of another version
            raise Damaged(f"{path}: is no checkpoint of this version ({error})") from error

    def check(self, path: Path) -> None:
        """Compare a checkpoint with the digest in its name.

        Raises:
            Damaged: it is not what was saved.
        """
        match = NAME.fullmatch(path.name)
        assert match is not None
        try:
            found = _digest(path)
        except OSError as error:
            raise Damaged(f"{path}: cannot be read ({error.strerror or error})") from error
        if found != match[2]:
            raise Damaged(f"{path}: is damaged (expected the digest {match[2]}, found {found})")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove all earlier ones except the newest.

        Raises:
            StorageFault: it cannot be written; the earlier ones are intact.
        """
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
        temporary = self.folder / ".new.0"
        with writing(self.folder):
            expect_no_link(self.folder)
            self.folder.mkdir(exist_ok=True)
            temporary.unlink(missing_ok=True)  # a link of this name would be followed
            try:
                _write(content, temporary, {"record": json.dumps(checkpoint.record)})
                sync(temporary)
                path = self.folder / f"{checkpoint.step:08d}-{_digest(temporary)}.safetensors"
                temporary.rename(path)
                sync(self.folder)
            finally:
                temporary.unlink(missing_ok=True)
            self._forget(checkpoint.step, path)

    def _forget(self, step: int, newest: Path) -> None:
        """Remove checkpoints that are too old, and later ones if the run went back to an earlier step."""
        others = [path for path in self.paths() if path != newest]
        older = [path for path in others if int(path.name.partition("-")[0]) <= step]
        for path in {*others} - {*older[: KEPT - 1]}:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove temporary files of a process that was killed while it saved."""
        if not self.folder.is_symlink():
            remove_temporaries(self.folder)


def parse_record(content: Any) -> Record:
    """Check the record of a checkpoint.

    Raises:
        ValueError: it is something else.
    """
    try:
        return Record.model_validate_json(json.dumps(content))  # in which a tuple is a list
    except ValidationError as error:
        raise ValueError(f"its record is damaged ({lines(error)[0]})") from error


def _write(content: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(content, path, metadata=metadata)
    except SafetensorError as error:  # its error on a full disk
        raise OSError(str(error)) from error


def _digest(path: Path) -> str:
    with open_plain(path, LARGEST) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
