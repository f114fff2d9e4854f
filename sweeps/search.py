"""Search with Optuna for setups, continued from earlier draws."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.repeater import Repeater

from byzray.runs.directory import DONE, RunDirectory, read_state
from byzray.runs.table import read_table
from sweeps.definition import Search
from sweeps.grid import SweepError
from sweeps.storage import Storage
from sweeps.trainable import METRIC

# The file of a search's draws in its storage, one JSON object per line.
DRAWS = "draws.jsonl"

# Optuna may suggest this many invalid setups in a row.
TRIES = 100


@dataclass(frozen=True)
class Found:
    """The draws of a search so far.

    Attributes:
        finished: the draws whose runs are done for every seed, each with its mean best accuracy.
        pending: the other draws.
    """

    finished: list[tuple[dict[str, Any], float]]
    pending: list[dict[str, Any]]


def read_draws(search: Search, seeds: tuple[int, ...], storage: Storage) -> Found:
    """Read the draws in the storage, without those of another base or of other ranges.

    Raises:
        SweepError: their file, or one of their runs, is damaged.
    """
    storage.pull(DRAWS)
    finished, pending = [], []
    for draw in _read(storage.folder / DRAWS, search.digest(), search.sample.over):
        reward = _reward(search, draw, seeds, storage)
        if reward is None:
            pending.append(draw)
        else:
            finished.append((draw, reward))
    return Found(finished, pending)


def make_search(search: Search, found: Found, seeds: tuple[int, ...], storage: Storage) -> Searcher:
    """A searcher that first repeats the pending draws, and knows the finished ones.

    Raises:
        SweepError: Optuna is not installed.
    """
    # With the same seed it would suggest the same draws again.
    inner = _optuna(search, search.sample.seed + len(found.finished) + len(found.pending))
    for draw, reward in found.finished:
        inner.add_evaluated_point(draw, reward)
    searcher = Continued(search, inner, found.pending, storage)
    return searcher if len(seeds) == 1 else Repeater(searcher, repeat=len(seeds))


def _optuna(search: Search, seed: int) -> Searcher:
    try:
        from ray.tune.search.optuna import OptunaSearch

        space = OptunaSearch.convert_search_space({key: one.domain() for key, one in search.sample.over.items()})
        return OptunaSearch(space=space, metric=METRIC, mode="max", seed=seed)
    except (ImportError, AssertionError) as error:
        raise SweepError(
            "sample.search", [f"got 'optuna', which is not installed: pip install optuna ({error})"]
        ) from None


class Continued(Searcher):
    """A search that first repeats the draws that were not finished, and records every draw."""

    def __init__(self, search: Search, inner: Searcher, pending: list[dict[str, Any]], storage: Storage) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.search = search
        self.inner = inner
        self.pending = pending
        self.storage = storage
        self.repeated: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, str] = {}  # the names of trials in the inner search

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.storage.stop_asked():
            return None
        if self.pending:
            self.repeated[trial_id] = self.pending.pop(0)
            return dict(self.repeated[trial_id])
        for number in range(TRIES):
            name = f"{trial_id} {number}"  # Optuna suggests the same again for a name that it knows
            draw = self.inner.suggest(name)
            if not isinstance(draw, dict):
                return draw
            try:
                self.search.setup(draw)
            except SweepError:  # some combinations of values may not be valid
                self.inner.on_trial_complete(name, error=True)
            else:
                self.asked[trial_id] = name
                self._write(draw)
                return draw
        return Searcher.FINISHED  # type: ignore[return-value]  # as Tune expects it

    def _write(self, draw: Mapping[str, Any]) -> None:
        with (self.storage.folder / DRAWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"search": self.search.digest(), "draw": draw}) + "\n")
        self.storage.push(DRAWS)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        failed = error or result is None or math.isnan(result.get(METRIC, math.nan))
        draw = self.repeated.pop(trial_id, None)
        if draw is None:
            self.inner.on_trial_complete(self.asked.pop(trial_id), None if failed else result, failed)
        elif result is not None and not failed:
            self.inner.add_evaluated_point(draw, result[METRIC])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the draws are recorded in the storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see :meth:`save`."""


def _read(path: Path, digest: str, keys: Collection[str]) -> list[dict[str, Any]]:
    """The draws of earlier calls; an incomplete last line is skipped.

    Raises:
        SweepError: the file is damaged.
    """
    if not path.exists():
        return []
    draws: list[dict[str, Any]] = []
    try:
        content = path.read_text(encoding="utf-8")
        for line in content[: content.rfind("\n") + 1].splitlines():
            one = json.loads(line)
            if one["search"] == digest:
                draws.append({key: one["draw"][key] for key in keys})
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"is damaged ({type(error).__name__}: {error})"
        raise SweepError(str(path), [f"{reason}; correct it after draw {len(draws)}, or move it away"]) from error
    return draws


def _reward(search: Search, draw: Mapping[str, Any], seeds: tuple[int, ...], storage: Storage) -> float | None:
    """The mean best accuracy of a draw; None if the run of a seed is not done."""
    found = []
    for seed in seeds:
        setup = search.setup(draw).model_copy(update={"seed": seed})
        directory = RunDirectory(storage.runs, setup)
        storage.pull(*(f"runs/{directory.path.name}/{name}" for name in ("status.json", "evaluations.csv")))
        path = directory.path / "evaluations.csv"
        what = read_state(directory.path, [path.name])
        if what.state == "damaged":
            raise SweepError(str(directory.path), [f"is damaged ({what.reason}); move it away"])
        if what.state not in DONE:
            return None
        try:
            found.append(float(read_table(path)["accuracy"].max()))
        except (OSError, ValueError, LookupError) as error:
            raise SweepError(str(path), [f"is damaged ({error}); move its directory away"]) from error
    return sum(found) / len(found)
