"""Splits: which examples are whose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from byzray import RunExists, Setup, SetupError, simulate
from byzray.data import load_data
from byzray.datasets import MissingData
from byzray.division import training as of
from byzray.environment import fingerprints
from byzray.simulation import LocalSimulation
from byzray.splits import SPLITS, PartitionSplit, Training, label_skew

Y = np.random.default_rng(3).integers(0, 10, size=2000)


def training(**changes: int) -> Training:
    values = {"classes": 10, "seed": 5, "honest": 6, "workers": 8, "batch_size": 7, "local_steps": 2, **changes}
    return Training(Y, **values)  # type: ignore[arg-type]


PARTITIONS = [SPLITS.parse(name) for name in SPLITS.names if issubclass(SPLITS[name], PartitionSplit)]


@pytest.mark.parametrize("split", PARTITIONS, ids=str)
def test_each_example_belongs_to_one_worker(split: PartitionSplit) -> None:
    shards = split.shards(training())
    assert len(shards) == 6
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(len(Y)))
    assert all(np.array_equal(one, other) for one, other in zip(shards, split.shards(training()), strict=True))
    other = split.shards(training(seed=6))
    assert any(not np.array_equal(one, another) for one, another in zip(shards, other, strict=True))


@pytest.mark.parametrize("split", PARTITIONS, ids=str)
def test_a_worker_goes_through_its_shard_epoch_by_epoch(split: PartitionSplit) -> None:
    stream, shards = split.stream(training()), split.shards(training())
    for worker, shard in enumerate(shards):
        drawn = [stream.indices(range(worker, worker + 1), step, local) for step in range(400) for local in range(2)]
        together = np.concatenate(drawn)
        size = len(shard)
        for epoch in range(len(together) // size):
            assert np.array_equal(np.sort(together[epoch * size : (epoch + 1) * size]), np.sort(shard))
    everybody = stream.indices(range(8), 9, 1).reshape(8, 7)
    assert all(np.array_equal(stream.indices(range(i, i + 1), 9, 1), everybody[i]) for i in range(8))


@pytest.mark.parametrize("split", PARTITIONS, ids=str)
def test_byzantine_workers_that_train_draw_from_all(split: PartitionSplit) -> None:
    stream = split.stream(training())
    drawn = [
        np.concatenate([stream.indices(range(i, i + 1), step, k) for step in range(200) for k in (0, 1)])
        for i in (6, 7)
    ]
    assert all(len(np.unique(one)) == len(Y) for one in drawn)
    assert not np.array_equal(*drawn)


def test_a_small_alpha_makes_workers_differ() -> None:
    skews = []
    for alpha in (0.1, 1.0, 10.0, 1000.0):
        split = SPLITS.parse({"name": "dirichlet", "alpha": alpha})
        assert isinstance(split, PartitionSplit)
        skews.append(label_skew(Y, split.shards(training()), 10))
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.5
    assert skews[-1] < 0.1


def test_label_skew_is_nothing_for_equal_shards_and_most_for_single_classes() -> None:
    y = np.repeat(np.arange(4), 10)
    assert label_skew(y, [np.arange(i, 40, 5) for i in range(5)], 4) < 1e-15
    assert label_skew(y, [np.flatnonzero(y == c) for c in range(4)], 4) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"name": "dirichlet", "minimum": 400}, "needs minimum * workers <= examples; got minimum = 400"),
        ({"name": "dirichlet", "alpha": 0.02, "minimum": 300}, "left some of 6 workers with fewer than minimum = 300"),
    ],
)
def test_what_cannot_be_divided_is_refused(split: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        SPLITS.parse(split).stream(training())


class Twice(PartitionSplit):
    """Gives everybody everything."""

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        return [np.arange(len(y))] * workers


class Few(PartitionSplit):
    """Forgets all workers but one."""

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        return [np.arange(len(y))]


class Empty(PartitionSplit):
    """Gives all to the first."""

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        return [np.arange(len(y)), *[np.arange(0)] * (workers - 1)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Twice(), "split Twice did not give each of the 2000 examples to exactly one worker"),
        (Few(), "split Few made 1 shards, expected 6"),
        (Empty(), "split Empty gave worker 1 no example"),
    ],
    ids=str,
)
def test_partitions_of_the_users_own_are_checked(split: PartitionSplit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split.shards(training())


def test_a_setup_whose_data_cannot_be_divided_is_a_mistake(small_setup: Setup) -> None:
    setup = small_setup.changed(split={"name": "dirichlet", "minimum": 30})
    with pytest.raises(SetupError, match=r"split: .*needs minimum \* workers <= examples"):
        simulate(setup)
    kept = small_setup.changed(aggregator={"name": "fltrust", "root": 60})
    with pytest.raises(SetupError, match=r"aggregator: .*root = 60 examples, expected fewer than the 60"):
        simulate(kept)


def test_small_shards_are_noted(small_setup: Setup) -> None:
    setup = small_setup.changed(split={"name": "dirichlet", "alpha": 0.3, "minimum": 1}, batch_size=15)
    with pytest.warns(UserWarning, match="examples, fewer than batch_size = 15"):
        simulate(setup)


def test_the_split_is_left_out_of_descriptions_where_it_is_the_usual_one(small_setup: Setup) -> None:
    assert "split" not in small_setup.describe()
    changed = small_setup.changed(split="dirichlet")
    assert changed.describe()["split"] == {"name": "dirichlet", "alpha": 0.5, "minimum": 10}
    assert Setup.model_validate(changed.describe()) == changed


def test_honest_batches_come_from_the_shards(small_setup: Setup) -> None:
    setup = small_setup.changed(split={"name": "dirichlet", "minimum": 3})
    run = LocalSimulation(setup, load_data(setup))
    split = setup.split
    assert isinstance(split, PartitionSplit)
    shards = split.shards(of(load_data(setup), setup))
    for worker, shard in enumerate(shards):
        assert set(run.cohort.stream.indices(range(worker, worker + 1), 3)) <= set(shard)


def assigned(small_setup: Setup, folder: Path, **arrays: Any) -> Setup:
    """The setup with a partition of the user's own; the data of `small_setup` are 60 examples."""
    np.savez(folder / "parts.npz", **arrays)
    return small_setup.changed(split={"name": "file", "path": str(folder / "parts.npz")})


def test_a_file_says_whose_the_examples_are(small_setup: Setup, tmp_path: Path) -> None:
    worker = np.arange(60, dtype=np.uint8) ** 2 % small_setup.honest
    worker[: small_setup.honest] = np.arange(small_setup.honest)
    setup = assigned(small_setup, tmp_path, worker=worker)
    run = LocalSimulation(setup, load_data(setup))
    for i in range(setup.honest):
        drawn = np.concatenate([run.cohort.stream.indices(range(i, i + 1), step) for step in range(40)])
        assert np.array_equal(np.unique(drawn), np.flatnonzero(worker == i))
    assert simulate(setup).parameters.std() > 0


def test_a_root_part_leaves_the_file_the_others(small_setup: Setup, tmp_path: Path) -> None:
    worker = np.arange(60) % small_setup.honest
    setup = assigned(small_setup, tmp_path, worker=worker).changed(aggregator={"name": "fltrust", "root": 9})
    run = LocalSimulation(setup, load_data(setup))
    for i in range(setup.honest):
        assert set(worker[run.cohort.stream.indices(range(i, i + 1), 3)]) == {i}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"workers": np.zeros(60, int)}, "array 'worker': found only workers, expected this array"),
        ({}, "array 'worker': found only an empty archive, expected this array"),
        ({"worker": np.zeros(60)}, "array 'worker': found values of type float64, expected integers"),
        ({"worker": np.zeros(59, int)}, r"array 'worker': found shape \(59,\), expected \(60,\), one worker for each"),
        ({"worker": np.zeros((60, 1), int)}, r"array 'worker': found shape \(60, 1\), expected \(60,\)"),
        ({"worker": np.arange(60) - 1}, "array 'worker': found worker -1, expected the numbers of honest workers"),
        ({"worker": np.full(60, 2**64 - 1, np.uint64)}, "array 'worker': found worker 18446744073709551615, expected"),
        ({"worker": np.arange(60)}, "array 'worker': found worker 59, expected honest workers, 0..[0-9]$"),
        ({"worker": np.zeros(60, int)}, "array 'worker': found no example of worker 1, expected at least one for each"),
        ({"worker": np.array([None] * 60)}, r"array 'worker': found what numpy cannot read \(.*\), expected plain"),
    ],
)
def test_mistakes_in_the_file(arrays: dict[str, Any], message: str, small_setup: Setup, tmp_path: Path) -> None:
    setup = assigned(small_setup, tmp_path, **arrays)
    with pytest.raises(SetupError, match=rf"split: {tmp_path}/parts.npz: {message}"):
        simulate(setup)


def test_no_file_or_another_one(small_setup: Setup, tmp_path: Path) -> None:
    setup = assigned(small_setup, tmp_path)
    (tmp_path / "parts.npz").write_text("worker: 3")
    with pytest.raises(
        SetupError, match=r"parts.npz: found .*, expected a numpy archive \(.npz\) with the array 'worker'"
    ):
        simulate(setup)
    (tmp_path / "parts.npz").unlink()
    with pytest.raises(MissingData, match="The split file needs a file that does not exist") as missing:
        simulate(setup)
    assert str(tmp_path / "parts.npz") in str(missing.value)
    assert "split parts.npz" not in fingerprints(setup, tmp_path)


def test_the_file_is_looked_up_where_data_sets_are(
    small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    assigned(small_setup, tmp_path / "data", worker=np.arange(60) % small_setup.honest)
    setup = small_setup.changed(split={"name": "file", "path": "parts.npz"})
    assert simulate(setup, data=tmp_path / "data").parameters.std() > 0
    monkeypatch.chdir(tmp_path / "data")
    assert simulate(setup, data=tmp_path).parameters.std() > 0


def test_a_run_belongs_to_the_file_that_it_began_with(small_setup: Setup, tmp_path: Path) -> None:
    worker = np.arange(60) % small_setup.honest
    setup = assigned(small_setup, tmp_path, worker=worker)
    first = simulate(setup, output=tmp_path / "results")
    assert simulate(setup, output=tmp_path / "results").reused
    assert first.directory is not None
    assigned(small_setup, tmp_path, worker=worker[::-1].copy())
    with pytest.raises(RunExists, match=r"was computed with another content of split parts\.npz"):
        simulate(setup, output=tmp_path / "results")


def test_one_archive_may_hold_data_and_partition(small_setup: Setup, tmp_path: Path) -> None:
    data = load_data(small_setup)
    worker = np.arange(60) % small_setup.honest
    arrays = {name: getattr(data, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    setup = assigned(small_setup, tmp_path, worker=worker, **arrays)
    setup = setup.changed(dataset={"name": "npz", "path": str(tmp_path / "parts.npz")})
    assert fingerprints(setup, tmp_path).keys() == {"parts.npz", "split parts.npz"}
    assert simulate(setup).parameters.std() > 0


def accuracies_by_hand(setup: Setup) -> tuple[float, list[float]]:
    """The accuracy of the initial model, and that of each honest worker by its shares of the classes."""
    data = load_data(setup)
    simulation = LocalSimulation(setup, data)
    network = simulation.server.network
    x = torch.from_numpy(np.asarray(data.x_test, np.float32)) * data.scale
    right = network(simulation.server.theta_D, (x - data.mean[0]) / data.std[0]).argmax(1).numpy() == data.y_test
    of_class = [right[data.y_test == c].mean() for c in range(data.classes)]
    divided = of(data, setup)
    assert isinstance(setup.split, PartitionSplit)
    shards = setup.split.shards(divided)
    return float(right.mean()), [
        sum((divided.y[shard] == c).mean() * of_class[c] for c in range(data.classes)) for shard in shards
    ]


@pytest.mark.parametrize("split", [{"name": "dirichlet", "alpha": 0.3}, {"name": "similarity", "gamma": 0.0}], ids=str)
def test_accuracies_of_workers(split: dict[str, Any]) -> None:
    setup = Setup.model_validate({"split": split, "steps": 0, "workers": 6, "aggregator": "average", "actors": None})
    whole, of_workers = accuracies_by_hand(setup)
    evaluations = simulate(setup).evaluations
    assert list(evaluations.columns) == ["step", "accuracy", "worst worker accuracy", "mean worker accuracy"]
    expected = [0, whole, min(of_workers), np.mean(of_workers)]
    assert evaluations.iloc[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_without_examples_of_their_own_workers_have_no_accuracies(small_setup: Setup) -> None:
    assert list(simulate(small_setup.changed(actors=None)).evaluations.columns) == ["step", "accuracy"]


def test_classes_without_test_examples_are_left_out(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    path = tmp_path / "own.npz"
    y_test = np.array([0, 1, 1, 0])
    x = draws.normal(size=(90, 3)).astype(np.float32)
    np.savez(path, x_train=x, y_train=np.arange(90) % 3, x_test=x[:4], y_test=y_test)
    setup = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(path)},
            "model": "mlp",
            "split": {"name": "similarity", "gamma": 0.0},
            "workers": 3,
            "steps": 0,
            "aggregator": "average",
            "actors": None,
        }
    )
    _, accuracy, worst, mean = simulate(setup).evaluations.iloc[0]
    # Two workers hold one tested class each, half of the test set; the third counts for nothing.
    assert mean == pytest.approx(accuracy)
    assert 0 <= worst <= mean
