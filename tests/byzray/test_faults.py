"""Declared faults: what a setup may say of them, and what a step does without some of the submissions."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from byzray.attacks import View
from byzray.cohort import Cohort, Contribution
from byzray.data import load_data
from byzray.datasets import Data
from byzray.faults import Faults
from byzray.metrics import METRIC_COLUMNS, Moments
from byzray.mistakes import lines
from byzray.server import Server
from byzray.setups import Setup, load_setup
from byzray.simulation import LocalSimulation
from byzray.step import Step
from byzray.study import acceptance
from byzray.submissions import Matrix
from byzray.yaml import parse_yaml

CPU = torch.device("cpu")

EVENTS: list[dict[str, Any]] = [
    {"kind": "crash", "workers": 0, "steps": [2, 5]},
    {"kind": "silent", "workers": [1], "steps": "5-6"},
    {"kind": "hang", "workers": [4, 3], "steps": 8},
]

# The same, written out: at each step the workers that fail, and how.
TABLE = {2: {0: "crash"}, 5: {0: "crash", 1: "silent"}, 6: {1: "silent"}, 8: {3: "hang", 4: "hang"}}


def faulty(setup: Setup, missing: str, events: list[dict[str, Any]] = EVENTS, **changes: Any) -> Setup:
    return setup.changed(faults={"missing": missing, "events": events}, **changes)


def mistakes(fields: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as error:
        Setup.model_validate(fields)
    return lines(error.value)


# What a setup may say


def test_faults_of_a_step() -> None:
    faults = Faults.model_validate({"missing": "drop", "events": EVENTS})
    assert {step: faults.at(step) for step in range(300) if faults.at(step)} == TABLE
    assert {step: faults.missing_at(step) for step in (5, 7, 8)} == {5: (0, 1), 7: (), 8: (3, 4)}
    recovering = Faults.model_validate({"events": EVENTS})
    assert recovering.at(5) == TABLE[5]
    assert recovering.missing_at(5) == ()


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        (7, 7),
        ([7], 7),
        ("7", 7),
        ([9, 5], "5, 9"),
        ("25, 10-20", "10-20, 25"),
        (" 3 - 5,4000-4001 ", "3-5, 4000-4001"),
        ("1-3,4,5-6", "1-6"),
        ([3, 1, 2], "1-3"),
        ("0-99999", "0-99999"),
        ("4-4", 4),
    ],
)
def test_steps_are_written_in_one_short_form(steps: Any, written: Any, tmp_path: Path) -> None:
    setup = Setup.model_validate(
        {"steps": 100_000, "faults": {"events": [{"kind": "hang", "workers": [2, 0], "steps": steps}]}}
    )
    assert setup.describe()["faults"] == {
        "missing": "recover",
        "events": [{"kind": "hang", "workers": [0, 2], "steps": written}],
    }
    path = tmp_path / "setup.yaml"
    path.write_text(setup.yaml())
    for again in (load_setup(path), Setup.model_validate(setup.describe()), setup.changed(seed=setup.seed)):
        assert again == setup
        assert again.yaml() == setup.yaml()
        assert again.digest() == setup.digest()
    assert len(setup.yaml()) < len(Setup(steps=100_000).yaml()) + 120


def test_long_ranges_take_no_time() -> None:
    began = time.perf_counter()
    events = [{"kind": "crash", "workers": 0, "steps": f"0-{10**12}"}]
    setup = Setup.model_validate({"steps": 10**13, "faults": {"missing": "drop", "events": events}})
    assert setup.missing_at(10**12) == (0,)
    assert setup.missing_at(10**12 + 1) == ()
    assert time.perf_counter() - began < 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=8))
def test_faults_against_a_table(events: list[tuple[int, int, int]]) -> None:
    table: dict[int, set[int]] = {}
    written, twice = [], False
    for worker, first, length in events:
        written.append({"kind": "silent", "workers": worker, "steps": f"{first}-{first + length}"})
        for step in range(first, first + length + 1):
            twice |= worker in table.setdefault(step, set())
            table[step].add(worker)
    if twice:
        with pytest.raises(ValidationError, match=r"expected a worker once at a step, worker \d fails twice at step"):
            Faults.model_validate({"missing": "drop", "events": written})
        return
    faults = Faults.model_validate({"missing": "drop", "events": written})
    steps = np.arange(40)
    assert [set(faults.at(step)) for step in steps] == [table.get(step, set()) for step in steps]
    before = [sum(len(table.get(earlier, ())) for earlier in range(step)) for step in steps]
    np.testing.assert_array_equal(faults.missing_before(steps), before)
    counts = {len(workers): step for step, workers in sorted(table.items(), reverse=True)}
    assert faults.missing_counts() == counts
    assert (faults.last_step, faults.last_worker) == (max(table), max(worker for worker, _, _ in events))


def test_a_setup_counts_who_comes() -> None:
    setup = Setup.model_validate({"faults": {"missing": "zero", "events": EVENTS}})
    assert [setup.present(range(0, 2), step) for step in (4, 5, 6, 8)] == [2, 0, 1, 2]
    assert setup.present(range(3, 11), 8) == 6
    assert setup.changed(faults=None).present(range(0, 2), 5) == 2
    assert faulty(setup, "recover").present(range(0, 2), 5) == 2


BASE: dict[str, Any] = {"workers": 11, "byzantine": 3, "attack": "little"}


def crash(workers: Any, steps: Any = 5) -> dict[str, Any]:
    return {"kind": "crash", "workers": workers, "steps": steps}


@pytest.mark.parametrize(
    ("fields", "missing", "events", "expected"),
    [
        ({}, "recover", [crash(8)], "expected honest workers, from 0 to 7; got worker 8"),
        ({}, "recover", [crash(0, "3, 299-300")], "expected steps below steps = 300; step 300 is never reached"),
        ({}, "recover", [crash([0, 1]), crash(1)], "expected a worker once at a step, worker 1 fails twice at step 5"),
        (
            {},
            "drop",
            [crash([0, 1], 4), crash([0, 1, 2])],
            "at step 5 only 8 of 11 submissions arrive: multi-krum needs n >= 2f+3 = 9; got n = 8, f = 3",
        ),
        (
            {"aggregator": "median", "attack": "nan"},
            "drop",
            [crash(list(range(7)))],
            "at step 5 only 4 of 11 submissions arrive: median needs n >= 2f+1 = 7; got n = 4, f = 3",
        ),
        ({}, "drop", [crash(list(range(8)))], "expected at least one honest submission at every step; step 5 has none"),
        ({}, "zero", [crash(list(range(8)))], "expected at least one honest submission at every step; step 5 has none"),
        (
            {},
            "zero",
            [crash(list(range(7)))],
            "at step 5 only 1 of 8 honest submissions arrive: little needs honest >= 2; got honest = 1",
        ),
        (
            {"attack": {"name": "empire", "factor": "searched"}},
            "zero",
            [crash([0, 1, 2])],
            "at step 5 only 8 of 11 submissions arrive: multi-krum needs n >= 2f+3 = 9; got n = 8, f = 3",
        ),
    ],
)
def test_faults_that_cannot_be(
    fields: dict[str, Any], missing: str, events: list[dict[str, Any]], expected: str
) -> None:
    (text,) = mistakes(BASE | fields | {"faults": {"missing": missing, "events": events}})
    assert text.startswith("faults: ")
    assert text.endswith(expected)


def test_what_needs_no_more_than_comes_is_accepted() -> None:
    # Two fewer of 11 are enough for multi-krum with f = 3; with zeros in their place it sees all 11.
    Setup.model_validate(BASE | {"faults": {"missing": "drop", "events": [crash([0, 1])]}})
    Setup.model_validate(BASE | {"faults": {"missing": "zero", "events": [crash([0, 1, 2, 3])]}})
    Setup.model_validate(BASE | {"faults": {"missing": "recover", "events": [crash(list(range(8)))]}})
    assert Setup.model_validate({"faults": "none"}).faults is None


def test_what_fails_without_faults_too_is_reported_once() -> None:
    (text,) = mistakes(BASE | {"byzantine": 5, "faults": {"missing": "drop", "events": [crash([0, 1])]}})
    assert text.startswith("aggregator: ")


def test_rule_and_attack_are_both_reported() -> None:
    found = mistakes(BASE | {"faults": {"missing": "drop", "events": [crash(list(range(7)))]}})
    assert [text.rpartition(": ")[2] for text in found] == [
        "multi-krum needs n >= 2f+3 = 9; got n = 4, f = 3",
        "little needs honest >= 2; got honest = 1",
    ]


# What a step does


class Run:
    """A server and cohorts, one step at a time."""

    def __init__(self, setup: Setup, data: Data, cohorts: list[range] | None = None) -> None:
        self.server = Server(setup, data, CPU)
        self.cohorts = [Cohort(setup, workers, data, CPU) for workers in cohorts or [range(setup.honest)]]

    def compute(self) -> list[Contribution]:
        server = self.server
        point_D, step = server.point(), server.step_number
        return [
            cohort.step(point_D, step, server.trained_TD[cohort.workers.start : cohort.workers.stop])
            for cohort in self.cohorts
        ]

    def step(self) -> dict[str, float]:
        self.server.step(self.compute())
        return dict(zip(self.server.columns(), self.server.take_rows()[0], strict=True))


class ByHand:
    """The same as defined, from the workers' gradients alone: those of a run with momentum in the update."""

    def __init__(self, setup: Setup, data: Data) -> None:
        self.setup = setup
        plain = setup.changed(faults=None, momentum={"placement": "update"}, study=None)
        self.cohort = Cohort(plain, range(setup.honest), data, CPU)
        self.theta_D = Server(plain, data, CPU).theta_D
        self.m_HD = torch.zeros(setup.honest, len(self.theta_D))
        self.v_D = torch.zeros(len(self.theta_D))
        self.gradients = 0

    def step(self, t: int, missing: dict[int, str]) -> dict[str, float]:
        setup, placement = self.setup, self.setup.momentum.placement
        mu, left = setup.momentum.beta, 1 - setup.momentum.dampening
        g_HD = torch.empty_like(self.m_HD)
        losses_H = self.cohort.step(self.theta_D, t, g_HD).losses_K
        came = [i for i in range(setup.honest) if i not in missing]
        if placement == "worker":
            for i in range(setup.honest):
                if missing.get(i) not in ("crash", "hang"):
                    self.m_HD[i] = mu * self.m_HD[i] + left * g_HD[i]
            s_HD = self.m_HD
        else:
            s_HD = left * g_HD + mu * self.v_D if placement == "server" else g_HD
        assert setup.attack is not None
        assert setup.faults is not None
        if setup.faults.missing == "drop":
            honest_HD = s_HD[came]
        else:
            honest_HD = s_HD.clone()
            honest_HD[list(missing)] = 0
        # A pre-aggregator mixes the zeros in, and an adversary who asks the defence has to see them.
        with_zeros = bool(setup.pre) and setup.faults.missing == "zero"
        seen_HD, seen = (honest_HD, range(setup.honest)) if with_zeros else (s_HD[came], came)
        asked = Step(n=len(seen) + setup.byzantine, f=setup.tolerated)
        view = View(asked, setup.byzantine, setup.defence.at(asked, {}), tuple(seen))
        attack_FD = setup.attack(seen_HD, view)
        submissions = Matrix(torch.cat([honest_HD, attack_FD]))
        aggregate = setup.defence.at(Step(n=submissions.n, f=setup.tolerated), {})(submissions)
        before = self.gradients * setup.batch_size
        self.gradients += len(came)
        self._update(aggregate.vector_D, placement, setup.rate_at(t))
        return {
            "Training point count": before,
            "Average loss": losses_H[came].double().mean().item(),
            "Sampled gradient deviation": deviation(g_HD[came]),
            "Sampled gradient norm": g_HD[came].double().mean(dim=0).norm().item(),
            "Honest gradient deviation": deviation(honest_HD),
            "Honest gradient norm": honest_HD.double().mean(dim=0).norm().item(),
            "Attack gradient norm": attack_FD[0].double().norm().item(),
            "Defense gradient norm": aggregate.vector_D.double().norm().item(),
            "Attack acceptation ratio": acceptance(aggregate, len(honest_HD), setup.byzantine).item(),
        }

    def _update(self, aggregate_D: Tensor, placement: str, rate: float) -> None:
        momentum = self.setup.momentum
        if placement == "update":
            self.v_D = momentum.beta * self.v_D + (1 - momentum.dampening) * aggregate_D
        else:
            self.v_D = aggregate_D
        self.theta_D = self.theta_D - rate * self.v_D


def deviation(vectors_KD: Tensor) -> float:
    return vectors_KD.double().var(dim=0).sum().sqrt().item()


@pytest.mark.parametrize("cohorts", [[range(5)], [range(0, 1), range(1, 3), range(3, 5)]], ids=["together", "apart"])
@pytest.mark.parametrize("aggregator", ["median", "average", "cge"])
@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=["alone", "nnm"])
@pytest.mark.parametrize("missing", ["zero", "drop"])
@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_steps_without_some_submissions_follow_the_definitions(
    small_setup: Setup, placement: str, missing: str, pre: list[str], aggregator: str, cohorts: list[range]
) -> None:
    momentum = {"placement": placement, "beta": 0.8, "dampening": 0.3}
    setup = faulty(small_setup, missing, pre=pre, aggregator=aggregator, momentum=momentum)
    data = load_data(setup)
    run, expected = Run(setup, data, cohorts), ByHand(setup, data)
    for step in range(setup.steps):
        row, wanted = run.step(), expected.step(step, TABLE.get(step, {}))
        for column, value in wanted.items():
            assert row[column] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (step, column)
        torch.testing.assert_close(run.server.theta_D, expected.theta_D, rtol=1e-5, atol=1e-6)
        if placement == "worker":
            # Also what lies in the server's matrix: from there a lost worker gets its momentum back.
            torch.testing.assert_close(run.server.trained_TD, expected.m_HD, rtol=1e-5, atol=1e-6)


def test_a_drop_and_a_zero_shape_the_result(small_setup: Setup) -> None:
    results = []
    for missing in ("recover", "zero", "drop"):
        run = Run(faulty(small_setup, missing, aggregator="average"), load_data(small_setup))
        for _ in range(small_setup.steps):
            run.step()
        results.append(run.server.theta_D)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (results[i] - results[j]).norm() > 1e-4


@pytest.mark.parametrize("study", ["on", "off"])
@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_recovering_faults_change_no_bit(small_setup: Setup, placement: str, study: str) -> None:
    plain = small_setup.changed(momentum={"placement": placement, "nesterov": True}, study=study)
    data = load_data(plain)
    rows, states = [], []
    for setup in (plain, faulty(plain, "recover")):
        simulation = LocalSimulation(setup, data)
        rows.append(simulation.advance(setup.steps))
        states.append(simulation.state())
    np.testing.assert_array_equal(rows[0], rows[1])
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("kind", ["crash", "hang", "silent"])
def test_momentum_after_a_fault(small_setup: Setup, kind: str) -> None:
    events = [{"kind": kind, "workers": 2, "steps": 1}]
    setup = faulty(small_setup, "drop", events, aggregator="median")
    run = Run(setup, load_data(setup))
    run.step()
    (cohort,) = run.cohorts
    assert cohort.momentum.buffers_KD is not None
    before_KD = cohort.momentum.buffers_KD.clone()
    run.step()
    assert torch.equal(cohort.momentum.buffers_KD[2], before_KD[2]) == (kind != "silent")
    assert torch.equal(run.server.trained_TD, cohort.momentum.buffers_KD)
    # All others go on.
    assert not (cohort.momentum.buffers_KD == before_KD).all(dim=1)[[0, 1, 3, 4]].any()


@pytest.mark.parametrize("placement", ["worker", "update"])
@pytest.mark.parametrize("kind", ["crash", "silent"])
def test_batch_statistics_after_a_fault(
    small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, placement: str
) -> None:
    (tmp_path / "normalised_for_faults.py").write_text(
        "from torch import nn\nfrom byzray.models import Model, TrainingOption\n\n"
        "class Normalised(TrainingOption, Model):\n"
        "    def build(self, shape, classes):\n"
        "        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, classes), nn.LogSoftmax(dim=1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"name": "normalised_for_faults:Normalised", "training": True}
    events = [{"kind": kind, "workers": 2, "steps": "1-2"}]
    setup = faulty(
        small_setup, "zero", events, model=model, momentum={"placement": placement}, aggregator="median", local_steps=2
    )
    run, plain = (Run(one, load_data(setup)) for one in (setup, setup.changed(faults=None)))
    for _ in range(3):
        run.step()
        plain.step()
    seen, usual = (one.cohorts[0].state()["buffer 0.num_batches_tracked"].tolist() for one in (run, plain))
    assert usual == [6] * 5
    assert seen == ([6] * 5 if kind == "silent" else [6, 6, 2, 6, 6])


def test_what_an_absent_cohort_reports_does_not_matter(small_setup: Setup) -> None:
    """As with actors, where a worker that crashed reports nothing: what is left of it may be anything."""
    setup = faulty(small_setup, "drop", [crash(0, 1)], aggregator="average")
    data, cohorts = load_data(setup), [range(0, 1), range(1, 5)]
    left, zeros = (Run(setup, data, cohorts) for _ in range(2))
    left.step()
    zeros.step()
    contributions = left.compute()
    assert contributions[0].sampled is not None
    assert contributions[0].sampled.size == setup.present(cohorts[0], 1) == 0
    dimension = left.server.network.dimension
    nothing = Moments(0, torch.full((dimension,), torch.nan), torch.tensor(torch.nan))
    left.server.step([Contribution(torch.tensor([torch.inf]), nothing), contributions[1]])
    row = dict(zip(METRIC_COLUMNS, left.server.take_rows()[0], strict=True))
    assert row == zeros.step()
    assert np.isfinite(row["Sampled gradient deviation"])


@pytest.mark.parametrize("placement", ["worker", "update"])
@pytest.mark.parametrize("missing", ["zero", "drop"])
def test_what_is_missing_is_not_looked_at(small_setup: Setup, missing: str, placement: str) -> None:
    """Neither by the rule nor by the adversary; and the matrix keeps what workers wrote."""
    setup = faulty(small_setup, missing, [crash([1, 3], 1)], aggregator="average", momentum={"placement": placement})
    data = load_data(setup)
    run, disturbed = Run(setup, data), Run(setup, data)
    run.step()
    disturbed.step()
    contributions = disturbed.compute()
    disturbed.server.trained_TD[[1, 3]] = torch.nan
    written_HD = disturbed.server.trained_TD.clone()
    disturbed.server.step(contributions)
    disturbed_row = dict(zip(METRIC_COLUMNS, disturbed.server.take_rows()[0], strict=True))
    assert disturbed_row == run.step()
    assert torch.equal(disturbed.server.theta_D, run.server.theta_D)
    torch.testing.assert_close(disturbed.server.trained_TD, written_HD, rtol=0, atol=0, equal_nan=True)


def test_a_resumed_run_counts_the_points_that_came(small_setup: Setup) -> None:
    setup = faulty(small_setup, "drop", aggregator="median")
    data = load_data(setup)
    whole, part, rest = (LocalSimulation(setup, data) for _ in range(3))
    rows = whole.advance(12)
    part.advance(6)
    rest.restore({name: tensor.clone() for name, tensor in part.state().items()}, 6)
    np.testing.assert_array_equal(rest.advance(12), rows[6:])
    # 5 workers, batches of 4; 1 + 2 + 1 + 2 submissions are missing at steps 2, 5, 6 and 8.
    assert rows[:, 1].tolist() == [0, 20, 40, 56, 76, 96, 108, 124, 144, 156, 176, 196]


def test_yaml_of_the_documentation_is_read(tmp_path: Path) -> None:
    section = (Path(__file__).parents[2] / "docs" / "setups.md").read_text().split("## Faults")[1]
    fields = parse_yaml(section.split("```yaml")[1].split("```")[0])
    assert Setup.model_validate(fields).missing_at(fields["faults"]["events"][0]["steps"][0]) != ()
