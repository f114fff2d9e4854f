"""Many runs in one Parquet file: what a report needs of them, small enough to be kept and passed on.

A row is an evaluation. Its metrics are those of the step after it: curves of the loss and of the ratios have a point an
evaluation instead of one a step. Columns that concern the run are the same in all of its rows.

Anyone may have written the file: it is read as data, as directories of runs are.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from byzray.files import write_atomically
from byzray.mistakes import WrongInput, visible
from byzray.report.collect import LARGEST_TABLE, LONGEST_REASON, Collection, Run, SweepFacts, checked, expect_counting
from byzray.runs.directory import DONE, explain

SUFFIX = ".parquet"

METRICS = ("loss", "sampled", "submitted")
"""Of :attr:`byzray.report.collect.Run.metrics`."""

SCHEMA = pyarrow.schema(
    [
        ("run", pyarrow.string()),
        ("step", pyarrow.int64()),
        ("accuracy", pyarrow.float64()),
        *((name, pyarrow.float32()) for name in METRICS),
        ("setup", pyarrow.string()),
        ("state", pyarrow.string()),
        ("steps", pyarrow.int64()),
        ("diverged_at", pyarrow.int64()),
        ("seconds", pyarrow.float64()),
        ("parameters", pyarrow.string()),
        ("environment", pyarrow.string()),
    ]
)
"""Of the run: its setup and its environment as JSON, its state, how many steps it took and for how long, the step that
made its parameters non-finite, if any, and the SHA-256 of its parameters.npy."""


def is_archive(path: Path) -> bool:
    """Whether a path names an archive, rather than a folder of runs."""
    return path.suffix == SUFFIX and not path.is_dir()


def add_to_archive(path: Path, runs: Iterable[Run]) -> tuple[int, int]:
    """Put complete runs into an archive; one that is there already stays as it is.

    Returns:
        how many runs were added, and how many it holds.

    Raises:
        WrongInput: the file is no archive.
    """
    before = _read(path) if path.exists() else SCHEMA.empty_table()
    known = set(before["run"].unique().to_pylist())
    added = [run for run in runs if run.state in DONE and run.name not in known and len(run.evaluations)]
    tables = [before, *(pyarrow.Table.from_pandas(_rows(run), SCHEMA, preserve_index=False) for run in added)]
    whole = pyarrow.concat_tables(tables).sort_by([("run", "ascending"), ("step", "ascending")])

    def write(target: Path) -> None:
        pyarrow.parquet.write_table(whole, target, compression="zstd")

    write_atomically(path, write)
    return len(added), len(known) + len(added)


def _rows(run: Run) -> pd.DataFrame:
    metrics = run.metrics.reindex(columns=["step", *METRICS])
    return run.evaluations.merge(metrics, on="step", how="left").assign(
        run=run.name,
        setup=json.dumps(run.setup),
        state=run.state,
        steps=run.step,
        diverged_at=run.diverged_at,
        seconds=run.seconds,
        parameters=run.digests.get("parameters.npy", ""),
        environment=json.dumps(run.environment),
    )


def names_in(path: Path) -> frozenset[str]:
    """The names of the runs in an archive.

    Raises:
        WrongInput: there is none, or the file is no archive.
    """
    return frozenset(_read(path)["run"].unique().to_pylist())


def read_archive(path: Path, shown: str) -> Collection:
    """The runs in an archive.

    Args:
        path: the file.
        shown: its name in messages.

    Raises:
        WrongInput: there is none, or the file is no archive.
    """
    notes: list[str] = []
    runs = list(_runs(_read(path, shown).to_pandas(), notes))
    if not runs:
        raise WrongInput(f"{shown}: holds no run that can be read" + "; ".join(["", *notes]))
    return Collection(runs, SweepFacts(), notes)


def _read(path: Path, shown: str | None = None) -> pyarrow.Table:
    shown = str(path) if shown is None else shown
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise WrongInput(f"{shown}: expected at most {LARGEST_TABLE} bytes")
        # Opened here, as pyarrow takes no names that are not UTF-8.
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
        return table.select(SCHEMA.names).cast(SCHEMA)
    except FileNotFoundError:
        raise WrongInput(f"{shown}: there is no such file, expected an archive of runs") from None
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise WrongInput(f"{shown}: is no archive of runs ({explain(error)})") from error


def _runs(frame: pd.DataFrame, notes: list[str]) -> Iterator[Run]:
    for name, rows in frame.groupby("run", sort=True):
        shown = visible(str(name))
        try:
            yield _run(shown, rows)
        except (ValueError, TypeError, RecursionError) as error:
            notes.append(f"{shown}: is damaged ({explain(error)[:LONGEST_REASON]}); it is not counted")


def _run(name: str, rows: pd.DataFrame) -> Run:
    first = rows.iloc[0]
    if first["state"] not in DONE:
        raise ValueError(f"expected the state {' or '.join(DONE)}")
    expect_counting(rows, "step")
    if not rows["accuracy"].dropna().between(0, 1).all():
        raise ValueError("expected accuracies from 0 to 1")
    metrics = rows[["step", *METRICS]].dropna(subset="loss").astype("float64")
    environment: Any = json.loads(first["environment"])
    return Run(
        name=name,
        setup=checked(json.loads(first["setup"])),
        state=first["state"],
        step=int(first["steps"]),
        seconds=float(first["seconds"]),
        diverged_at=None if math.isnan(first["diverged_at"]) else int(first["diverged_at"]),
        metrics=metrics.dropna(axis="columns", how="all") if len(metrics) else metrics,
        evaluations=rows[["step", "accuracy"]].astype({"step": "float64"}).reset_index(drop=True),
        environment=environment if isinstance(environment, dict) else {},
        digests={"parameters.npy": str(first["parameters"])},
    )
