"""Setups that Optuna finds on the way, continued from what was found before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.repeater import Repeater

from byzray.results import RunDirectory, read_table
from sweeps.definition import Search
from sweeps.grid import SweepError
from sweeps.plan import DONE
from sweeps.storage import Storage

# What a search maximises.
METRIC = "best_accuracy"

# The draws of a search, in its storage: one JSON object a line.
DRAWS = "draws.jsonl"


def make_search(search: Search, seeds: tuple[int, ...], storage: Storage) -> tuple[Searcher, int]:
    """The searcher, and how many trials are left for it: each draw is repeated with every seed.

    Raises:
        SweepError: Optuna is not installed.
    """
    storage.pull((DRAWS,))
    earlier = _read(storage.folder / DRAWS)
    rewards = [_reward(search, draw, seeds, storage) for draw in earlier]
    finished = [(draw, reward) for draw, reward in zip(earlier, rewards, strict=True) if reward is not None]
    pending = [draw for draw, reward in zip(earlier, rewards, strict=True) if reward is None]
    # With the same seed again it would suggest the same again.
    inner = _optuna(search, search.sample.seed + len(earlier))
    for draw, reward in finished:
        inner.add_evaluated_point(draw, reward)
    searcher: Searcher = Continued(inner, pending, storage)
    if len(seeds) > 1:
        searcher = Repeater(searcher, repeat=len(seeds))
    return searcher, (search.sample.count - len(finished)) * len(seeds)


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
    """A search that first repeats the draws that were not finished, and writes down every draw."""

    def __init__(self, inner: Searcher, pending: list[dict[str, Any]], storage: Storage) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner = inner
        self.pending = pending
        self.storage = storage
        self.repeated: dict[str, dict[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.pending:
            self.repeated[trial_id] = self.pending.pop(0)
            return dict(self.repeated[trial_id])
        draw = self.inner.suggest(trial_id)
        if isinstance(draw, Mapping):
            with (self.storage.folder / DRAWS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(draw) + "\n")
            self.storage.push(DRAWS)
        return draw

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        draw = self.repeated.pop(trial_id, None)
        if draw is None:
            self.inner.on_trial_complete(trial_id, result, error)
        elif result is not None and not error:
            self.inner.add_evaluated_point(draw, result[METRIC])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the draws are written down."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see :meth:`save`."""


def _read(path: Path) -> list[dict[str, Any]]:
    """The draws of earlier calls; a last line that was cut off is left out."""
    if not path.exists():
        return []
    content = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]


def _reward(search: Search, draw: Mapping[str, Any], seeds: tuple[int, ...], storage: Storage) -> float | None:
    """The mean best accuracy of a draw; None if a seed's run is not done."""
    found = []
    for seed in seeds:
        setup = search.setup(draw).model_copy(update={"seed": seed})
        directory = RunDirectory(storage.runs, setup)
        storage.pull(("status.json", "evaluations.csv"), f"runs/{directory.path.name}")
        if directory.status.get("state") not in DONE:
            return None
        found.append(float(read_table(directory.path / "evaluations.csv")["accuracy"].max()))
    return sum(found) / len(found)
