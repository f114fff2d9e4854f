"""The training stream and the preparation of batches."""

import numpy as np
import pytest
import torch

from byzray.datasets import Data
from byzray.sampling import Examples, TrainingStream
from byzray.splits import Training
from byzray.splits.shared import Shared

CPU = torch.device("cpu")


def data(size: int = 50, shape: tuple[int, ...] = (1, 2, 3), **options: object) -> Data:
    x = np.arange(size * int(np.prod(shape)), dtype=np.float32).reshape(size, *shape)
    y = np.arange(size) % 2
    return Data(x_train=x, y_train=y, x_test=x[:4], y_test=y[:4], classes=2, **options)  # type: ignore[arg-type]


def shared(source: Data, seed: int, honest: int, batch: int, local: int) -> TrainingStream:
    training = Training(source.y_train, source.classes, seed, honest, honest, batch, local, source.shuffle)
    return TrainingStream(source, Shared().stream(training), CPU)


def stream(seed: int = 1, size: int = 50, honest: int = 3, batch: int = 4, local: int = 1) -> TrainingStream:
    return shared(data(size), seed, honest, batch, local)


@pytest.mark.parametrize(("size", "batch", "local"), [(50, 4, 1), (50, 4, 2), (7, 5, 1), (3, 4, 1)])
def test_every_epoch_holds_every_example_once_and_runs_on_into_the_next(size: int, batch: int, local: int) -> None:
    source = stream(size=size, batch=batch, local=local)
    drawn = np.concatenate(
        [source.indices(range(3), step, local_step) for step in range(20) for local_step in range(local)]
    )
    assert len(drawn) == 20 * local * 3 * batch
    epochs = [drawn[start : start + size] for start in range(0, len(drawn) - size + 1, size)]
    assert len(epochs) > 1
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert not np.array_equal(epochs[0], epochs[1])


def test_what_a_worker_draws_depends_on_nothing_but_seed_worker_and_step() -> None:
    everybody = stream().indices(range(3), 9).reshape(3, 4)
    fresh = stream()
    assert np.array_equal(fresh.indices(range(1, 2), 9), everybody[1])
    assert np.array_equal(fresh.indices(range(1, 3), 9), everybody[1:].ravel())
    assert not np.array_equal(stream(seed=2).indices(range(3), 9).reshape(3, 4), everybody)


def test_without_shuffling_the_stream_is_the_data_in_order() -> None:
    source = shared(data(shuffle=False), 1, 3, 4, 1)
    assert source.indices(range(1, 3), 0).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert source.indices(range(0, 1), 5).tolist() == [(60 + i) % 50 for i in range(4)]


def test_batches_pair_examples_with_their_labels() -> None:
    source = stream()
    batch, indices = source.batch(range(3), 2), source.indices(range(3), 2)
    assert torch.equal(batch.x, torch.from_numpy(source.data.x_train[indices]))
    assert torch.equal(batch.y, torch.from_numpy(source.data.y_train[indices]))


def test_flips_mirror_about_half_of_the_examples_along_the_width_and_are_addressed() -> None:
    source = shared(data(size=400, flip_train=True), 1, 4, 50, 1)
    batch, indices = source.batch(range(4), 0), source.indices(range(4), 0)
    raw = torch.from_numpy(source.data.x_train[indices])
    mirrored = (batch.x == raw.flip(-1)).flatten(1).all(1)
    kept = (batch.x == raw).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 60 < int(mirrored.sum()) < 140
    alone = shared(source.data, 1, 4, 50, 1).batch(range(2, 3), 0)
    assert torch.equal(alone.x, batch.x[100:150])


def test_preparation_scales_and_normalises_each_channel() -> None:
    x = np.random.default_rng(0).integers(0, 256, size=(5, 3, 4, 4)).astype(np.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    holder = Data(x, np.zeros(5, np.int64), x, np.zeros(5, np.int64), 2, scale=1 / 255, mean=mean, std=std)
    found = Examples(holder, x, holder.y_train, CPU).batch(slice(0, 5)).x
    expected = (x / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_preparation_leaves_the_raw_data_alone() -> None:
    holder = data()
    before = holder.x_train.copy()
    examples = Examples(holder, holder.x_train, holder.y_train, CPU)
    prepared = examples.batch(torch.arange(5), torch.ones(5, dtype=torch.bool))
    prepared.x.add_(1)
    assert np.array_equal(holder.x_train, before)


def test_read_only_examples_are_neither_copied_nor_written_to() -> None:
    holder = data()
    holder.x_train.flags.writeable = False
    examples = Examples(holder, holder.x_train, holder.y_train, CPU)
    assert examples.x.data_ptr() == holder.x_train.ctypes.data
    examples.batch(torch.arange(5)).x.add_(1)


def test_what_a_model_does_in_place_does_not_reach_the_examples() -> None:
    holder = data()
    before = holder.x_test.copy()
    Examples(holder, holder.x_test, holder.y_test, CPU).batch(slice(0, 4)).x.add_(1)
    assert np.array_equal(holder.x_test, before)


def test_examples_may_be_views_with_negative_strides() -> None:
    holder = data()
    mirrored = Examples(holder, holder.x_train[..., ::-1], holder.y_train, CPU)
    assert torch.equal(mirrored.batch(slice(0, 3)).x, torch.from_numpy(holder.x_train[:3, ..., ::-1].copy()))


def test_examples_too_many_for_a_gpu_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stream().batch(range(3), 2)
    monkeypatch.setattr("byzray.sampling.KEPT_BYTES", 0)
    assert all(torch.equal(a, b) for a, b in zip(kept, stream().batch(range(3), 2), strict=True))
