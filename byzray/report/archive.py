"""Many runs in one Parquet file: what a report needs of them, small enough to be kept and passed on.

A row is an evaluation. Its metrics are those of the step after it: curves of the loss and of the ratios have a point an
evaluation instead of one a step. Columns that concern the run are the same in all of its rows.

Anyone may have written the file: it is read as data, as directories of runs are.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from byzray.evaluation import OF_WORKERS
from byzray.files import write_atomically
from byzray.mistakes import WrongInput, visible
from byzray.report.collect import (
    LONGEST_REASON,
    Collection,
    Run,
    SweepFacts,
    checked,
    cleaned,
    each_once,
    expect_counting,
    simulated,
)
from byzray.runs.directory import DONE, explain

SUFFIX = ".parquet"

METRICS = ("loss", "sampled", "submitted")
"""Of :attr:`byzray.report.collect.Run.metrics`."""

OPTIONAL = ("kappa_hat", *OF_WORKERS)
"""Columns that few runs have, and earlier archives lack: a metric, and what is measured at an evaluation."""

TEXTS = ("run", "setup", "state", "parameters", "environment")
"""Columns of texts, each of which is held once, however many rows have it."""

SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.dictionary(pyarrow.int32(), pyarrow.string())) for name in TEXTS),
        ("step", pyarrow.int64()),
        ("accuracy", pyarrow.float64()),
        *((name, pyarrow.float64()) for name in METRICS),
        ("steps", pyarrow.int64()),
        ("diverged_at", pyarrow.int64()),
        ("seconds", pyarrow.float64()),
        *((name, pyarrow.float64()) for name in OPTIONAL),
    ]
)
"""Of the run: its setup and its environment as JSON, its state, how many steps it took and for how long, the step that
made its parameters non-finite, if any, and the SHA-256 of its parameters.npy."""

MOST_ROWS = 10**7

DIGEST = re.compile("[0-9a-f]{64}")


def is_archive(path: Path) -> bool:
    """Whether a path names an archive, rather than a folder of runs."""
    return path.suffix == SUFFIX and not path.is_dir()


def add_to_archive(path: Path, runs: Iterable[Run]) -> tuple[int, int]:
    """Put complete runs into an archive; one that is there already, of whatever layout on actors, stays as it is.

    Returns:
        how many runs were added, and how many it holds.

    Raises:
        WrongInput: the file is no archive.
    """
    before = _read(path, str(path)) if path.exists() else SCHEMA.empty_table().to_pandas()
    known = {simulated(run.setup) for run in _runs(before, [])}
    added = [run for run in runs if run.state in DONE and len(run.evaluations) and simulated(run.setup) not in known]
    whole = pd.concat([before, *map(_rows, added)]).sort_values(["run", "step"], ignore_index=True)
    table = pyarrow.Table.from_pandas(whole.astype(dict.fromkeys(TEXTS, "category")), SCHEMA, preserve_index=False)

    def write(target: Path) -> None:
        with target.open("wb") as file:  # pyarrow takes no names that are not UTF-8
            pyarrow.parquet.write_table(table, file, compression="zstd")

    write_atomically(path, write)
    return len(added), whole["run"].nunique()


def _rows(run: Run) -> pd.DataFrame:
    metrics = run.metrics.reindex(columns=["step", *METRICS, "kappa_hat"])
    evaluations = run.evaluations.reindex(columns=["step", "accuracy", *OF_WORKERS])
    rows = evaluations.merge(metrics, on="step", how="left").assign(
        run=run.name,
        setup=json.dumps(run.setup),
        state=run.state,
        steps=run.step,
        diverged_at=math.nan if run.diverged_at is None else run.diverged_at,
        seconds=run.seconds,
        parameters=run.digests.get("parameters.npy", ""),
        environment=json.dumps(run.environment),
    )
    return rows.astype({"step": "int64"})


def names_in(path: Path | None) -> frozenset[str]:
    """The names of the finished runs in an archive; without one, none.

    Raises:
        WrongInput: there is none, or the file is no archive.
    """
    if path is None:
        return frozenset()
    frame = _read(path, str(path))
    return frozenset(frame.loc[frame["state"] == "finished", "run"])


def read_archive(path: Path, shown: str) -> Collection:
    """The runs in an archive.

    Args:
        path: the file.
        shown: its name in messages.

    Raises:
        WrongInput: there is none, or the file is no archive.
    """
    notes: list[str] = []
    runs = each_once(_runs(_read(path, shown), notes), notes)
    if not runs:
        raise WrongInput(f"{shown}: holds no run that can be read" + "; ".join(["", *notes]))
    return Collection(runs, SweepFacts(), notes)


def _read(path: Path, shown: str) -> pd.DataFrame:
    try:
        with path.open("rb") as file:  # pyarrow takes no names that are not UTF-8
            metadata = pyarrow.parquet.read_metadata(file)
            if (rows := metadata.num_rows) > MOST_ROWS:
                raise WrongInput(f"{shown}: has {rows} rows, expected at most {MOST_ROWS}")
            absent = [name for name in OPTIONAL if name not in metadata.schema.names]
            present = [name for name in SCHEMA.names if name not in absent]
            table = pyarrow.parquet.read_table(file, columns=present, read_dictionary=TEXTS)
        for name in absent:
            table = table.append_column(name, pyarrow.nulls(rows, pyarrow.float64()))
        frame: pd.DataFrame = table.select(SCHEMA.names).cast(SCHEMA).to_pandas()
    except FileNotFoundError:
        raise WrongInput(f"{shown}: there is no such file, expected an archive of runs") from None
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise WrongInput(f"{shown}: is no archive of runs ({explain(error)})") from error
    return frame


def _runs(frame: pd.DataFrame, notes: list[str]) -> Iterator[Run]:
    for name, rows in frame.groupby("run", sort=True, observed=True):
        shown = visible(str(name))
        try:
            yield _run(shown, rows)
        except (ValueError, TypeError, RecursionError) as error:
            notes.append(f"{shown}: is damaged ({explain(error)[:LONGEST_REASON]}); it is not counted")


def _without_empty(table: pd.DataFrame, optional: Iterable[str]) -> pd.DataFrame:
    """The table without those optional columns of which no value is known."""
    return table.drop(columns=[name for name in optional if table[name].isna().all()])


def _run(name: str, rows: pd.DataFrame) -> Run:
    first = rows.iloc[0]
    if first["state"] not in DONE:
        raise ValueError(f"expected the state {' or '.join(DONE)}")
    expect_counting(rows, "step")
    if not rows["accuracy"].dropna().between(0, 1).all():
        raise ValueError("expected accuracies from 0 to 1")
    metrics = rows[["step", *METRICS, "kappa_hat"]].dropna(subset="loss").astype("float64")
    evaluations = rows[["step", "accuracy", *OF_WORKERS]].astype({"step": "float64"}).reset_index(drop=True)
    environment: Any = cleaned(json.loads(first["environment"]))
    if not DIGEST.fullmatch(first["parameters"]):
        raise ValueError("expected the SHA-256 of its parameters")
    return Run(
        name=name,
        setup=checked(json.loads(first["setup"])),
        state=first["state"],
        step=int(first["steps"]),
        seconds=float(first["seconds"]),
        diverged_at=None if math.isnan(first["diverged_at"]) else int(first["diverged_at"]),
        metrics=_without_empty(metrics, ("sampled", "submitted", "kappa_hat")),
        evaluations=_without_empty(evaluations, OF_WORKERS),
        environment=environment if isinstance(environment, dict) else {},
        digests={"parameters.npy": str(first["parameters"])},
    )
