"""Runs of a sweep as trials of Ray Tune."""

import math
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.search.repeater import TRIAL_INDEX

from actors.fleet import Fleet, bundle, largest_share, split
from actors.member import resolve
from actors.monitoring import Monitor
from actors.simulation import FleetSimulation
from actors.supervision import Supervision
from byzray.data import check_data, load_data
from byzray.datasets import Data
from byzray.environment import fingerprints, source_digests
from byzray.files import StorageFault
from byzray.mistakes import Failure, Interrupted, SetupError
from byzray.process_state import own_settings
from byzray.recording.loop import interrupt, recorded
from byzray.recording.simulation import Simulation
from byzray.recording.update import Update, Updates
from byzray.runs.checkpoints import CheckpointInterval, Checkpoints
from byzray.runs.directory import RunDirectory, RunExists
from byzray.runs.result import Result
from byzray.setups import Setup
from byzray.simulation import LocalSimulation
from sweeps.data import SharedData, key
from sweeps.definition import Search
from sweeps.storage import Storage
from sweeps.supervision import register_process

# The metric that trials report to Tune and a search maximises.
METRIC = "best_accuracy"

# The interval at which a remote storage is checked for a request to stop, in seconds.
ASK_SECONDS = 5.0

# The files of a run's directory that a failure changes.
FAILURE_FILES = ("setup.yaml", "error.txt", "status.json")

# The only parameter of trials whose setups are known in advance.
RUN = "run"

# By default at most so many runs share a GPU; more would gain nothing.
RUNS_PER_GPU = 4


@dataclass(frozen=True)
class Resources:
    """The resources that a run reserves; None: the defaults of :meth:`of`.

    Attributes:
        cpus: CPUs, shared evenly by the run's actors if it has several.
        gpus: GPUs, also shared; below one: a share of one GPU.
    """

    cpus: float | None = None
    gpus: float | None = None

    def of(self, setup: Setup) -> tune.PlacementGroupFactory:
        """The resources of a run of this setup in the cluster that Ray is connected to.

        By default a run in one process has one CPU and, where there are GPUs, the largest share of one that leaves no
        CPU idle, at least a quarter. The actors of a fleet have one CPU each or, on a small cluster, an even share.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = 0 if setup.device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
        if setup.actors is None:
            cpus = 1.0 if self.cpus is None else self.cpus
            per_gpu = min(RUNS_PER_GPU, int(sum(node.get("CPU", 0) for node in nodes) / (gpus * cpus))) if gpus else 0
            share = 1 / per_gpu if per_gpu else float(gpus > 0)
            return tune.PlacementGroupFactory([bundle(cpus, share if self.gpus is None else self.gpus)])
        count = actor_count(setup) + 1
        layout = setup.actors
        cpus = layout.cpus_per_actor or largest_share([node.get("CPU", 0) for node in nodes], count)
        share = layout.gpus_per_actor if layout.gpus_per_actor is not None else largest_share([1.0] * gpus, count)
        cpus = cpus if self.cpus is None else self.cpus / count
        share = share if self.gpus is None else self.gpus / count
        # The first bundle is empty: it is for the trial itself, which only waits for its actors.
        return tune.PlacementGroupFactory([{}, *[bundle(cpus, share)] * count])


def actor_count(setup: Setup) -> int:
    """The number of worker actors in a setup's layout."""
    assert setup.actors is not None
    return math.ceil(len(setup.trained) / setup.actors.workers_per_actor)


@dataclass(frozen=True)
class Job:
    """The parameters that all trials of a sweep share.

    Attributes:
        descriptions: the setup of each run, with its seed, by the name of its directory.
        search: finds the setups, if they are not known in advance.
        seeds: the seeds with which a search repeats each setup.
        where: the sweep's storage.
        shared: the data sets that the driver read, by their keys.
        data: the folder that holds data sets, for all others.
        download: whether missing data sets may be downloaded into it.
        import_paths: where the user's own classes are imported from.
        report_seconds: the time between two reports to Tune, at each of which the run waits.
        checkpoints: how often a run saves a state to continue from.
        supervision: of the actors of runs that have their own.
        sweep: the name of the sweep.
    """

    descriptions: Mapping[str, dict[str, Any]]
    search: Search | None
    seeds: tuple[int, ...]
    where: str
    shared: Mapping[str, SharedData]
    data: Path
    download: bool
    import_paths: tuple[str, ...]
    report_seconds: float
    checkpoints: CheckpointInterval
    supervision: Supervision
    sweep: str

    def setup(self, config: Mapping[str, Any]) -> Setup:
        """The setup of a trial, with its seed.

        Raises:
            SetupError, sweeps.grid.SweepError: it is not valid here.
        """
        if self.search is not None:
            return self.search.setup(config).model_copy(update={"seed": self.seeds[config.get(TRIAL_INDEX, 0)]})
        return resolve(self.descriptions[config[RUN]["name"]], list(self.import_paths))


class RunTrainable(tune.Trainable):
    """Computes one run after another, in this actor or on a fleet that it reuses.

    A call of `step` computes a stretch of a run. The record is the run's directory, not Tune's experiment: an
    unfinished run is continued from its own checkpoint, by whichever trial.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]  # see tune.with_parameters
        self.job = job
        self.storage = Storage(job.where)
        self.fleet: Fleet | None = None
        self.known: tuple[str, Data] | None = None
        self.shared: ray.ObjectRef | None = None  # the same data, in Ray's object store
        self.run: Setup | None = None
        self.monitor: Monitor | None = None
        self.asked = 0.0
        threads = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        torch.set_num_threads(max(1, threads))
        self._begin(config)

    def __repr__(self) -> str:
        """The name of this actor in dashboards; it computes one run after another."""
        return f"sweep {self.job.sweep}"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        if self.run is not None and self.storage.filesystem is not None:
            shutil.rmtree(self.storage.runs / RunDirectory.name(self.run), ignore_errors=True)
        register_process(self.storage, self.trial_id)
        self.updates = self._compute(config)
        self.last: Update | None = None
        self.run = None
        self.monitor = None
        self.pulled = False
        self.saved: Path | None = None

    def _compute(self, config: dict[str, Any]) -> Updates:
        setup = self.run = self.job.setup(config)
        self.storage.pull(f"runs/{RunDirectory.name(setup)}")
        self.pulled = True
        return (
            yield from recorded(
                setup,
                lambda: self._simulation(setup),
                fingerprints=self._fingerprints(setup),
                output=self.storage.runs,
                resume=True,
                checkpoints=self.job.checkpoints,
                figure=False,
            )
        )

    def _fingerprints(self, setup: Setup) -> dict[str, str]:
        shared = self.job.shared.get(key(setup))
        return fingerprints(setup, self.job.data) if shared is None else source_digests(setup) | shared.digests

    def _simulation(self, setup: Setup) -> Simulation:
        data = self._data(setup)
        check_data(setup, data)
        if self.job.search is not None and not len(data.x_test):
            raise SetupError(setup.label(), ["dataset: expected test examples, as search: optuna compares accuracies"])
        if setup.actors is None:
            return LocalSimulation(setup, data)
        if self.fleet is None:
            cohorts = split(len(setup.trained), actor_count(setup))
            group = ray.util.get_current_placement_group()
            self.fleet = Fleet(repr(self), cohorts, setup.actors, setup.device, group, self.job.supervision)
        if self.shared is None:
            self.shared = ray.put(data)
        return FleetSimulation(setup, self.shared, self.fleet, sweep=self.job.sweep)

    def _data(self, setup: Setup) -> Data:
        """The data set that the driver read, of which a node has one copy; else the data set is read here."""
        if self.known is None or self.known[0] != key(setup):
            self.known = self.shared = None  # so that two are never in memory at once
            if found := self.job.shared.get(key(setup)):
                self.shared = found.data
                self.known = (key(setup), ray.get(found.data))
            else:
                self.known = (key(setup), load_data(setup, self.job.data, self.job.download))
        return self.known[1]

    def step(self) -> dict[str, Any]:
        if self._stop_asked():
            self._leave()
            return {"run": None, "step": 0, METRIC: math.nan, "interrupted": True, "done": True}
        began = time.monotonic()
        try:
            while True:
                with own_settings():
                    self.last = next(self.updates)
                self._show(self.last)
                if not self.last.ended and time.monotonic() - began >= self.job.report_seconds:
                    break
        except StopIteration as end:
            self._end_monitor()
            return self._finished(end.value)
        except Exception as error:
            self._end_monitor()
            self._record(error)
            raise
        self._send_checkpoint()
        return self._report(self.last.step, self.last.loss, self.last.accuracy, self.last.best)

    def _show(self, update: Update) -> None:
        if self.monitor is None:
            self.monitor = Monitor(update.setup, self.job.sweep)
        self.monitor.show(update)

    def _end_monitor(self) -> None:
        if self.monitor is not None:
            self.monitor.end()

    def _stop_asked(self) -> bool:
        """Whether to stop; checked between stretches, on a remote storage at an interval of some seconds."""
        now = time.monotonic()
        if self.storage.filesystem is not None and now - self.asked < ASK_SECONDS:
            return False
        self.asked = now
        return self.storage.stop_asked()

    def _finished(self, result: Result) -> dict[str, Any]:
        self._send()
        place = f"runs/{RunDirectory.name(result.setup)}"
        self.storage.remove(f"{place}/checkpoints", f"{place}/error.txt")
        loss = float(result.metrics["Average loss"].iloc[-1]) if len(result.metrics) else math.nan
        last = float(result.evaluations["accuracy"].iloc[-1])
        # Fewer steps than the setup has if divergence ended the run.
        reported = self._report(len(result.metrics), loss, last, result.best_accuracy)
        # Tune also calls a trial done if its scheduler stopped it.
        return {**reported, "seconds": result.seconds, "reused": result.reused, "finished": True, "done": True}

    def _report(self, step: int, loss: float, accuracy: float, best: float) -> dict[str, Any]:
        assert self.run is not None
        name = RunDirectory.name(self.run)
        return {"run": name, "step": step, "loss": loss, "accuracy": accuracy, METRIC: best}

    def _record(self, error: Exception) -> None:
        """Record the error in the run's directory, unless another process is using it."""
        if self.run is None:  # the driver reports it
            return
        # A full disk must not hide the error.
        with suppress(RunExists, StorageFault), RunDirectory(self.storage.runs, self.run) as directory:
            log = "".join(traceback.format_exception(error))
            directory.fail(f"{type(error).__name__}: {error}", log)
        self._send(() if self.pulled else FAILURE_FILES)

    def _send(self, names: Sequence[str] = ()) -> None:
        if self.run is not None:
            place = f"runs/{RunDirectory.name(self.run)}"
            self.storage.push(*([f"{place}/{name}" for name in names] or [place]))

    def _send_checkpoint(self) -> None:
        """Send new files to a remote storage whenever a checkpoint was saved."""
        if self.storage.filesystem is None:
            return
        assert self.run is not None
        place = f"runs/{RunDirectory.name(self.run)}/checkpoints"
        saved = Checkpoints(self.storage.folder / place).paths()
        if saved and saved[0] != self.saved:
            self.saved = saved[0]
            self._send()
            self.storage.remove(place)  # older checkpoints, which were removed here

    def _leave(self) -> None:
        """Stop an unfinished run; it can be continued."""
        self._end_monitor()
        if self.last is None or self.last.ended:
            return
        # A failure to save, such as a full disk, must not affect the next run; the last checkpoint remains.
        with suppress(Interrupted, StopIteration, Failure):
            interrupt(self.updates, self.last)
        self._send()

    def cleanup(self) -> None:
        self._leave()
        if self.fleet is not None:
            self.fleet.close()
        self.storage.close()
