"""Splits: which examples are whose."""

import numpy as np
import pytest
from numpy.typing import NDArray

from byzray import Setup, SetupError, simulate
from byzray.simulation import LocalSimulation, load_data
from byzray.splits import SPLITS, PartitionSplit, Training
from byzray.splits._partition import label_skew

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
        ({"name": "dirichlet", "minimum": 400}, "needs minimum * workers <= examples, got minimum = 400"),
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
    from byzray.division import training as of

    shards = split.shards(of(load_data(setup), setup))
    for worker, shard in enumerate(shards):
        assert set(run.cohort.stream.indices(range(worker, worker + 1), 3)) <= set(shard)
