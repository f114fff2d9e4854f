"""What a run leaves behind: its directory, and the result that Python callers get.

A run directory holds

    setup.yaml          the resolved setup
    environment.json    versions, devices, git commit
    metrics.csv         one row a step
    evaluations.csv     step, accuracy
    checkpoint.safetensors   the state to continue from, while the run is not finished
    parameters.npy      the final parameters
    accuracy.png, .svg  accuracy, and the variance-norm ratio against the bound
    status.json         running, interrupted, failed, stopped (early, by a sweep's scheduler) or finished; the last step
    error.txt           of a failed run of a sweep: the traceback
"""

import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from byzray.environment import Environment
from byzray.metrics import METRIC_COLUMNS
from byzray.setups import Setup

EVALUATION_COLUMNS = ("step", "accuracy")

# The columns of either table that count something.
COUNTS = ("step", *METRIC_COLUMNS[:2])


class RunExists(Exception):
    """The run's directory exists and cannot simply be used; the message says why and how to go on."""


@dataclass(frozen=True)
class Result:
    """What a run computed.

    Attributes:
        setup: the resolved setup.
        metrics: one row a step; the 24 columns of `byzray.metrics.METRIC_COLUMNS`, or the first three without a study.
        evaluations: columns step and accuracy (a share of 1).
        parameters: (D,) the final parameters.
        directory: where it lies, if it was written.
        seconds: how long its steps and evaluations took; NaN if that is not known.
        reused: whether it was computed earlier and only read from there.
    """

    setup: Setup
    metrics: pd.DataFrame
    evaluations: pd.DataFrame
    parameters: NDArray[np.float32]
    directory: Path | None = None
    seconds: float = float("nan")
    reused: bool = False

    @property
    def best_accuracy(self) -> float:
        """The highest accuracy that was measured."""
        return float(self.evaluations["accuracy"].max())


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path`: a reader sees the old or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class RunDirectory:
    """The directory of one run: never overwritten, named after the whole resolved setup and its seed."""

    def __init__(self, root: Path, setup: Setup) -> None:
        self.setup = setup
        self.path = root / self.name(setup)
        self._lock = FileLock(self.path / ".lock")

    @staticmethod
    def name(setup: Setup) -> str:
        """A name that a person can read, made unique by a digest of the whole setup."""
        attack = setup.attack.label() if setup.attack is not None else "unattacked"
        words = [setup.dataset.label(), setup.aggregator.label(), attack, f"f{setup.byzantine}"]
        words += [f"at-{setup.momentum.placement}", f"seed{setup.seed}", setup.digest()]
        return re.sub(r"[^\w.+-]", "_", "-".join(words))

    def __enter__(self) -> "RunDirectory":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
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
            self.path.rmdir()

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, empty for a new directory."""
        return self._read_json("status.json")

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunExists(f"{path}: is damaged ({error}); move the directory away") from error
        return content if isinstance(content, dict) else {}

    def set_status(self, state: str, step: int, reason: str | None = None, seconds: float | None = None) -> None:
        """Record what became of the run, and how long its steps and evaluations took so far."""
        content = {"state": state, "step": step, "reason": reason, "seconds": seconds and round(seconds, 3)}
        content = {key: value for key, value in content.items() if value is not None}
        write_atomically(self.path / "status.json", lambda path: _write_json(path, content))

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
        if known.read_text(encoding="utf-8", errors="replace") != self.setup.yaml():
            raise RunExists(f"{known}: was changed since the run began; move the directory away to start anew")
        status = self.status
        finished = status.get("state") == "finished"
        if not (finished or self._begun()):  # a rule that failed at once, say, and was mended since
            return None
        self._compare(fingerprints)
        if finished:
            return self.result()
        if not resume:
            saved = self.checkpoint_step()
            onwards = f"continues it from step {saved}" if saved else "starts it anew, as no checkpoint was saved yet"
            raise RunExists(
                f"{self.path}: holds this run, {status.get('state', 'interrupted')} at step {status.get('step', 0)} "
                f"of {self.setup.steps}; resume it (--resume {onwards}), or move the directory away"
            )
        return None

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
            with (self.path / "metrics.csv").open() as file:
                return sum(1 for _ in file) > 1
        except FileNotFoundError:
            return False

    @property
    def environment(self) -> Environment:
        """The content of environment.json, empty if there is none."""
        return self._read_json("environment.json")

    def begin(self, environment: Environment) -> None:
        """Describe the run that starts, or continues, now; where it computed before stays on record."""
        known = self.environment
        if known:
            environment = {**environment, "earlier": [*known.pop("earlier", []), known]}
        write_atomically(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        write_atomically(self.path / "environment.json", lambda path: _write_json(path, environment))

    def fail(self, reason: str, log: str) -> None:
        """Record why the run failed, for those who look later; whatever it computed stays."""
        known = self.status
        if not (self.path / "setup.yaml").exists():
            write_atomically(self.path / "setup.yaml", lambda path: _write_text(path, self.setup.yaml()))
        write_atomically(self.path / "error.txt", lambda path: _write_text(path, log))
        self.set_status("failed", known.get("step", 0), reason, known.get("seconds"))

    def checkpoint_step(self) -> int:
        """The step of the checkpoint, 0 if there is none."""
        found = self.checkpoint()
        return found[1] if found else 0

    def checkpoint(self) -> tuple[dict[str, Tensor], int] | None:
        """The state to continue from and its step, if there is one."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) for name in names}, int(file.metadata()["step"])
        except Exception as error:
            raise RunExists(f"{path}: is damaged ({error}); move the directory away to start anew") from error

    def save_checkpoint(self, state: dict[str, Tensor], step: int) -> None:
        """Keep the state to continue from."""
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        write_atomically(
            self.path / "checkpoint.safetensors", lambda path: save_file(content, path, metadata={"step": str(step)})
        )

    def tables(self, columns: Sequence[str], step: int) -> tuple["Table", "Table"]:
        """The tables of metrics and evaluations, cut back to the rows before `step`.

        Raises:
            RunExists: rows are missing.
        """
        interval = self.setup.evaluation_interval
        expected = {"metrics.csv": range(step), "evaluations.csv": range(0, step, interval) if interval else range(0)}
        tables = []
        for (name, steps), names in zip(expected.items(), (columns, EVALUATION_COLUMNS), strict=True):
            path = self.path / name
            try:
                table = Table(names, path, step)
            except ValueError as error:
                raise RunExists(f"{path}: is damaged ({error}); move the directory away to start anew") from error
            if table.steps() != list(steps):
                raise RunExists(
                    f"{path}: is damaged (expected {len(steps)} rows before step {step}, found {len(table.steps())}); "
                    "move the directory away to start anew"
                )
            table.write()
            tables.append(table)
        return tables[0], tables[1]

    def finish(self, result: Result, figure: bool = True) -> None:
        """Write the final parameters and, if asked for, the figure; the checkpoint is no longer needed."""
        from byzray.report import save_run_figure

        write_atomically(self.path / "parameters.npy", lambda path: _write_array(path, result.parameters))
        if figure:
            save_run_figure(result, self.path)
        self.set_status("finished", self.setup.steps, seconds=result.seconds)
        (self.path / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)

    def result(self) -> Result:
        """What a finished run left.

        Raises:
            RunExists: one of its files is damaged.
        """
        try:
            return Result(
                setup=self.setup,
                metrics=read_table(self.path / "metrics.csv"),
                evaluations=read_table(self.path / "evaluations.csv"),
                parameters=np.load(self.path / "parameters.npy", allow_pickle=False),
                directory=self.path,
                seconds=self.status.get("seconds", float("nan")),
                reused=True,
            )
        except (OSError, ValueError) as error:
            raise RunExists(f"{self.path}: is damaged ({error}); move the directory away to start anew") from error


class Table:
    """Rows that grow in memory and, where there is a file, at each flush in that CSV file too, exactly as they are.

    Args:
        columns: their names.
        path: the file.
        before: rows of an existing file are taken up if their first column, the step, is below this.

    Raises:
        ValueError: the file holds something else than numbers.
    """

    def __init__(self, columns: Sequence[str], path: Path | None = None, before: int = 0) -> None:
        self.columns = list(columns)
        self.path = path
        self.frames: list[pd.DataFrame] = []
        self.flushed = 0  # how many of the frames the file holds
        if path is not None and path.exists() and before:
            known = read_table(path)
            self.frames.append(known[known[self.columns[0]] < before])

    def steps(self) -> list[int]:
        """The first column."""
        return self.frame()[self.columns[0]].tolist()

    def write(self) -> None:
        """Write the file anew."""
        self.flushed = len(self.frames)
        if self.path is not None:
            write_atomically(self.path, lambda path: self.frame().to_csv(path, index=False, na_rep="nan"))

    def extend(self, frame: pd.DataFrame) -> None:
        """Add rows with the table's columns."""
        self.frames.append(frame)

    def flush(self) -> None:
        """Add to the file what it lacks."""
        new = self.frames[self.flushed :]
        if self.path is not None and new:
            pd.concat(new).to_csv(self.path, mode="a", header=False, index=False, na_rep="nan")
        if len(self.frames) > 1:  # a frame of few rows takes far more memory than they do
            self.frames = [self.frame()]
        self.flushed = len(self.frames)

    def frame(self) -> pd.DataFrame:
        """All rows."""
        return pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame(columns=self.columns)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table, every number exactly as it was written; a last line that was cut off is left out.

    Raises:
        ValueError: it holds something else than numbers.
    """
    content = path.read_text(encoding="utf-8")
    complete = io.StringIO(content[: content.rfind("\n") + 1])
    # Read as text: pandas' own parser of numbers is off by the last digit in some of its releases.
    text = pd.read_csv(complete, dtype=str, keep_default_na=False)
    return text.astype({name: "int64" if name in COUNTS else "float64" for name in text.columns})


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
