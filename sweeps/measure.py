"""Measurement of the seconds per step of runs that were not computed yet."""

import time
from pathlib import Path

import torch

from byzray.data import load_data
from byzray.process_state import own_settings
from byzray.simulation import LocalSimulation
from sweeps.plan import Paces, Plan

# A measurement ends after this many seconds or steps.
SECONDS, STEPS = 2.0, 20


def measure(plan: Plan, data: Path, paces: Paces) -> dict[str, Exception]:
    """Take a few steps of one run of each kind that was not measured yet, in this process on one thread.

    Args:
        plan: the plan.
        data: the folder that holds data sets.
        paces: receives the measurements.

    Returns:
        the errors of setups that could not be measured, by the name of the first run of each: missing data, or what a
        rule, an attack or a model raised.
    """
    failed: dict[str, Exception] = {}
    tried: set[str] = set()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in plan.waiting:
            if paces.know(run.setup) or (kind := run.setup.changed(seed=1).digest()) in tried:
                continue
            tried.add(kind)
            try:
                with own_settings():
                    paces.add(run.setup, _pace(LocalSimulation(run.setup, load_data(run.setup, data))))
            except Exception as error:  # classes of the user's own may raise anything
                failed[run.name] = error
    finally:
        torch.set_num_threads(threads)
    return failed


def _pace(simulation: LocalSimulation) -> float:
    """Seconds per step, including evaluations, without the first step, which includes one-time costs."""
    setup = simulation.setup
    began = time.monotonic()
    simulation.evaluate()
    evaluation = time.monotonic() - began
    simulation.advance(1)
    began, step = time.monotonic(), 1
    while step <= min(STEPS, setup.steps) and time.monotonic() - began < SECONDS:
        step += 1
        simulation.advance(step)
    per_step = (time.monotonic() - began) / (step - 1)
    return per_step + (evaluation / setup.evaluation_interval if setup.evaluation_interval else 0.0)
