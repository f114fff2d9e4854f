"""Trials of Ray Tune that start when it is their sweep's turn on a cluster that sweeps share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher, SearchGenerator

from sweeps.fair_share import Bundles
from sweeps.queue import Leases
from sweeps.trainable import METRIC, RUN


class Planned(Searcher):
    """Suggests the runs of a plan in their order.

    Args:
        runs: the name of each run, and the values by which TensorBoard can sort runs.
    """

    def __init__(self, runs: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.runs = iter(runs.items())

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        for name, values in self.runs:
            return {RUN: {"name": name, **values}}
        return Searcher.FINISHED  # type: ignore[return-value]  # as Tune expects it

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the runs do not depend on each other."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the run directories hold what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see :meth:`save`."""


class TakingTurns(SearchGenerator):
    """Lets Tune create a trial only with a lease.

    Without one it is finished as far as Tune can see, so that Tune keeps no actors for a next trial, and ends the
    experiment when no trial is left; :attr:`waiting` says how many trials are left for another one.

    Args:
        searcher: suggests the trials.
        leases: the sweep's.
        needs: what each trial reserves, in the order of the trials; the last is that of all that follow.
        stopping: whether no trial is to begin any more.
    """

    def __init__(
        self, searcher: Searcher, leases: Leases, needs: Iterable[Bundles], waiting: int, stopping: Callable[[], bool]
    ) -> None:
        super().__init__(searcher)
        self.leases = leases
        self.waiting = waiting
        self.stopping = stopping
        self._needs = iter(needs)
        self._wanted = next(self._needs)
        self._free: int | None = None  # a lease that no trial has yet
        self._of: dict[str, int] = {}  # the leases of trials

    @property
    def may_begin(self) -> bool:
        """Whether there is a lease for the next trial."""
        return self._free is not None

    def ask(self, instead: int | None = None) -> bool:
        """Ask for a turn, unless there is a lease for the next trial; returns whether there is one.

        Args:
            instead: the lease of a trial that has just ended.
        """
        if self._free is not None or not self.waiting or self.stopping():
            if instead is not None:
                self.leases.give_back(instead)
        else:
            self._free = self.leases.take(self._wanted, self.waiting, instead)
        return self._free is not None

    def next_trial(self) -> Trial | None:
        if self._free is None:
            return None
        trial = super().next_trial()
        if trial is None:
            if super().is_finished():
                self.waiting = 0
                self._give_back()
            return None
        self._of[trial.trial_id], self._free = self._free, None
        self.waiting -= 1
        self._wanted = next(self._needs, self._wanted)
        self.ask()
        return trial

    def is_finished(self) -> bool:
        return self._free is None or super().is_finished()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.ask(instead=self._of.pop(trial_id, None))

    def end(self) -> None:
        """The experiment has ended, with or without its trials."""
        self._give_back(*self._of.values())
        self._of.clear()

    def _give_back(self, *leases: int) -> None:
        spare = [] if self._free is None else [self._free]
        self._free = None
        self.leases.give_back(*leases, *spare)

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: Any) -> None:
        """Do nothing: sweeps do not restore Tune's experiments."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SearchGenerator, (Searcher(),)  # Tune saves it to restore an experiment, which sweeps do not do
