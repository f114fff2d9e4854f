"""Whole runs in this process, against a simulation written anew in numpy."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from byzray import Interrupted, RunExists, Setup, SetupError, Update, simulate
from byzray.data import load_data
from byzray.randomness import generator
from byzray.setups import LearningRate
from byzray.simulation import LocalSimulation

Vector = NDArray[np.float64]


class Reference:
    """Linear regression under `empire`, aggregated by the coordinate-wise median, step by step as defined."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        data = load_data(setup)
        self.x = data.x_train.astype(np.float64)
        self.y = data.y_train.astype(np.float64)
        self.theta = LocalSimulation(setup, data).parameters().astype(np.float64)
        d = len(self.theta)
        self.m = np.zeros((setup.honest, d))
        self.v = np.zeros(d)
        self.order = np.concatenate([generator(setup.seed, "epoch", e).permutation(len(self.x)) for e in range(20)])

    def gradient(self, at: Vector, draw: int) -> Vector:
        s = self.setup
        rows = self.order[draw * s.batch_size : (draw + 1) * s.batch_size]
        x = np.column_stack([self.x[rows], np.ones(len(rows))])
        g = 2 / len(rows) * x.T @ (x @ at - self.y[rows])
        g = g + s.l1 * np.sign(at) + s.l2 * at / np.linalg.norm(at)
        norm = np.linalg.norm(g)
        return g * s.clip / norm if s.clip is not None and norm > s.clip else g

    def step(self, t: int) -> None:
        s, mu, kappa = self.setup, self.setup.momentum.beta, self.setup.momentum.dampening
        rate, placement = s.rate_at(t), s.momentum.placement
        submissions = []
        for i in range(s.honest):
            point = self.theta.copy()
            if s.momentum.nesterov:
                point -= mu * rate * (self.m[i] if placement == "worker" else self.v)
            g = np.zeros_like(point)
            for local in range(s.local_steps):
                met = self.gradient(point, (t * s.local_steps + local) * s.honest + i)
                g += met
                point = point - rate * met
            if placement == "worker":
                self.m[i] = mu * self.m[i] + (1 - kappa) * g
                g = self.m[i]
            elif placement == "server":
                g = (1 - kappa) * g + mu * self.v
            submissions.append(g.copy())
        mean = np.mean(submissions, axis=0)
        rows = np.sort([*submissions, *([(1 - 1.1) * mean] * s.byzantine)], axis=0)
        aggregate = rows[(s.workers - 1) // 2]
        decayed = aggregate + s.weight_decay * self.theta
        if placement == "update":
            self.v = mu * self.v + (1 - kappa) * decayed
            self.theta = self.theta - rate * self.v
        else:
            self.v = aggregate
            self.theta = self.theta - rate * decayed


OPTIONS: list[dict[str, Any]] = [
    {},
    {"local_steps": 3},
    {"clip": 0.5, "l1": 0.02, "l2": 0.05, "local_steps": 2},
    {"clip": 1.0, "learning_rate": {"schedule": {0: 0.05, 4: 0.01}}},
    {"weight_decay": 0.1, "learning_rate": {"initial": 0.05, "shape": "cosine", "warmup": 3}},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dampening", [0.0, 0.3])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_a_run_follows_the_definitions(
    small_setup: Setup, placement: str, nesterov: bool, dampening: float, options: dict[str, Any]
) -> None:
    momentum = {"beta": 0.8, "dampening": dampening, "nesterov": nesterov, "placement": placement}
    rate = {"initial": 0.05, "half_life": 6, "every": 2}
    setup = small_setup.changed(
        **{
            "model": "linear",
            "loss": "mse",
            "aggregator": "median",
            "attack": "empire",
            "momentum": momentum,
            "learning_rate": rate,
            "steps": 10,
            **options,
        }
    )
    reference = Reference(setup)
    start = reference.theta
    for step in range(setup.steps):
        reference.step(step)
    found = simulate(setup).parameters
    assert np.linalg.norm(start - reference.theta) > 0.05
    np.testing.assert_allclose(found, reference.theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_standard_formulation_is_pytorchs_sgd(small_setup: Setup, nesterov: bool) -> None:
    """One honest worker, momentum and decay in the update; with `nesterov` PyTorch keeps the look-ahead point."""
    setup = small_setup.changed(
        workers=1,
        byzantine=0,
        attack=None,
        aggregator="average",
        momentum={"beta": 0.7, "placement": "update", "nesterov": nesterov},
        weight_decay=0.0 if nesterov else 0.05,
        steps=8,
    )
    data = load_data(setup)
    simulation = LocalSimulation(setup, data)
    network, cohort = simulation.server.network, simulation.cohort
    theta_D = torch.from_numpy(simulation.parameters()).requires_grad_()
    optimiser = torch.optim.SGD([theta_D], lr=0.1, momentum=0.7, weight_decay=setup.weight_decay, nesterov=nesterov)
    for step in range(setup.steps):
        batch = cohort.stream.batch(range(1), step)
        optimiser.zero_grad()
        torch.nn.functional.nll_loss(network(theta_D, batch.x), batch.y).backward()
        optimiser.step()
    simulation.advance(setup.steps)
    found_D = simulation.server.point() if nesterov else simulation.server.theta_D
    torch.testing.assert_close(found_D, theta_D.detach(), rtol=1e-4, atol=1e-6)


def test_hyperbolic_decay() -> None:
    rate = LearningRate(initial=0.5, half_life=20, every=4)
    assert [rate.at(step, 30) for step in (0, 3, 4, 21)] == [0.5, 0.5, 0.5 / 1.2, 0.5 / 2]


def test_the_same_setup_and_seed_give_the_same_bits(small_setup: Setup, tmp_path: Path) -> None:
    first, second = (simulate(small_setup, output=tmp_path / str(i)) for i in range(2))
    assert first.directory is not None
    assert second.directory is not None
    for name in ("metrics.csv", "evaluations.csv", "parameters.npy"):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes()
    other = simulate(small_setup, seed=2)
    assert not np.array_equal(first.parameters, other.parameters)
    assert first.directory.name != other.setup.digest()


def test_a_result_read_back_is_the_result_that_was_computed(small_setup: Setup, tmp_path: Path) -> None:
    computed, read = (simulate(small_setup, output=tmp_path) for _ in range(2))
    in_memory = simulate(small_setup)
    for other in (read, in_memory):
        assert computed.metrics.equals(other.metrics)
        assert computed.metrics.dtypes.equals(other.metrics.dtypes)
        assert computed.evaluations.equals(other.evaluations)
        assert np.array_equal(computed.parameters, other.parameters)
        assert computed.setup == other.setup


def test_evaluations_come_at_the_interval_and_at_the_end(small_setup: Setup) -> None:
    found = simulate(small_setup.changed(steps=7, evaluation_interval=3)).evaluations
    assert found["step"].tolist() == [0, 3, 6, 7]
    assert simulate(small_setup.changed(steps=7, evaluation_interval=0)).evaluations["step"].tolist() == [7]
    assert simulate(small_setup.changed(steps=0)).evaluations["step"].tolist() == [0]


def test_the_accuracy_is_the_share_of_correct_test_examples(small_setup: Setup) -> None:
    setup = small_setup.changed(model="linear", loss="mse", steps=5)
    result, data = simulate(setup), load_data(setup)
    predicted = data.x_test @ result.parameters[:5] + result.parameters[5] > 0.5
    assert result.evaluations["accuracy"].iloc[-1] == np.mean(predicted == data.y_test)


def test_without_a_study_only_the_loss_is_kept_and_the_run_is_the_same(small_setup: Setup) -> None:
    studied, plain = simulate(small_setup), simulate(small_setup.changed(study=None))
    assert plain.metrics.columns.tolist() == studied.metrics.columns.tolist()[:3]
    assert plain.metrics.equals(studied.metrics.iloc[:, :3])
    assert np.array_equal(plain.parameters, studied.parameters)


def test_a_random_mixture_draws_a_rule_a_step(small_setup: Setup) -> None:
    rules = [{"rule": "krum", "frequency": 1}, {"rule": "average", "frequency": 1}]
    mixture = {"name": "random-mixture", "rules": rules}
    ratio = simulate(small_setup.changed(aggregator=mixture, steps=40)).metrics["Attack acceptation ratio"]
    # Krum selects one submission, so 0 or 1; the average takes all, so 2/7.
    drawn = ratio.isin([0.0, 1.0])
    np.testing.assert_allclose(ratio[~drawn], 2 / 7)
    assert 8 < drawn.sum() < 32


@pytest.mark.parametrize(
    ("placement", "nesterov", "aggregator", "attack"),
    [
        *itertools.product(["worker", "server", "update"], [False, True], ["multi-krum"], ["little"]),
        ("worker", True, {"name": "random-mixture", "rules": [{"rule": "median"}, {"rule": "krum"}]}, "empire"),
        ("worker", False, "median", {"name": "little", "factor": "searched"}),
    ],
)
def test_a_resumed_run_is_bit_identical_to_an_undisturbed_one(
    small_setup: Setup, tmp_path: Path, placement: str, nesterov: bool, aggregator: Any, attack: Any
) -> None:
    momentum = {"placement": placement, "nesterov": nesterov}
    setup = small_setup.changed(momentum=momentum, aggregator=aggregator, attack=attack)
    whole = simulate(setup, output=tmp_path / "whole")

    def stop_at_each(update: Update) -> bool:
        return update.step in stops

    stops = {1, 3, 6, 8}
    interruptions = 0
    while True:
        try:
            parts = simulate(setup, output=tmp_path / "parts", resume=True, progress=stop_at_each)
            break
        except Interrupted:
            interruptions += 1
            stops.remove(min(stops))
    assert interruptions >= 2
    assert whole.directory is not None
    assert parts.directory is not None
    for name in ("metrics.csv", "evaluations.csv", "parameters.npy"):
        assert (whole.directory / name).read_bytes() == (parts.directory / name).read_bytes()


def test_an_interrupted_run_is_not_overwritten(small_setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        simulate(small_setup, output=tmp_path, progress=lambda update: update.step >= 3)
    with pytest.raises(RunExists, match="interrupted at step 3 of 12; resume it"):
        simulate(small_setup, output=tmp_path)


def test_a_failed_start_leaves_no_directory(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(model="full")
    with pytest.raises(SetupError, match="needs examples of 784 values; got 5"):
        simulate(setup, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_attack_that_answers_the_wrong_shape_is_named(small_setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "short_attack.py").write_text(
        "from byzray.attacks import Attack\n\n\nclass Short(Attack):\n"
        "    def __call__(self, honest_HD, view):\n        return honest_HD[:1]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        setup = small_setup.changed(attack="short_attack:Short")
        with pytest.raises(ValueError, match=r"attack Short returned shape \(1, 34\), expected \(2, 34\)"):
            simulate(setup)


RULES = ["average", "median", "trimmed-mean", "phocas", "meamed", "multi-krum", "krum", "bulyan"]


@pytest.mark.parametrize("attack", ["nan", "little", {"name": "empire", "factor": "searched", "evaluations": 3}])
@pytest.mark.parametrize("aggregator", [*RULES, "minimum-diameter", "aksel", "cge"])
def test_a_run_that_diverges_goes_on_to_its_end_as_published(small_setup: Setup, aggregator: str, attack: Any) -> None:
    diverging = small_setup.changed(
        byzantine=1, tolerated=1, aggregator=aggregator, attack=attack, learning_rate=1e30, model="linear", loss="mse"
    )
    result = simulate(diverging)
    assert len(result.metrics) == diverging.steps
    assert not np.isfinite(result.parameters).all()


@pytest.mark.parametrize("aggregator", [*RULES[1:], "minimum-diameter", "aksel", "cge"])
def test_workers_that_send_nan_are_borne_by_every_robust_rule(small_setup: Setup, aggregator: str) -> None:
    result = simulate(small_setup.changed(byzantine=1, tolerated=1, aggregator=aggregator, attack="nan"))
    assert np.isfinite(result.parameters).all()


def interrupted(setup: Setup, root: Path, step: int = 6) -> Path:
    with pytest.raises(Interrupted):
        simulate(setup, output=root, progress=lambda update: update.step >= step)
    (directory,) = root.iterdir()
    return directory


@pytest.mark.parametrize(("table", "torn"), [("metrics.csv", "7,140,0.12"), ("evaluations.csv", "9")])
def test_a_line_torn_by_a_crash_does_not_stand_in_the_way(
    small_setup: Setup, tmp_path: Path, table: str, torn: str
) -> None:
    directory = interrupted(small_setup, tmp_path / "torn")
    with (directory / table).open("a") as file:
        file.write(torn)
    simulate(small_setup, output=tmp_path / "torn", resume=True)
    whole = simulate(small_setup, output=tmp_path / "whole").directory
    assert whole is not None
    assert (directory / table).read_bytes() == (whole / table).read_bytes()


def test_a_run_of_changed_code_is_not_taken_for_the_one_that_was_computed(small_setup: Setup, tmp_path: Path) -> None:
    code = (
        "from byzray.aggregators import Aggregator\n\n\nclass Mine(Aggregator):\n"
        "    def aggregate(self, submissions, f):\n        return submissions.rows_ND.mean(dim=0) * 1.0\n"
    )
    module = tmp_path / "changing_rule.py"
    module.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        setup = small_setup.changed(aggregator="changing_rule:Mine")
        assert not simulate(setup, output=tmp_path / "runs").reused
        assert simulate(setup, output=tmp_path / "runs").reused
        module.write_text(code.replace("1.0", "0.5"))
        with pytest.raises(RunExists, match=r"was computed with another content of changing_rule\.py"):
            simulate(setup, output=tmp_path / "runs")


def test_a_rule_that_failed_at_once_can_be_mended(small_setup: Setup, tmp_path: Path) -> None:
    module = tmp_path / "corrected_rule.py"
    code = (
        "from byzray.aggregators import Aggregator\n\n\nclass Mine(Aggregator):\n"
        "    def aggregate(self, submissions, f):\n        return {}\n"
    )
    module.write_text(code.format("1 / 0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        setup = small_setup.changed(aggregator="corrected_rule:Mine")
        with pytest.raises(ZeroDivisionError):
            simulate(setup, output=tmp_path / "runs")
        module.write_text(code.format("submissions.rows_ND.mean(dim=0)"))
        patch.delitem(sys.modules, "corrected_rule")
        corrected = small_setup.changed(aggregator="corrected_rule:Mine")
        assert len(simulate(corrected, output=tmp_path / "runs").metrics) == setup.steps


def test_a_run_of_changed_data_is_not_taken_for_the_one_that_was_computed(
    small_setup: Setup, small_data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.npz"
    copy.write_bytes(small_data.read_bytes())
    setup = small_setup.changed(dataset={"name": "npz", "path": str(copy)})
    simulate(setup, output=tmp_path / "runs")
    arrays = dict(np.load(copy))
    np.savez(copy, **{**arrays, "x_train": arrays["x_train"] + 1})
    with pytest.raises(RunExists, match=r"was computed with another content of copy\.npz"):
        simulate(setup, output=tmp_path / "runs")


def test_where_a_resumed_run_computed_before_stays_on_record(small_setup: Setup, tmp_path: Path) -> None:
    directory = interrupted(small_setup, tmp_path)
    before = json.loads((directory / "environment.json").read_text())
    simulate(small_setup, output=tmp_path, resume=True)
    assert json.loads((directory / "environment.json").read_text())["earlier"] == [before]


def test_changing_the_byzantine_workers_changes_what_is_tolerated_only_where_it_followed(small_setup: Setup) -> None:
    assert small_setup.changed(byzantine=1).tolerated == 1
    assert small_setup.changed(tolerated=1).changed(byzantine=2).tolerated == 1


# As docs/limits.md has it: the parent computes on several threads, and so does the child without what it says.
FORKED = """
import multiprocessing, sys, torch
from byzray import load_setup, simulate

setup = load_setup(sys.argv[1])

def child():
    if sys.argv[2] == "fork":
        torch.set_num_threads(1)
    simulate(setup)

if __name__ == "__main__":
    torch.set_num_threads(2)
    simulate(setup)
    process = multiprocessing.get_context(sys.argv[2]).Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.chaos  # two processes that load PyTorch, against a fault of PyTorch's
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_computes_as_the_limits_say(small_setup: Setup, tmp_path: Path, method: str) -> None:
    (tmp_path / "setup.yaml").write_text(small_setup.yaml())
    (tmp_path / "forked.py").write_text(FORKED)
    command = [sys.executable, str(tmp_path / "forked.py"), str(tmp_path / "setup.yaml"), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
