"""Captured steps, with a tape of PyTorch's operations in the place of CUDA graphs: so it runs without a GPU.

What a tape replays it computes with the tensors of the capture, as a graph does: numbers of the host's are baked in.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from byzray import Setup
from byzray.aggregators import AGGREGATORS, RandomMixture
from byzray.data import load_data
from byzray.graphs import WARM_STEPS, Kind, Replay, Step, StepGraphs, captures
from byzray.simulation import LocalSimulation

STEPS = 14


class Tape(TorchDispatchMode):
    """Records operations, and computes them as well."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        """Compute all again, into the tensors of the capture."""
        with torch.no_grad():
            for func, args, kwargs, kept in self.operations:
                found = func(*args, **kwargs)
                for old, new in zip(tree_leaves(kept), tree_leaves(found), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


class Recorder:
    """Captures as CUDA does: the host counts the step, and the state on the device stays as it was."""

    def __init__(self, simulation: LocalSimulation) -> None:
        self.simulation = simulation
        self.captured = 0

    def state(self) -> list[Tensor]:
        past = self.simulation.server.study.past
        positions = [] if past is None else [past._now_1, past._previous_1]
        return [*self.simulation.state().values(), self.simulation.server.submissions_ND, *positions]

    def __call__(self, step: Step) -> Replay:
        self.captured += 1
        before = [tensor.clone() for tensor in self.state()]
        with Tape() as tape:
            row = step()
        for tensor, value in zip(self.state(), before, strict=True):
            tensor.copy_(value)
        return Replay(tape.replay, row)


def with_graphs(simulation: LocalSimulation) -> Recorder:
    recorder = Recorder(simulation)
    simulation._step = StepGraphs(simulation.cohort, simulation.server, recorder).step
    return recorder


# On a CPU rules that select rows look at values; these do not, nor do small matrices meet compiled code.
AVERAGE: dict[str, Any] = {"aggregator": "average", "attack": "empire", "study": {"past": 5}}

# How many graphs a run of each needs.
VARIANTS: dict[str, tuple[dict[str, Any], int]] = {
    "worker": ({}, 1),
    "update, nesterov": ({"momentum": {"placement": "update", "nesterov": True}}, 1),
    "server": ({"momentum": {"placement": "server"}}, 1),
    "worker, nesterov": ({"momentum": {"nesterov": True}}, 1),
    "local steps": ({"local_steps": 3}, 1),
    "no study": ({"study": None}, 1),
    "searched": ({"attack": {"name": "empire", "factor": "searched"}}, 1),
    "a falling rate": ({"learning_rate": {"initial": 0.1, "half_life": 5, "every": 5}}, 3),
    "a rate that falls at every step": ({"learning_rate": {"initial": 0.1, "half_life": 5, "every": 1}}, 0),
    "faults": ({"faults": {"missing": "drop", "events": [{"kind": "silent", "workers": [1], "steps": "4-6"}]}}, 1),
    "a rule with a state": ({"aggregator": {"name": "centred-clipping", "tau": 0.5}}, 1),
    "Byzantine workers that train": ({"attack": "label-flipping"}, 1),
    "mvr": ({"momentum": {"name": "mvr"}}, 1),
    "stop": ({"divergence": "stop", "learning_rate": 1e6, "l2": 1e4, "clip": None}, 1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_captured_step_is_that_taken_one_by_one(name: str, small_setup: Setup) -> None:
    changes, graphs = VARIANTS[name]
    wanted = small_setup.changed(**{**AVERAGE, **changes, "steps": STEPS})
    data = load_data(wanted)
    plain, captured = LocalSimulation(wanted, data), LocalSimulation(wanted, data)
    recorder = with_graphs(captured)
    assert np.array_equal(captured.advance(STEPS), plain.advance(STEPS), equal_nan=True)
    assert np.array_equal(captured.parameters(), plain.parameters(), equal_nan=True)
    assert captured.diverged == plain.diverged
    assert recorder.captured == graphs
    if name == "stop":  # at a step that was replayed
        assert captured.diverged is not None
        assert captured.diverged.step >= 1 + WARM_STEPS


def test_it_goes_on_from_a_saved_state(small_setup: Setup) -> None:
    wanted = small_setup.changed(**AVERAGE, steps=STEPS)
    data = load_data(wanted)
    plain, first, again = (LocalSimulation(wanted, data) for _ in range(3))
    plain.advance(STEPS)
    with_graphs(first)
    first.advance(8)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    with_graphs(again)
    again.restore(state, 8)
    again.advance(STEPS)
    assert np.array_equal(again.parameters(), plain.parameters())
    first.restore(state, 8)  # after steps were captured
    first.advance(STEPS)
    assert np.array_equal(first.parameters(), plain.parameters())


def test_kinds_are_steps_of_one_rate_and_rule(small_setup: Setup) -> None:
    """Of a mixture each rule has its own; a rule on the host and one of the user's own have none."""
    parts = ["average", "median", "minimum-diameter"]
    mixture = AGGREGATORS.parse({"name": "random-mixture", "rules": [{"rule": part} for part in parts]})
    assert isinstance(mixture, RandomMixture)
    wanted = small_setup.changed(aggregator=mixture, steps=40, study=None)
    simulation = LocalSimulation(wanted, load_data(wanted))
    graphs = StepGraphs(simulation.cohort, simulation.server)
    kinds = set()
    for step in range(40):
        simulation.server.step_number = step
        kinds.add(graphs._kind())
    rules = [component.rule for component in mixture.rules]
    assert kinds == {None, Kind(0.1, rules[0]), Kind(0.1, rules[1])}


def test_nothing_is_captured_on_a_cpu_or_before_it_is_warm(small_setup: Setup) -> None:
    wanted = small_setup.changed(**AVERAGE, steps=STEPS)
    simulation = LocalSimulation(wanted, load_data(wanted))
    assert not captures(simulation.cohort)
    recorder = with_graphs(simulation)
    simulation.advance(1 + WARM_STEPS)  # the first step is out of the ordinary
    assert not recorder.captured
    simulation.advance(2 + WARM_STEPS)
    assert recorder.captured == 1
