"""The pace of runs that were not computed yet, from a few steps of some of them."""

import time
from contextlib import suppress
from pathlib import Path

import torch

from byzray.datasets import MissingData
from byzray.mistakes import SetupError
from byzray.process_state import own_settings
from byzray.simulation import LocalSimulation, load_data
from sweeps.plan import Paces, Plan

# A measurement takes at least so long, or so many steps.
SECONDS, STEPS = 2.0, 20


def measure(plan: Plan, data: Path, paces: Paces) -> None:
    """Take a few steps, in this process and on one thread, of a run of each kind of which nothing is known.

    Args:
        plan: the plan.
        data: the folder that holds data sets; of those that are missing nothing is measured.
        paces: gets the measurements.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in plan.waiting:
            if not paces.know(run.setup):
                with suppress(MissingData, SetupError), own_settings():
                    simulation = LocalSimulation(run.setup, load_data(run.setup, data))
                    paces.add(run.setup, _pace(simulation))
    finally:
        torch.set_num_threads(threads)


def _pace(simulation: LocalSimulation) -> float:
    """Seconds a step, evaluations included; the first step, with all that is done once, is left out."""
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
