"""What a run leaves behind: its directory, and the result that Python callers get.

A run directory holds

    setup.yaml          the resolved setup
    environment.json    versions, devices, git commit
    metrics.csv         one row a step
    evaluations.csv     step, accuracy
    faults.csv          of a setup that declares faults: one row for each
    checkpoints/        the newest states to continue from, while the run is not finished
    parameters.npy      the final parameters
    accuracy.png, .svg  accuracy, and the variance-norm ratio against the bound
    status.json         running, interrupted, failed, stopped (early, by a sweep's scheduler) or finished; the last
                        step; where it diverged; the digests of the files, once it does not run any more
    log.txt             what happened to the run: starts, actors that were lost and replaced, damage, failures
    error.txt           of a failed run of a sweep: the traceback
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)

from byzray.arrays import LARGEST_VECTOR, read_vector
from byzray.checkpoints import Checkpoint, Checkpoints, Position, Record, parse_record
from byzray.divergence import Divergence
from byzray.environment import Environment
from byzray.files import (
    LARGEST_DESCRIPTION,
    expect_no_link,
    not_through_links,
    open_plain,
    read_plain,
    remove_temporaries,
    save,
)
from byzray.mistakes import lines, visible
from byzray.setups import Setup
from byzray.table import LARGEST_TABLE, Table, read_table

EVALUATION_COLUMNS = ("step", "accuracy")

FAULT_COLUMNS = ("step", "worker", "fault", "submission")

# What a finished run is known by.
FINAL_FILES = ("metrics.csv", "evaluations.csv", "faults.csv", "parameters.npy")

# Of these a status holds digests, if they are there; those of a finished run are there.
DIGESTED = (*FINAL_FILES, "setup.yaml", "environment.json")
NEEDED = ("metrics.csv", "evaluations.csv", "parameters.npy")

# Larger files are not the ones that were written, in bytes.
LARGEST = dict.fromkeys(("metrics.csv", "evaluations.csv", "faults.csv"), LARGEST_TABLE) | {
    "parameters.npy": LARGEST_VECTOR
}

# Folders next to runs that hold something else.
OTHER_FOLDERS = ("report", "tune", "replaced")

# The figure of a run.
FIGURES = ("accuracy.png", "accuracy.svg")

# Counts in files of others; larger ones do not fit into a table.
Count = Annotated[int, Field(ge=0, lt=2**63)]


class RunExists(Exception):
    """The run's directory exists and cannot simply be used; the message says why and how to go on."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


def _divergence(value: Any) -> Any:
    return Divergence(**value) if isinstance(value, dict) and value.keys() == set(Divergence._fields) else value


class Status(BaseModel):
    """What status.json holds.

    Attributes:
        state: what became of the run.
        step: how many steps were taken, when it was written.
        reason: why it failed or was stopped.
        seconds: how long its steps and evaluations took so far.
        diverged: where and why its parameters became non-finite.
        files: the SHA-256 of its files, unless it runs or failed.
    """

    model_config = ConfigDict(strict=True)

    state: Literal["running", "interrupted", "failed", "stopped", "finished"]
    step: Count
    reason: str | None = None
    seconds: float | None = None
    diverged: Annotated[Divergence, BeforeValidator(_divergence), PlainSerializer(Divergence._asdict)] | None = None
    files: dict[str, str] | None = None

    @field_validator("seconds")
    @classmethod
    def _in_milliseconds(cls, seconds: float | None) -> float | None:
        return seconds if seconds is None else round(seconds, 3)

    @field_validator("diverged")
    @classmethod
    def _at_a_step(cls, diverged: Divergence | None) -> Divergence | None:
        if diverged is not None and not 0 <= diverged.step < 2**63:
            raise ValueError(f"expected a step, got {diverged.step}")
        return diverged


class _Environment(BaseModel):
    """What is looked at of environment.json."""

    model_config = ConfigDict(extra="allow")

    files: dict[str, str] = {}
    earlier: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Result:
    """What a run computed.

    Attributes:
        setup: the resolved setup.
        metrics: one row a step; the 24 columns of `byzray.metrics.METRIC_COLUMNS`, or the first three without a study.
        evaluations: columns step and accuracy (a share of 1).
        parameters: (D,) the final parameters.
        directory: where it lies, if it was written.
        faults: of a setup that declares faults, columns step, worker, fault and submission (what became of it).
        diverged: where and why its parameters became non-finite, if they did.
        seconds: how long its steps and evaluations took; NaN if that is not known.
        reused: whether it was computed earlier and only read from there.
    """

    setup: Setup
    metrics: pd.DataFrame
    evaluations: pd.DataFrame
    parameters: NDArray[np.float32]
    directory: Path | None = None
    faults: pd.DataFrame | None = None
    diverged: Divergence | None = None
    seconds: float = float("nan")
    reused: bool = False

    @property
    def best_accuracy(self) -> float:
        """The highest accuracy that was measured."""
        return float(self.evaluations["accuracy"].max())


class RunDirectory:
    """The directory of one run: never overwritten, named after the whole resolved setup and its seed."""

    def __init__(self, root: Path, setup: Setup) -> None:
        self.setup = setup
        self.path = root / self.name(setup)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._lock = FileLock(self.path / ".lock")

    @staticmethod
    def name(setup: Setup) -> str:
        """A name that a person can read, made unique by a digest of the whole setup."""
        attack = setup.attack.label() if setup.attack is not None else "unattacked"
        words = [setup.dataset.label(), setup.defence.label(), attack, f"f{setup.byzantine}"]
        words += [f"at-{setup.momentum.placement}", f"seed{setup.seed}", setup.digest()]
        return re.sub(r"[^\w.+-]", "_", "-".join(words))

    def __enter__(self) -> "RunDirectory":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            expect_no_link(Path(self._lock.lock_file))  # which some releases of filelock follow, and empty the file
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunExists(f"{self.path}: another process is computing this run") from None
        except OSError as error:
            raise RunExists(f"{self.path}: cannot be used as a run directory: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not (self.path / "setup.yaml").exists():  # nothing was begun: leave no empty directory
            Path(self._lock.lock_file).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                self.path.rmdir()

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, empty for a new directory.

        Raises:
            RunExists: it is damaged.
        """
        return self._read_json("status.json", Status)

    def _read_json(self, name: str, kind: type[BaseModel]) -> dict[str, Any]:
        path = self.path / name
        try:
            return kind.model_validate_json(read_plain(path)).model_dump(exclude_none=True)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RunExists(
                f"{path}: is damaged ({explain(error)}). Delete this file and use --resume to continue from the last "
                "checkpoint, if there is one; or move the directory away to start over"
            ) from error

    def set_status(self, state: str, step: int, **more: Any) -> None:
        """Record what became of the run.

        Args:
            state: one of the states of :class:`Status`.
            step: how many steps were taken.
            more: other fields of it.

        Raises:
            StorageFault: it cannot be written.
        """
        content = Status(state=state, step=step, **more).model_dump(exclude_none=True)  # type: ignore[arg-type]
        save(self.path / "status.json", lambda path: _write_json(path, content))

    def log(self, text: str) -> None:
        """Add what happened, with the time, to log.txt; a log that cannot be written stops nothing."""
        path = self.path / "log.txt"
        with suppress(OSError), open(path, "a", encoding="utf-8", opener=not_through_links) as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    def examine(self, resume: bool, fingerprints: dict[str, str]) -> Result | None:
        """What the directory holds already: the result of a finished run, or nothing that stands in the way.

        Args:
            resume: whether an unfinished run may be continued.
            fingerprints: of the files that shape the result, see :func:`byzray.environment.fingerprints`.

        Raises:
            RunExists: it holds an unfinished run and `resume` is False, a run of something else, or damaged files.
        """
        known = self.path / "setup.yaml"
        if not known.exists():
            return None
        try:
            content = read_plain(known).decode("utf-8", errors="replace")
        except OSError as error:
            raise RunExists(f"{known}: cannot be read ({explain(error)}); move the directory away") from error
        if content != self.setup.yaml():
            raise RunExists(f"{known}: was changed since the run began; move the directory away to start anew")
        status = self.status
        finished = status.get("state") == "finished"
        if not (finished or self._begun()):  # a rule that failed at once, say, and was mended since
            return None
        self._compare(fingerprints)
        if finished:
            self.checkpoints.remove()  # which a process that was killed then may have left
            return self.result()
        if not resume:
            state = status.get("state", "running")
            state = "interrupted" if state == "running" else state  # none computes it: the lock is ours
            raise RunExists(
                f"{self.path}: holds this run, {state} at step {status.get('step', 0)} of {self.setup.steps}; "
                f"resume it (--resume {self._onwards()}), or move the directory away"
            )
        return None

    def _onwards(self) -> str:
        """What resuming would do."""
        newest = next(self.checkpoints.intact([]), None)
        if newest is not None:
            return f"continues it from step {newest.step}"
        if self.checkpoints.paths():
            return "refuses to, as its checkpoints are damaged"
        return "starts it anew, as no checkpoint was saved yet"

    def _compare(self, fingerprints: dict[str, str]) -> None:
        earlier = self.environment.get("files", {})
        for name, digest in fingerprints.items():
            if earlier.get(name, digest) != digest:
                raise RunExists(
                    f"{self.path}: was computed with another content of {name}; "
                    "move the directory away, or choose another for the output"
                )

    def _begun(self) -> bool:
        """Whether anything was computed that a new start would throw away."""
        try:
            with open_plain(self.path / "metrics.csv") as file:
                return sum(1 for _ in file) > 1
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunExists(f"{self.path}: is damaged ({explain(error)}); move the directory away") from error

    @property
    def environment(self) -> Environment:
        """The content of environment.json, empty if there is none."""
        return self._read_json("environment.json", _Environment)

    def begin(self, environment: Environment) -> None:
        """Describe the run that starts, or continues, now; where it computed before stays on record."""
        remove_temporaries(self.path)
        self.checkpoints.tidy()
        known = self.environment
        if known:
            environment = {**environment, "earlier": [*known.pop("earlier", []), known]}
        save(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        save(self.path / "environment.json", lambda path: _write_json(path, environment))

    def fail(self, reason: str, log: str) -> None:
        """Record why the run failed, for those who look later; whatever it computed stays."""
        known = self.status
        if not (self.path / "setup.yaml").exists():
            save(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        save(self.path / "error.txt", lambda path: _write_text(path, log))
        kept = {name: known.get(name) for name in ("seconds", "diverged")}
        self.set_status("failed", known.get("step", 0), reason=reason, **kept)

    def continued(
        self, tables: Mapping[str, Table], restore: Callable[[Checkpoint], None]
    ) -> tuple[Checkpoint, Record] | None:
        """The newest checkpoint from which the run can go on, with its record, none if none was saved.

        The simulation and the tables go back to it. Why newer ones cannot be used is logged.

        Args:
            tables: those of the run, by the names of their files.
            restore: has the simulation take up the state; raises ValueError or LookupError if that does not fit.

        Raises:
            RunExists: checkpoints were saved, and none can be used.
        """
        refused: list[str] = []
        for checkpoint in self.checkpoints.intact(refused):
            try:
                if checkpoint.step > self.setup.steps:
                    raise ValueError(f"the run has {self.setup.steps} steps")
                record = parse_record(checkpoint.record)
                contents = {name: _content(table, record.files.get(name)) for name, table in tables.items()}
                restore(checkpoint)
            except (ValueError, LookupError) as error:
                refused.append(f"the checkpoint of step {checkpoint.step} cannot be used: {error}")
                continue
            for reason in refused:
                self.log(reason)
            for name, table in tables.items():
                table.take_up(contents[name])
            return checkpoint, record
        if refused:
            raise RunExists(f"{'; '.join(refused)}; move {self.path} away to start anew")
        return None

    def finish(self, result: Result) -> None:
        """Write the final parameters and that the run is finished; the checkpoints are no longer needed.

        Raises:
            StorageFault: something cannot be written.
        """
        save(self.path / "parameters.npy", lambda path: _write_array(path, result.parameters))
        more = {"seconds": result.seconds, "diverged": result.diverged, "files": self.digests()}
        self.set_status("finished", len(result.metrics), **more)
        self.log("finished")
        (self.path / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        self.checkpoints.remove()

    def digests(self) -> dict[str, str]:
        """The SHA-256 of the files that a status has digests of, as far as they are there."""
        return {name: digest(self.path / name) for name in DIGESTED if (self.path / name).exists()}

    def draw(self, result: Result) -> str | None:
        """Draw the figure of a finished run if there is none; the run is what it is without it.

        Returns:
            why it could not be drawn; None: it was, or had been.
        """
        if all((self.path / name).exists() for name in FIGURES):
            return None
        try:
            from byzray.report import save_run_figure

            save_run_figure(result, self.path)
        except Exception as error:  # of matplotlib and its settings, of a full disk
            reason = visible(" ".join(f"no figure: {type(error).__name__}: {error}".split()))
            self.log(reason)
            return reason
        return None

    def result(self) -> Result:
        """What a finished run left.

        Raises:
            RunExists: one of its files is damaged.
        """
        status = self.status
        try:
            check_digests(self.path, status)
            faults, diverged = self.path / "faults.csv", status.get("diverged")
            return Result(
                setup=self.setup,
                metrics=read_table(self.path / "metrics.csv"),
                evaluations=read_table(self.path / "evaluations.csv"),
                parameters=read_vector(self.path / "parameters.npy"),
                directory=self.path,
                faults=read_table(faults) if faults.exists() else None,
                diverged=None if diverged is None else Divergence(**diverged),
                seconds=status.get("seconds", float("nan")),
                reused=True,
            )
        except (OSError, ValueError) as error:
            raise RunExists(
                f"{self.path}: is damaged ({explain(error)}); move the directory away to start anew"
            ) from error


def explain(error: Exception) -> str:
    """Why a file of a run cannot be read, in one line."""
    if isinstance(error, ValidationError):
        return lines(error)[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    return visible(" ".join(str(error).split()))


def read_status(folder: Path) -> Status | None:
    """The status.json of a run directory; None if there is none.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return Status.model_validate_json(read_plain(folder / "status.json"))
    except FileNotFoundError:
        return None


def check_digests(folder: Path, status: Mapping[str, Any], names: Collection[str] = DIGESTED) -> None:
    """Compare the files of a run with the digests in its status.

    Args:
        folder: the run's directory.
        status: the content of its status.json; a finished run has digests there, others may.
        names: the files to look at.

    Raises:
        ValueError: one is missing or was changed, or has no digest.
        OSError: one cannot be read.
    """
    known = status.get("files") or {}
    needed = {*known, *NEEDED} if status.get("state") == "finished" else {*known}
    for name in sorted(needed.intersection(names, DIGESTED)):
        if name not in known:
            raise ValueError(f"status.json has no digest of {name}, which every finished run has")
        if digest(folder / name, LARGEST.get(name, LARGEST_DESCRIPTION)) != known[name]:
            was = "" if status.get("state") == "finished" else "was "
            raise ValueError(f"{name} was changed since the run {was}{status.get('state')}")


def digest(path: Path, limit: int | None = None) -> str:
    """The SHA-256 of a plain file.

    Raises:
        OSError: it cannot be read, or has more than `limit` bytes.
    """
    with open_plain(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_directories(folder: Path, places: Iterable[str]) -> list[Path]:
    """The directories of runs at these places of a folder, without those of reports and of earlier runs."""
    found = (path.parent for place in places for path in folder.glob(f"{place}/setup.yaml"))
    return sorted(
        path
        for path in found
        if not any(part in OTHER_FOLDERS or part.startswith(".") for part in path.relative_to(folder).parts)
    )


def is_computed(folder: Path) -> bool:
    """Whether some process of this machine, or of one that shares its locks, computes the run in a directory."""
    try:
        with open_plain(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which closing the file gives back
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


def _content(table: Table, position: Position | None) -> bytes:
    assert table.path is not None
    if position is None:
        raise ValueError(f"{table.path}: was not there when it was saved")
    try:
        return table.content(position.model_dump())
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
