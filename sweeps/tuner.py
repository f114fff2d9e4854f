"""Execution of a sweep with Ray Tune: every waiting run of the plan becomes a trial."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

import actors
from actors.fleet import PLACEMENT_SECONDS, room
from actors.nodes import nodes, unshared
from actors.supervision import Supervision
from byzray.files import expect_no_link
from byzray.mistakes import WrongInput
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.directory import RunDirectory, RunExists
from byzray.setups import Actors, Setup
from sweeps.conditions import condition_variables, sorted_by
from sweeps.data import SharedData, key, share
from sweeps.definition import Sweep
from sweeps.grid import SweepError
from sweeps.observer import Observer
from sweeps.outcome import Outcome
from sweeps.plan import PLAN_FILES, REPLACED, Plan
from sweeps.progress import Progress, SweepMetrics
from sweeps.queue import Leases, Turns
from sweeps.search import make_search, read_draws
from sweeps.storage import Storage, remove_old_experiments
from sweeps.supervision import Supervisor, unregister_processes
from sweeps.taking_turns import Planned, TakingTurns
from sweeps.trainable import FAILURE_FILES, METRIC, RUN, Job, Resources, RunTrainable

# A run reports at about this interval; with early stopping, at each evaluation.
REPORT_SECONDS = 0.25

# Trials send their buffered results at about this interval, in seconds; scheduling decisions are as coarse.
BUFFER_SECONDS = "1"

# As many trials as this may wait for their actors to start; Tune itself would start one after another.
MOST_PENDING = "200"

# A sweep asks whether it is its turn after so many seconds, then less and less often.
TURN_SECONDS, LONGEST_TURN_SECONDS = 0.25, 2.0

# Between experiments the sweep is polled at this interval, in seconds.
POLL_SECONDS = 0.25

# The interval at which the free resources of the cluster are checked, in seconds.
ROOM_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """How a sweep is computed; none of these options affects its results.

    Attributes:
        resources: what each run reserves.
        retries: how often a failed run is retried.
        data: the folder that holds data sets.
        download: whether missing data sets may be downloaded into it.
        address: of a running Ray cluster.
        checkpoints: how often a run saves a state to continue from.
        supervision: of the actors that compute runs.
        turns: how it takes turns with other sweeps, on a cluster that was not started for it.
    """

    resources: Resources
    retries: int
    data: Path
    download: bool = False
    address: str | None = None
    checkpoints: CheckpointInterval = CheckpointInterval()
    supervision: Supervision = Supervision()
    turns: Turns = field(default_factory=Turns)


# Of the latest experiment in this process: a second interrupt does not wait for it.
_latest: Future[Any] = Future()
_latest.set_result(None)


def run_sweep(plan: Plan, storage: Storage, options: Options, observer: Observer) -> Outcome:
    """Compute the waiting runs of a plan.

    Raises:
        byzray.mistakes.WrongInput: another process computes the sweep, or nodes of the cluster do not see the storage.
        sweeps.grid.SweepError: a search or early stopping needs accuracies, and a data set has no test examples.
        actors.FleetError: the cluster has no room for a single run.
    """
    if not _latest.done():
        observer.message("waiting for a sweep that was interrupted twice: its trials are saving their runs")
        _wait_for(_latest)
    with in_sole_use(storage):
        storage.ask_to_stop(False)  # an earlier call may have left the request
        unregister_processes(storage)
        plan.save(storage.folder)
        storage.push(*PLAN_FILES)
        if not plan.waiting and plan.sweep.search is None:
            return Outcome(storage.shown, earlier=len(plan.runs))
        alone = actors.connect(options.address, output=False)
        _expect_shared(storage)
        tune_run = TuneRun(plan, storage, options, observer, alone)  # which raises if there is no room
        for run in plan.waiting:
            if run.state in REPLACED:
                storage.put_aside(run.name)
        try:
            return tune_run.run()
        finally:
            if _latest.done():  # else an interrupt did not wait, and trials have yet to save their runs and end
                storage.ask_to_stop(False)
                unregister_processes(storage)


def _expect_shared(storage: Storage) -> None:
    """Refuse a folder that other nodes do not see: the results of runs there would be lost.

    Raises:
        byzray.mistakes.WrongInput: there are nodes that do not see the storage.
    """
    if storage.filesystem is None and len(nodes()) > 1 and (apart := unshared(storage.folder)):
        raise WrongInput(
            f"output: got {storage.shown}, which is not one folder on all nodes of the cluster (not on "
            f"{', '.join(apart)}); expected a folder that all of them mount and can write to, or a URI such as "
            "s3://bucket/prefix; `byzray doctor --output DIR` checks a folder"
        )


def _expect_tests(sweep: Sweep, setups: Iterable[Setup], shared: Mapping[str, SharedData]) -> None:
    """Refuse data sets without test examples where a search or early stopping compares accuracies.

    A data set that cannot be read here is checked by its runs.

    Raises:
        SweepError: a data set has no test examples.
    """
    if sweep.search is None and sweep.early_stopping is None:
        return
    which = "search: optuna" if sweep.search is not None else "early_stopping"
    empty = {name for name, one in shared.items() if not one.tests}
    without = {key(setup): setup.dataset for setup in setups if key(setup) in empty}
    mistakes = [
        f"dataset: got {dataset.describe()}, which has no test examples; expected some, as {which} compares accuracies"
        for dataset in without.values()
    ]
    if mistakes:
        raise SweepError(sweep.name, mistakes)


def first_line(reason: str) -> str:
    """The first line of a reason, cut at 200 characters; the run's error.txt has the whole."""
    line = (reason.splitlines() or [""])[0]
    return line if len(line) <= 200 else f"{line[:197]}..."


@contextmanager
def in_sole_use(storage: Storage) -> Iterator[None]:
    """Lock the storage, as two drivers in one folder would only wait for each other's runs.

    Raises:
        byzray.mistakes.WrongInput: another process holds the lock.
    """
    storage.folder.mkdir(parents=True, exist_ok=True)
    expect_no_link(storage.folder / ".lock")
    lock = FileLock(storage.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WrongInput(f"{storage.shown}: another process computes this sweep; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


class TuneRun:
    """Experiments of Tune: every waiting run of a plan becomes a trial.

    There is one, unless other sweeps use the cluster: then it ends when they have their turn, and another one follows.
    """

    def __init__(self, plan: Plan, storage: Storage, options: Options, observer: Observer, alone: bool) -> None:
        self.plan = plan
        self.storage = storage
        self.options = options
        self.observer = observer
        self.outcome = Outcome(storage.shown)
        self.settled: set[str] = set()
        self.interrupted = False  # by a KeyboardInterrupt
        self.fitted: Future[Any] = Future()
        self.failing: dict[str, str] = {}  # why runs failed that will be retried
        self.search = plan.sweep.search
        self.buffers = plan.sweep.early_stopping is None
        examples = [run.setup for run in plan.waiting] if self.search is None else self.search.examples()
        self.needs = _needs(examples, options.resources)
        self.outcome.slots = min(slots(need) for need in self.needs.values())
        shared = share(examples, options.data, options.download)
        _expect_tests(plan.sweep, examples, shared)
        self.job = Job(
            descriptions={run.name: run.setup.describe() for run in plan.waiting},
            search=self.search,
            seeds=plan.seeds,
            where=storage.where,
            shared=shared,
            data=options.data.resolve(),
            download=options.download,
            import_paths=tuple(sys.path),
            report_seconds=REPORT_SECONDS if self.buffers else 0.0,
            checkpoints=options.checkpoints,
            supervision=options.supervision,
            sweep=plan.sweep.name,
        )
        self.longest = max(setup.steps for setup in examples)
        total = len(plan.runs) if self.search is None else self.search.sample.count * len(plan.seeds)
        self.progress = Progress(plan, total, self.outcome.slots)
        self.supervisor = Supervisor(storage, options.supervision.deadline)
        self.watch = _Watch(self)
        self.shortage = _Shortage(self)
        self.stopper = _Stopper(self.watch, self.shortage)
        self.alone = alone
        self.leases: Leases | None = None
        self.turns: TakingTurns | None = None
        self.experiments = 0
        self.asked, self.patience = 0.0, TURN_SECONDS

    def run(self) -> Outcome:
        outcome = self.outcome
        searcher, samples = self._searcher()
        outcome.earlier = self.progress.done
        if samples:
            with (
                self._observed(),
                self._taking_turns(),
                SweepMetrics(self.plan.sweep.name, self.progress),
                _tune_settings(self.buffers, self.alone),
            ):
                self._fit(self._experiments(searcher, samples))
        self.settle()
        outcome.failed |= self.failing
        outcome.interrupted = self.stopper.stopping is not None
        outcome.stranded = self.shortage.final
        if self.watch.began is not None:
            outcome.seconds = time.monotonic() - self.watch.began
            held = outcome.seconds * outcome.slots if self.leases is None else self.leases.seconds
            outcome.busy = self.progress.computing / held
        return outcome

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        if self.alone:
            yield
            return
        self.leases = Leases(self.storage.where, self.plan.sweep.name, self.options.turns)
        try:
            yield
        finally:
            self.leases.close()

    def _experiments(self, searcher: Searcher | None, samples: int) -> Iterator[tune.Tuner]:
        """One after another, as long as trials are left."""
        remove_old_experiments(self.storage)
        if self.leases is None:
            yield self._tuner(searcher, samples)
            return
        needs = [need.bundles for need in self.needs.values()]  # of a search, those of some setups that it may find
        if searcher is None:
            searcher, samples = Planned(self._runs()), len(self.plan.waiting)
        while samples:
            wanted = needs[-samples:] if self.search is None else needs[:1]
            self.turns = TakingTurns(searcher, self.leases, wanted, samples, lambda: self.stopper.stopping is not None)
            self.turns.ask()
            while not self.turns.may_begin:
                self._show_why()
                time.sleep(POLL_SECONDS)
                self.poll()
                if self.stopper.stop_all():
                    return
            remove_old_experiments(self.storage)
            try:
                yield self._tuner(self.turns, samples)
            finally:
                self.turns.end()
            samples = self.turns.waiting
            if self.stopper.stop_all():
                return

    def _show_why(self) -> None:
        """Show why no further run starts, if one could; as a message, if none is running."""
        assert self.leases is not None
        progress, answer, before = self.progress, self.leases.answer, self.progress.why
        progress.why, progress.stuck = answer.why, answer.stuck
        if answer.why and not before and not progress.running:
            self.observer.message(answer.why)

    def _fit(self, tuners: Iterable[tune.Tuner]) -> None:
        """Run Tune in a thread: an interrupt would end it half-way, and its actors would stay.

        Raises:
            KeyboardInterrupt: after all running trials have been saved; a second one does not wait for that.
        """

        def fit() -> None:
            try:
                for tuner in tuners:
                    tuner.fit()
                self.fitted.set_result(None)
            except BaseException as error:
                self.fitted.set_exception(error)

        global _latest
        _latest = self.fitted
        Thread(target=fit, name="tune", daemon=True).start()
        try:
            _wait_for(self.fitted)
        except KeyboardInterrupt:
            self.interrupted = True
            if self.observer.stop_asked():  # the command has handled a first signal
                raise
            self.observer.message("interrupted: saving the running trials")
            _wait_for(self.fitted)
            self.settle()
            raise
        self.fitted.result()

    @contextmanager
    def _observed(self) -> Iterator[None]:
        self.observer.begin(f"{self.plan.sweep.name}: {self.storage.shown}", self.progress)
        try:
            yield
        finally:
            self.observer.end()

    def _tuner(self, searcher: Searcher | TakingTurns | None, samples: int) -> tune.Tuner:
        options = self.options
        self.experiments += 1
        trainable = tune.with_parameters(RunTrainable, job=self.job)
        return tune.Tuner(
            tune.with_resources(trainable, self._resources()),
            param_space=self._space() if searcher is None else {},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=samples,
                scheduler=self._scheduler(),
                reuse_actors=True,
                trial_dirname_creator=_directory_of,
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{self.experiments}",
                storage_path=f"{self.storage.path}/tune",
                storage_filesystem=self.storage.filesystem,
                failure_config=tune.FailureConfig(max_failures=options.retries),
                # The run's own directory holds its checkpoints.
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                stop=self.stopper,
                callbacks=[self.watch],
                progress_reporter=_NoReporter(),
                verbose=0,
                log_to_file=True,
            ),
        )

    def _resources(self) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
        """A function that returns what a trial reserves; it is pickled, so it must not refer to this object."""
        search, resources, needs = self.search, self.options.resources, self.needs
        if search is not None:
            return lambda config: resources.of(search.setup(config))
        return lambda config: needs[config[RUN]["name"]]

    def _space(self) -> dict[str, Any]:
        """The parameter space: the runs."""
        return {RUN: tune.grid_search([{"name": name, **values} for name, values in self._runs().items()])}

    def _runs(self) -> dict[str, dict[str, Any]]:
        """The runs to compute, each with the values by which TensorBoard can sort runs."""
        return {run.name: sorted_by(condition_variables(run.setup.describe())) for run in self.plan.waiting}

    def _searcher(self) -> tuple[Searcher | None, int]:
        """The searcher, if the sweep has a search, and the number of trials left for it."""
        if self.search is None:
            return None, 1
        found = read_draws(self.search, self.plan.seeds, self.storage)
        left = max(0, self.search.sample.count - len(found.finished)) * len(self.plan.seeds)
        self.progress.done = len(found.finished) * len(self.plan.seeds)
        return make_search(self.search, found, self.plan.seeds, self.storage), left

    def _scheduler(self) -> TrialScheduler | None:
        stopping = self.plan.sweep.early_stopping
        if stopping is None:
            return None
        return ASHAScheduler(
            time_attr="step",
            metric=METRIC,
            mode="max",
            max_t=self.longest,
            grace_period=min(stopping.grace_steps, self.longest),
            reduction_factor=stopping.reduction_factor,
        )

    def started(self, trial: Trial) -> None:
        """A trial starts; its actor may still find that the setup is not valid there."""
        setup: Setup | None = None
        with suppress(Exception):
            setup = self.job.setup(trial.config)
            self.progress.start(RunDirectory.name(setup), setup)
            self.failing.pop(RunDirectory.name(setup), None)
        self.supervisor.begins(trial.trial_id, setup)

    def poll(self) -> None:
        """Check several times a second whether to stop, whether trials hang, and whether waiting runs have room."""
        if self.stopper.stopping is None and (self.interrupted or self.observer.stop_asked()):
            self.stopper.stopping = set(self.watch.running)
            self.storage.ask_to_stop()
        self.supervisor.check(self.stopper.stopping is not None)
        self.shortage.check()
        if self.turns is not None and time.monotonic() - self.asked > self.patience:
            self.asked = time.monotonic()
            self.patience = TURN_SECONDS if self.turns.ask() else min(2 * self.patience, LONGEST_TURN_SECONDS)
            self._show_why()
        self.observer.refresh()

    def ended(self, trial: Trial) -> None:
        """A trial has completed, or the scheduler stopped it."""
        self.supervisor.ends(trial.trial_id)
        last = trial.last_result
        if last.get("interrupted"):
            return
        setup = self.job.setup(trial.config)
        name, accuracy = RunDirectory.name(setup), last.get(METRIC, math.nan)
        self.progress.end(name, failed=False)
        if last.get("finished"):
            self.outcome.finished += 1
            self.observer.run_ended(name, f"best accuracy {accuracy:.4f}")
        else:
            self.outcome.stopped[name] = setup
            self.observer.run_ended(name, f"best accuracy {accuracy:.4f}, stopped early at step {last.get('step', 0)}")

    def retried(self, trial: Trial) -> None:
        """A trial failed and will be retried."""
        name, reason = self._why(trial, self.supervisor.ends(trial.trial_id, for_good=False))
        self.progress.retry(name)
        self.failing[name] = reason
        self.observer.run_ended(name, f"failed, will be retried: {first_line(reason)}")

    def failed(self, trial: Trial) -> None:
        """A trial failed and has no retries left."""
        name, reason = self._why(trial, self.supervisor.ends(trial.trial_id))
        self.progress.end(name, failed=True)
        self.failing.pop(name, None)
        self.outcome.failed[name] = reason
        self.observer.run_ended(name, f"failed: {first_line(reason)}")

    def _why(self, trial: Trial, silence: str) -> tuple[str, str]:
        """The name of a failed run and why it failed; `silence`: the reason if it was killed because it hung."""
        try:
            setup = self.job.setup(trial.config)
        except Exception as error:
            return str(trial.config), f"{type(error).__name__}: {error}"
        return RunDirectory.name(setup), self._reason(setup, _log(trial), silence)

    def _reason(self, setup: Setup, log: str, silence: str) -> str:
        """Why a run failed, as its own actor recorded it; if the actor was lost, it is recorded here."""
        place = f"runs/{RunDirectory.name(setup)}"
        self.storage.pull(f"{place}/status.json", f"{place}/setup.yaml")
        with suppress(RunExists), RunDirectory(self.storage.runs, setup) as directory:
            status = directory.status
            if status is not None and status.state == "failed" and not silence:
                return str(status.reason)
            last = (log.strip().splitlines() or ["there is no log"])[-1]
            reason = silence or f"its actor was lost: {last}"
            directory.fail(reason, log)
            self.storage.push(*(f"{place}/{name}" for name in FAILURE_FILES))
            return reason
        return "another process is using its directory"

    def settle(self) -> None:
        """Mark interrupted runs as stopped if the scheduler ended them, which their own actors do not know."""
        for name, setup in self.outcome.stopped.items():
            if name in self.settled:
                continue
            place = f"runs/{name}"
            self.storage.pull(f"{place}/status.json", f"{place}/setup.yaml")
            with suppress(RunExists), RunDirectory(self.storage.runs, setup) as directory:  # its actor may use it
                status = directory.status
                if status is not None and status.state == "interrupted":
                    kept = {"seconds": status.seconds, "diverged": status.diverged, "files": status.files}
                    directory.set_status("stopped", status.step, reason="by ASHA", **kept)
                    self.storage.push(f"{place}/status.json")
                    self.settled.add(name)


class _Watch(tune.Callback):
    """Receives the events of trials from Tune."""

    def __init__(self, tune_run: TuneRun) -> None:
        self.tune_run = tune_run
        self.began: float | None = None
        self.running: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # Tune saves its callbacks to restore an experiment, which sweeps do not do

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.began = self.began or time.monotonic()
        self._runs(trial, True)
        self.tune_run.started(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.tune_run.supervisor.reports(trial.trial_id)
        if not result.get("interrupted"):
            self.tune_run.progress.advance(result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._runs(trial, False)
        self.tune_run.ended(trial)
        self.tune_run.settle()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._runs(trial, False)
        self.tune_run.retried(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._runs(trial, False)
        self.tune_run.failed(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.tune_run.poll()

    def _runs(self, trial: Trial, runs: bool) -> None:
        (self.running.add if runs else self.running.discard)(trial.trial_id)
        self.tune_run.progress.running = len(self.running)


class _Shortage:
    """Detects that the cluster lost the nodes that runs need, for which Tune would wait forever."""

    def __init__(self, tune_run: TuneRun) -> None:
        self.tune_run = tune_run
        self.final = ""  # why the sweep ends, if it ends for lack of room
        self._since: float | None = None
        self._checked = 0.0

    def check(self) -> None:
        """Report that no waiting run has room; end the sweep if that lasts while no trial is running."""
        now = time.monotonic()
        if now - self._checked < ROOM_SECONDS:
            return
        self._checked = now
        reason = self._reason()
        if not reason:
            self._since = None
        elif self._since is None:
            self._since = now
            self.tune_run.observer.message(f"{reason}; waiting for nodes")
        elif now - self._since > PLACEMENT_SECONDS and not self.tune_run.watch.running:
            self.final = reason

    def _reason(self) -> str:
        """Why no waiting run can be placed; empty if one can."""
        tune_run, reason = self.tune_run, ""
        left = tune_run.progress.waiting
        kinds = {id(need): need for name, need in tune_run.needs.items() if tune_run.search or name in left}
        for need in kinds.values():
            try:
                slots(need)
                return ""
            except actors.FleetError as error:
                reason = str(error)
        return reason


class _NoReporter(tune.ProgressReporter):
    """The observer is informed, so Tune shows nothing; by default it would in a notebook."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: Any) -> None:
        pass


class _Stopper(tune.Stopper):
    """Ends the experiment for lack of room or, when the user stops it, once all running trials are saved.

    Tune itself would wait only a few seconds for its actors.
    """

    def __init__(self, watch: _Watch, shortage: _Shortage) -> None:
        self.watch = watch
        self.shortage = shortage
        self.stopping: set[str] | None = None  # the trials that were running when the user stopped the sweep

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stopper, (None, None)  # Tune saves it to restore an experiment, which sweeps do not do

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        saved = self.stopping is not None and not self.stopping & self.watch.running
        return saved or bool(self.shortage.final)


def _wait_for(future: Future[Any]) -> None:
    """Wait in short turns, between which the thread can be interrupted in every way."""
    while not future.done():
        wait([future], timeout=0.5)


@contextmanager
def _tune_settings(buffers: bool, alone: bool) -> Iterator[None]:
    """Settings that Tune takes only from environment variables and loggers, restored afterwards."""
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_RESULT_BUFFER_LENGTH": "1000" if buffers else "1",
        "TUNE_RESULT_BUFFER_MIN_TIME_S": BUFFER_SECONDS,
        "TUNE_RESULT_BUFFER_MAX_TIME_S": BUFFER_SECONDS,
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": "auto" if alone else MOST_PENDING,
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        # The user's own classes may read files relative to the folder in which the sweep was started.
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
    }
    # The first logs failed and interrupted trials, which our summary lists; the second warns of each trial without a
    # result, which a trial that is interrupted before it starts does not have.
    levels = {"ray.tune.tune": logging.CRITICAL, "ray.tune.analysis.experiment_analysis": logging.ERROR}
    variables = {name: os.environ.get(name) for name in settings}
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in levels}
    os.environ.update(settings)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for logger, level in loggers.items():
            logger.setLevel(level)


def _needs(setups: Iterable[Setup], resources: Resources) -> dict[str, tune.PlacementGroupFactory]:
    """The resources that each run reserves, by its name."""
    known: dict[tuple[Actors | None, int, str], tune.PlacementGroupFactory] = {}
    needs = {}
    for setup in setups:
        kind = (setup.actors, len(setup.trained), setup.device)
        if kind not in known:
            known[kind] = resources.of(setup)
        needs[RunDirectory.name(setup)] = known[kind]
    return needs


def slots(need: tune.PlacementGroupFactory) -> int:
    """The number of runs with these needs that the cluster has room for.

    Raises:
        actors.FleetError: there is room for none.
    """
    bundles = [one for one in need.bundles if one]  # they are alike
    if found := room(bundles[0]) // len(bundles):
        return found
    wanted, has = _amounts(bundles[0], bundles[0]), _amounts(bundles[0], ray.cluster_resources())
    if len(bundles) > 1:
        wanted = f"{len(bundles)} times {wanted}"
    count = sum(node["Alive"] for node in ray.nodes())
    where = f"{count} node{'s' * (count != 1)}"
    raise actors.FleetError(
        f"no room for a run that reserves {wanted}: the cluster has {has} on {where}, and no actor spans two"
    )


def _amounts(names: Iterable[str], amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amounts.get(name, 0):g} {name}s" for name in names)


def _directory_of(trial: Trial) -> str:
    """The name of Tune's directory of a trial, which holds its events for TensorBoard."""
    return f"{trial.config[RUN]['name'] if RUN in trial.config else 'draw'}-{trial.trial_id}"


def _log(trial: Trial) -> str:
    """The errors of a trial that Tune recorded."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
    except OSError:
        return ""
