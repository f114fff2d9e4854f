"""Summaries of a sweep on the console: its plan before, and its outcome after."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from shlex import quote

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from byzray.console import duration
from byzray.datasets import MissingData
from byzray.mistakes import SetupError
from byzray.runs.directory import DONE
from sweeps.outcome import Outcome
from sweeps.plan import Paces, Plan
from sweeps.search import read_draws
from sweeps.storage import Storage
from sweeps.trainable import Resources
from sweeps.tuner import first_line


def print_plan(
    plan: Plan,
    storage: Storage,
    resources: Resources,
    paces: Paces,
    console: Console,
    unmeasured: Mapping[str, Exception] | None = None,
) -> None:
    """Print the parts of a sweep, the runs that are done, those that would run and why, and an estimate of the time.

    After a measurement, `unmeasured` holds the errors of setups that could not be measured.
    """

    def say(text: str) -> None:
        console.print(text, markup=False)

    sweep, states = plan.sweep, plan.states()
    if sweep.search is not None:
        count, seeds = sweep.search.sample.count, len(plan.seeds)
        say(f"{sweep.name}: {count} setups that Optuna finds x {seeds} seeds = {count * seeds} runs")
        found = read_draws(sweep.search, plan.seeds, storage)
        done, begun = len(found.finished), len(found.pending)
        left = max(0, count - done - begun)
        say(f"in {storage.shown}: {done} setups are done, {begun} were started, {left} are still to be found")
        return
    whole = len(plan.runs) + plan.known
    without = f", {plan.known} of them known and left out" if plan.known else ""
    say(f"{sweep.name}: {len(plan.setups)} setups x {len(plan.seeds)} seeds = {whole} runs{without}")
    for condition in plan.only:
        say(f"  only {condition}")
    for way, counts in plan.counts().items():
        console.print(_counted(f"setups by {way}", counts))
    say(f"\nruns in {storage.shown}:")
    say(f"  {sum(states[state] for state in DONE)} done")
    for state, why in WHY.items():
        if states[state]:
            say(f"  {states[state]} to run: {why}")
    if states["running"]:
        say(f"  {states['running']} running: another process computes them")
    say(_estimate(plan, resources, paces, measured=unmeasured is not None))
    for line in _reasons(unmeasured or {}):
        say(line)


# Why runs would be computed, by their state.
WHY = {
    "missing": "missing, never started",
    "interrupted": "interrupted, will continue from the last checkpoint",
    "failed": "failed, will be retried",
    "changed": "changed: computed with other files of your own, will be computed again (the old results are kept)",
    "damaged": "damaged: their files were changed since, will be computed again (the old results are kept)",
}


def _counted(title: str, counts: Mapping[str, int]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=24)
    for number, (name, count) in enumerate(counts.items()):
        table.add_row("" if number else title, f"{count:>5}", escape(name))
    return table


def _reasons(unmeasured: Mapping[str, Exception]) -> Iterator[str]:
    """One line for each reason why setups could not be measured, with the first run concerned."""
    runs: dict[str, list[str]] = defaultdict(list)
    for name, error in unmeasured.items():
        if isinstance(error, SetupError):
            reason = "; ".join(error.mistakes)
        elif isinstance(error, MissingData):
            reason = " ".join(str(error).split())
        else:
            reason = f"{type(error).__name__}: {error}"
        runs[first_line(reason)].append(name)
    for reason, (first, *others) in runs.items():
        more = f" and {len(others)} more" if others else ""
        yield f"not measured: {first}{more}: {reason}"


def _estimate(plan: Plan, resources: Resources, paces: Paces, measured: bool) -> str:
    left = [run for run in plan.waiting if run.state != "running"]
    if not left:
        return "nothing is left to run"
    # With actors, one run at a time is assumed, as its fleet may need all CPUs of a small machine.
    alone = all(run.setup.actors is None for run in left)
    at_once = max(1, int((os.cpu_count() or 1) / (resources.cpus or 1))) if alone else 1
    seconds, unknown = plan.estimate(at_once, paces)
    if unknown == len(left):
        if measured:
            return "no estimate: nothing could be measured"
        return "no estimate: no similar runs were measured yet in this folder; --measure takes a few steps of each kind"
    more = f"; without {unknown} runs, as no similar ones were measured" if unknown else ""
    return f"estimate from measured steps/s: {duration(seconds)}, {at_once} runs at a time on this machine{more}"


def print_outcome(outcome: Outcome, storage: Storage, console: Console) -> None:
    """Print the last lines of a sweep."""
    parts = [f"{outcome.finished} runs finished in {duration(outcome.seconds)}", f"{outcome.earlier} were done before"]
    if outcome.stopped:
        parts.append(f"{len(outcome.stopped)} stopped early")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    if outcome.finished:
        parts.append(f"{outcome.slots} slots computed {outcome.busy:.0%} of the time")
    console.print("; ".join(parts), markup=False)
    if outcome.stranded:
        console.print(f"ended: {outcome.stranded}; the same command continues it once there is room", markup=False)
    if outcome.interrupted:  # else the report follows, which lists them
        for name, reason in outcome.failed.items():
            console.print(f"failed: {name}: {first_line(reason)}", markup=False)
    if outcome.failed:
        console.print(
            f"their logs: {quote(storage.shown)}/runs/*/error.txt; the same command retries them", markup=False
        )
    if outcome.seconds:
        # byzray does not install TensorBoard, as it does not need it.
        missing = "" if find_spec("tensorboard") else " (pip install tensorboard)"
        console.print(f"TensorBoard{missing}: tensorboard --logdir {quote(f'{storage.shown}/tune')}", markup=False)
    if outcome.interrupted:
        console.print("interrupted; the same command continues it", markup=False)
