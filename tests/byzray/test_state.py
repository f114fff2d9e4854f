"""State of rules, attacks and workers, and draws of the step: a continued run is the one that was interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from byzray import Interrupted, Setup, Update, simulate
from byzray.aggregators import Aggregate, Aggregator
from byzray.data import load_data
from byzray.datasets import Data
from byzray.runs.checkpoints import CheckpointInterval
from byzray.simulation import LocalSimulation
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Submissions

MIXTURE = {
    "name": "random-mixture",
    "rules": [{"rule": "centred-clipping"}, {"rule": "median"}, {"rule": {"name": "fltrust", "root": 10}}],
}

TWO_ROOTS = {
    "name": "random-mixture",
    "rules": [{"rule": {"name": "fltrust", "root": 10}}, {"rule": {"name": "fltrust", "root": 20}}],
}


class EverySecond(Aggregator):
    """The mean, of which a coordinate is kept at every second step: those that are marked."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"marked": torch.arange(len(like_D), device=like_D.device) % 2 == 0}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        return Aggregate(submissions.rows_ND.mean(dim=0) * state["marked"]), {"marked": ~state["marked"]}


SETUPS: dict[str, dict[str, Any]] = {
    "centred-clipping": {"aggregator": {"name": "centred-clipping", "tau": 0.5, "iterations": 2}},
    "centred-clipping, searched": {
        "aggregator": "centred-clipping",
        "attack": {"name": "empire", "factor": "searched", "evaluations": 5},
    },
    "fltrust": {"aggregator": {"name": "fltrust", "root": 15}},
    "fltrust at the server": {
        "aggregator": {"name": "fltrust", "root": 15},
        "momentum": {"placement": "server", "nesterov": True},
        "local_steps": 2,
    },
    "nnm": {"pre": "nnm", "aggregator": "median"},
    "bucketing": {"pre": ["bucketing"], "aggregator": "median", "byzantine": 1},
    "gaussian": {"attack": "gaussian"},
    "mimic": {"attack": {"name": "mimic", "warmup": 9}, "split": {"name": "dirichlet", "minimum": 3}},
    "label-flipping": {"attack": "label-flipping"},
    "label-flipping, dirichlet": {"attack": "label-flipping", "split": {"name": "dirichlet", "minimum": 3}},
    "mvr": {"momentum": {"name": "mvr", "a": 0.3}},
    "a mixture": {"aggregator": MIXTURE},
    "two roots": {"aggregator": TWO_ROOTS},
    "truth values": {"aggregator": f"{__name__}:EverySecond"},
}


@pytest.mark.parametrize("kind", SETUPS)
def test_a_continued_run_is_the_one_that_was_interrupted(small_setup: Setup, tmp_path: Path, kind: str) -> None:
    setup = small_setup.changed(**SETUPS[kind])
    whole = simulate(setup)
    with pytest.raises(Interrupted):
        simulate(setup, output=tmp_path, checkpoints=CheckpointInterval(steps=5), progress=lambda one: one.step >= 6)
    seen: list[int] = []

    def note(update: Update) -> None:
        seen.append(update.step)

    again = simulate(setup, output=tmp_path, resume=True, progress=note)
    assert min(seen) >= 5
    assert np.array_equal(whole.parameters, again.parameters)
    assert whole.metrics.equals(again.metrics)
    assert whole.evaluations.equals(again.evaluations)


@pytest.mark.parametrize("kind", SETUPS)
def test_the_state_is_needed(small_setup: Setup, kind: str) -> None:
    """Each part of the state that is a class's own changes what follows: none is carried along for nothing."""
    setup = small_setup.changed(**SETUPS[kind])
    data = load_data(setup)
    run = LocalSimulation(setup, data)
    run.advance(6)
    state = {name: tensor.clone() for name, tensor in run.state().items()}
    run.advance(12)
    expected = run.parameters()
    for name in (one for one in state if one.startswith(("rule.", "attack.", "root.", "previous "))):
        if name in ("attack.worker", "attack.mu"):  # chosen anew in the warm-up; of too little weight to be seen here
            continue
        changed = LocalSimulation(setup, data)
        kept = state[name]
        changed.restore({**state, name: ~kept if kept.dtype is torch.bool else 1 - 3 * kept}, 6)
        changed.advance(12)
        assert not np.array_equal(changed.parameters(), expected), name


@pytest.mark.parametrize("kind", ["bucketing", "gaussian", "mimic", "mvr", "label-flipping, dirichlet", "fltrust"])
def test_draws_follow_from_the_seed(small_setup: Setup, kind: str) -> None:
    setup = small_setup.changed(**SETUPS[kind])
    assert np.array_equal(simulate(setup).parameters, simulate(setup).parameters)
    assert not np.array_equal(simulate(setup).parameters, simulate(setup, seed=setup.seed + 1).parameters)


def test_a_search_does_not_advance_the_rule(small_setup: Setup) -> None:
    """Centred clipping without an attack moves by what is submitted, however often an attack asked it."""
    rule = {"name": "centred-clipping", "tau": 0.1}
    attack = {"name": "hidden", "factor": "searched", "evaluations": 20}
    setup = small_setup.changed(aggregator=rule, attack=attack, steps=4, learning_rate=0.01)
    run = LocalSimulation(setup, load_data(setup))
    for step in range(4):
        before = run.state()["rule.previous"].clone()
        run.advance(step + 1)
        moved = (run.state()["rule.previous"] - before).norm().item()
        assert 0 < moved <= 0.1 * (1 + 1e-5)  # one iteration of at most tau


def test_the_root_part_is_taken_from_the_workers(small_setup: Setup) -> None:
    setup = small_setup.changed(aggregator={"name": "fltrust", "root": 15})
    data: Data = load_data(setup)
    server = LocalSimulation(setup, data)
    assert server.server.root is not None
    root = server.server.root.cohort.stream
    kept = {int(one) for step in range(20) for one in root.indices(range(7, 8), step)}
    drawn = {int(one) for step in range(40) for one in server.cohort.stream.indices(range(5), step)}
    assert len(kept) == 15
    assert not kept & drawn
    assert len(kept | drawn) == len(data.x_train)


def test_rules_of_a_mixture_share_the_largest_root(small_setup: Setup) -> None:
    both = small_setup.changed(aggregator=TWO_ROOTS)
    alike = [{"rule": {"name": "fltrust", "root": 20}}] * 2
    expected = small_setup.changed(aggregator={"name": "random-mixture", "rules": alike})
    assert both.defence.root_examples == 20
    assert np.array_equal(simulate(both).parameters, simulate(expected).parameters)


def test_draws_of_a_step_and_of_the_run_are_apart(small_setup: Setup) -> None:
    """Also where the further numbers of one are those of the other."""
    step = Step(seed=3, number=5).of(EverySecond())
    drawn = [
        step.generator("x"),
        step.generator_of_run("x", 5),
        step.generator_of_run("x"),
        step.generator("x", 1),
        step.generator_of_run("x", 5, 1),
        step.generator("y"),
        Step(seed=3, number=5).generator("x"),
    ]
    values = [int(one.integers(2**60)) for one in drawn]
    assert len(set(values)) == len(values)
    again = Step(seed=3, number=5).of(EverySecond())
    assert int(again.generator("x").integers(2**60)) == values[0]
    elsewhere = Step(seed=3, number=6).of(EverySecond())
    assert int(elsewhere.generator_of_run("x").integers(2**60)) == values[2]
    assert int(elsewhere.generator("x").integers(2**60)) != values[0]
