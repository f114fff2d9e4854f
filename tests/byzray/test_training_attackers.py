"""Byzantine workers that train: they have places in cohorts and streams; losses, moments and counts leave them out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byzray import Setup, simulate
from byzray.attacks import Attack, View
from byzray.cohort import Cohort
from byzray.data import load_data
from byzray.mistakes import BrokenContract
from byzray.sampling import Batch
from byzray.server import Server
from byzray.simulation import LocalSimulation

FLIPPING = {"attack": "label-flipping", "aggregator": "average"}


@pytest.mark.parametrize("placement", ["worker", "server", "update"])
def test_label_flippers_submit_what_the_honest_code_computes_on_flipped_labels(
    small_setup: Setup, placement: str
) -> None:
    setup = small_setup.changed(
        **FLIPPING, momentum={"placement": placement, "dampening": 0.5}, clip=0.7, local_steps=2
    )
    data = load_data(setup)
    run = LocalSimulation(setup, data)
    run.advance(3)
    # The same seven workers, all honest, where those of the last two have flipped labels.
    honest = setup.changed(byzantine=0, tolerated=2, attack=None)
    cohort = Cohort(honest, range(7), data, torch.device("cpu"))
    draw = cohort.stream.batch

    def flipped(workers: range, step: int, local_step: int = 0) -> Any:
        batch = draw(workers, step, local_step)
        y = batch.y.clone()
        y[5 * setup.batch_size :] = 1 - y[5 * setup.batch_size :]
        return batch._replace(y=y)

    cohort.stream.batch = flipped  # type: ignore[method-assign]
    other = LocalSimulation(honest.changed(aggregator="average"), data)
    other.cohort = cohort
    other.advance(3)
    assert np.array_equal(run.parameters(), other.parameters())


def test_honest_batches_and_byzantine_ones_make_up_the_stream(small_setup: Setup) -> None:
    setup = small_setup.changed(**FLIPPING)
    data = load_data(setup)
    stream = LocalSimulation(setup, data).cohort.stream
    everybody = LocalSimulation(setup.changed(byzantine=0, tolerated=2, attack=None), data).cohort.stream
    assert np.array_equal(stream.indices(range(7), 3), everybody.indices(range(7), 3))


def test_losses_moments_and_counts_are_those_of_the_honest(small_setup: Setup) -> None:
    setup = small_setup.changed(attack="label-flipping", aggregator="median", steps=1)
    data = load_data(setup)
    cohort = Cohort(setup, setup.trained, data, torch.device("cpu"))
    run = LocalSimulation(setup, data)
    rows = torch.zeros_like(run.server.trained_TD)
    contribution = cohort.step(run.server.theta_D, 0, rows)
    assert contribution.sampled is not None
    assert contribution.sampled.size == 5
    torch.testing.assert_close(contribution.sampled.mean_D, rows[:5].mean(dim=0))
    row = dict(zip(run.columns(), run.advance(1)[0], strict=True))
    assert row["Average loss"] == pytest.approx(contribution.losses_K[:5].mean().item(), rel=1e-6)
    assert row["Honest gradient norm"] == pytest.approx(rows[:5].mean(dim=0).norm().item(), rel=1e-5)
    assert row["Attack gradient norm"] == pytest.approx(rows[5:].mean(dim=0).norm().item(), rel=1e-5)
    two = small_setup.changed(attack="label-flipping", steps=2)
    assert simulate(two).metrics["Training point count"].tolist() == [0, 5 * 4]


class Negating(Attack):
    """Sends the negative of what its workers computed."""

    trains = True

    def __call__(self, honest_HD: torch.Tensor, view: View) -> torch.Tensor:
        assert view.own_FD is not None
        return -view.own_FD


class Honest(Negating):
    """Sends what its workers computed."""

    def __call__(self, honest_HD: torch.Tensor, view: View) -> torch.Tensor:
        assert view.own_FD is not None
        return view.own_FD


def test_an_attack_does_not_overwrite_the_momentum_of_its_workers(small_setup: Setup) -> None:
    data = load_data(small_setup)
    still = small_setup.changed(learning_rate=1e-30)  # the points are the same, whatever is submitted
    runs = [LocalSimulation(still.changed(attack=attack), data) for attack in (Negating(), Honest())]
    for run in runs:
        run.advance(6)
    first, second = (run.state()["worker momentum"] for run in runs)
    assert first.shape == (7, len(runs[0].parameters()))
    assert torch.equal(first, second)


def test_they_come_with_missing_submissions_too(small_setup: Setup) -> None:
    for missing in ("drop", "zero"):
        faults = {"missing": missing, "events": [{"kind": "silent", "workers": [1], "steps": "2-4"}]}
        setup = small_setup.changed(attack="label-flipping", aggregator="median", faults=faults)
        result = simulate(setup)
        assert np.isfinite(result.parameters).all()
        assert result.metrics["Attack gradient norm"].notna().all()


# What is made of their batches


class Own(Honest):
    """Makes of a batch what the test says."""

    made: Callable[[Batch], Any]

    def poison(self, batch: Batch, classes: int, worker: int, step: int, generator: np.random.Generator) -> Any:
        return self.made(batch)


def changed_in_place(part: int) -> Callable[[Batch], Batch]:
    def make(batch: Batch) -> Batch:
        batch[part].add_(1).sub_(1)
        return batch

    return make


EXPECTED = r"from poison, expected a Batch of x \(4, 5\) torch\.float32 and y \(4,\) torch\.int64$"
IN_PLACE = "changed the batch it was given in place, expected"
WRONG_BATCHES: dict[str, tuple[Callable[[Batch], Any], str]] = {
    "fewer examples": (lambda b: Batch(b.x[1:], b.y[1:]), rf"returned .*\(3, 5\).* {EXPECTED}"),
    "more examples": (lambda b: Batch(b.x.repeat(2, 1), b.y.repeat(2)), rf"returned .*\(8, 5\).* {EXPECTED}"),
    "more labels": (lambda b: Batch(b.x, b.y.repeat(2)), rf"returned .*\(8,\).* {EXPECTED}"),
    "examples of another shape": (lambda b: Batch(b.x[:, 1:], b.y), rf"returned .*\(4, 4\).* {EXPECTED}"),
    "another precision": (lambda b: Batch(b.x.double(), b.y), f"returned .*float64.* {EXPECTED}"),
    "labels that are no integers": (lambda b: Batch(b.x, b.y.float()), f"returned .*float32.* {EXPECTED}"),
    "labels of 32 bits": (lambda b: Batch(b.x, b.y.int()), f"returned .*int32.* {EXPECTED}"),
    "a tuple": (lambda b: (b.x, b.y), f"returned tuple {EXPECTED}"),
    "examples alone": (lambda b: b.x, f"returned Tensor {EXPECTED}"),
    "nothing": (lambda b: None, f"returned NoneType {EXPECTED}"),
    "lists": (lambda b: Batch(b.x.tolist(), b.y.tolist()), f"returned .* {EXPECTED}"),  # type: ignore[arg-type]
    "examples in place": (changed_in_place(0), IN_PLACE),
    "labels in place": (changed_in_place(1), IN_PLACE),
}


@pytest.mark.parametrize("case", WRONG_BATCHES)
def test_what_poison_returns_is_checked(small_setup: Setup, case: str) -> None:
    made, message = WRONG_BATCHES[case]
    with pytest.raises(BrokenContract, match=f"^attack Own {message}") as caught:
        simulate(small_setup.changed(attack=Own(made=made)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "made",
    [
        lambda b: b,
        lambda b: Batch(b.x.clone().requires_grad_(), b.y),
        lambda b: Batch(b.x[:1].expand_as(b.x), b.y[:1].expand_as(b.y)),
        lambda b: Batch(b.x.flip(0), b.y.flip(0)),
        lambda b: Batch(b.x * torch.inf, b.y),
    ],
    ids=["as it is", "followed by autograd", "expanded", "in another order", "not finite"],
)
def test_any_batch_of_as_many_examples_may_be_returned(small_setup: Setup, made: Callable[[Batch], Batch]) -> None:
    result = simulate(small_setup.changed(attack=Own(made=made), aggregator="median"))
    assert np.isfinite(result.parameters).all()


class Drawing(Honest):
    """Draws labels, and writes down what it drew: a file for each worker and step."""

    folder: str

    def poison(self, batch: Batch, classes: int, worker: int, step: int, generator: np.random.Generator) -> Batch:
        drawn = int(generator.integers(2**60))
        with Path(self.folder, f"{worker} {step}").open("a") as file:
            file.write(f"{drawn}\n")
        return Batch(batch.x, (batch.y + drawn) % classes)


def drawn(setup: Setup, folder: Path) -> dict[str, list[str]]:
    """What was drawn by each worker at each step of a run."""
    folder.mkdir()
    simulate(setup.changed(attack=Drawing(folder=str(folder))))
    return {file.name: file.read_text().splitlines() for file in folder.iterdir()}


def test_poison_draws_anew_for_each_worker_step_and_local_step(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(local_steps=2)
    found = drawn(setup, tmp_path / "first")
    assert set(found) == {f"{worker} {step}" for worker in (5, 6) for step in range(12)}
    assert {len(draws) for draws in found.values()} == {2}
    assert len({draw for draws in found.values() for draw in draws}) == 2 * 12 * 2
    assert drawn(setup, tmp_path / "again") == found
    other = drawn(setup.changed(seed=9), tmp_path / "other")
    assert not {draw for draws in other.values() for draw in draws} & {d for draws in found.values() for d in draws}


def test_poison_draws_the_same_at_both_points_of_mvr(small_setup: Setup, tmp_path: Path) -> None:
    found = drawn(small_setup.changed(momentum={"name": "mvr"}), tmp_path / "mvr")
    assert {name: set(draws) for name, draws in found.items()} == {
        name: set(draws) for name, draws in drawn(small_setup, tmp_path / "heavy-ball").items()
    }
    assert {len(set(draws)) for draws in found.values()} == {1}


@pytest.fixture
def normalised(tmp_path: Path) -> Setup:
    """Three honest workers and a Byzantine one whose networks normalise by their batches; the points stay."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3, 32, 32)).astype(np.float32), rng.integers(0, 2, 24)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(tmp_path / "images.npz")},
            "model": {"name": "empire-cnn", "hidden": 4, "training": True},
            "batch_size": 2,
            "steps": 3,
            "learning_rate": 1e-30,
            "workers": 4,
            "byzantine": 1,
            "attack": "empire",
            "aggregator": "median",
            "evaluation_interval": 1,
        }
    )


def test_statistics_of_byzantine_workers_enter_no_evaluation(
    normalised: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[dict[str, torch.Tensor]] = []
    evaluate = Server.evaluate

    def note(self: Server, buffers: dict[str, torch.Tensor] | None = None) -> float:
        assert buffers is not None
        used.append(buffers)
        return evaluate(self, buffers)

    monkeypatch.setattr(Server, "evaluate", note)
    loud = Own(made=lambda batch: Batch(batch.x * 1000 + 500, batch.y))
    found = [simulate(normalised.changed(attack=Own(made=made))) for made in (loud.made, lambda batch: batch)]
    assert found[0].evaluations.equals(found[1].evaluations)
    assert len(used) == 8
    for first, second in zip(used[:4], used[4:], strict=True):
        assert first.keys() == second.keys()
        assert first
        for name, buffer in first.items():
            assert torch.equal(buffer, second[name]), name
    # The statistics move, so that it matters whose they are.
    name = next(name for name in used[0] if name.endswith("running_mean"))
    assert not torch.equal(used[0][name], used[3][name])
