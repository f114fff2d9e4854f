"""The data sets against independent readings of their files, and what they say when files are missing or wrong.

The real files are read where the environment variable BYZRAY_DATA names their folder; everything else runs on files
that are written here.
"""

import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from byzray.datasets import (
    DATASETS,
    Cifar10,
    Cifar100,
    Data,
    Digits,
    Emnist,
    FashionMnist,
    MissingData,
    Mnist,
    Npz,
    Phishing,
    Svhn,
    phishing,
)

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def idx_files(train: str, test: str) -> dict[str, str]:
    """The files of the four arrays of a set."""
    return {
        "x_train": f"{train}-images-idx3-ubyte",
        "y_train": f"{train}-labels-idx1-ubyte",
        "x_test": f"{test}-images-idx3-ubyte",
        "y_test": f"{test}-labels-idx1-ubyte",
    }


IDX = idx_files("train", "t10k")
EMNIST = {
    subset: idx_files(f"emnist-{subset}-train", f"emnist-{subset}-test")
    for subset in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
}
SVHN = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def real(*names: str) -> Path:
    """The folder of the real data sets; the test is skipped unless all of `names` are in it."""
    if not (root := os.environ.get("BYZRAY_DATA")):
        pytest.skip("needs the real data sets: set BYZRAY_DATA to the folder that holds them")
    if missing := [name for name in names if not (Path(root) / name).exists()]:
        pytest.skip(f"needs the real data sets: BYZRAY_DATA holds no {', '.join(missing)}")
    return Path(root)


def assert_well_formed(data: Data, dataset: object) -> None:
    """What every consumer of a data set relies on."""
    assert data.shape == data.x_test.shape[1:] == getattr(dataset, "shape", None)
    assert data.classes == getattr(dataset, "classes", None)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert len(x) == len(y) > 0
        assert x.dtype in (np.uint8, np.float32)
        assert y.dtype == np.int64
        assert x.flags.c_contiguous
        assert y.flags.c_contiguous
        assert set(y.tolist()) == set(range(data.classes))


# The registry


def test_names():
    names = ["cifar10", "cifar100", "digits", "emnist", "fashion-mnist", "mnist", "npz", "phishing", "svhn"]
    assert list(DATASETS.classes) == names
    for name in names:
        options = {"path": "mine.npz"} if name == "npz" else {}
        assert DATASETS.parse({"name": name, **options}).describe()["name"] == name


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("options", "flips"),
    [
        ({}, (True, True)),
        ({"flip": "train-and-test"}, (True, True)),
        ({"flip": "train"}, (True, False)),
        ({"flip": "none"}, (False, False)),
    ],
)
def test_flip_option(name: str, options: dict[str, str], flips: tuple[bool, bool]):
    dataset = DATASETS.parse({"name": name, **options})
    assert (dataset.flip_train, dataset.flip_test) == flips


def test_flip_option_refused():
    with pytest.raises(ValidationError, match="train-and-test"):
        DATASETS.parse({"name": "cifar10", "flip": "test"})
    with pytest.raises(ValidationError, match="flip"):
        DATASETS.parse({"name": "mnist", "flip": "train"})


def test_import_is_light():
    program = (
        "import sys, byzray.datasets as sets; list(sets.DATASETS.classes); "
        "print(*sorted({'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# Digits


def test_digits_against_the_shipped_table(tmp_path: Path):
    import sklearn.datasets

    data = Digits().load(tmp_path / "nothing here", download=False)
    assert_well_formed(data, Digits())
    table = np.loadtxt(Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz", delimiter=",")
    assert table.shape == (1797, 65)
    assert (len(data.x_train), len(data.x_test)) == (1438, 359)
    assert np.array_equal(data.x_test.reshape(-1, 64), table[4::5, :64])
    assert np.array_equal(data.y_test, table[4::5, 64])
    rest = np.delete(table, np.s_[4::5], axis=0)
    assert np.array_equal(data.x_train.reshape(-1, 64), rest[:, :64])
    assert np.array_equal(data.y_train, rest[:, 64])
    assert data.x_train.dtype == np.uint8
    assert data.x_train.max() * data.scale == 1.0


# MNIST, Fashion-MNIST and EMNIST


def parse_idx(path: Path) -> np.ndarray:
    """The bytes of an idx file, by the format's description."""
    content = path.read_bytes()
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    assert (zeros, kind) == (0, 8)
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content[4 + 4 * dimensions :], np.uint8).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"uint8": 8, "int16": 11}[array.dtype.name]
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


def write_small(raw: Path, files: dict[str, str] = IDX, labels: range = range(10)) -> dict[str, np.ndarray]:
    """A valid set of random images, one a label for testing and two more for training."""
    rng = np.random.default_rng(1)
    arrays = {}
    for part, count in (("train", len(labels) + 2), ("test", len(labels))):
        arrays[f"x_{part}"] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = np.resize(np.array(labels, np.uint8), count)[::-1]
    for name, array in arrays.items():
        write_idx(raw / files[name], array)
    return arrays


@pytest.mark.parametrize(("dataset", "folder"), [(Mnist(), "MNIST"), (FashionMnist(), "FashionMNIST")])
def test_real_idx_files(dataset: Mnist | FashionMnist, folder: str):
    root = real(folder)
    data = dataset.load(root, download=False)
    assert_well_formed(data, dataset)
    assert (len(data.x_train), len(data.x_test)) == (60_000, 10_000)
    for name, file in IDX.items():
        loaded = getattr(data, name)
        expected = parse_idx(root / folder / "raw" / file)
        assert np.array_equal(loaded[:, 0] if name[0] == "x" else loaded, expected)


def test_real_mnist_is_normalised():
    data = Mnist().load(real("MNIST"), download=False)
    prepared = (data.x_train * data.scale - data.mean[0]) / data.std[0]
    assert abs(prepared.mean()) < 1e-3
    assert abs(prepared.std() - 1) < 1e-3


@pytest.mark.parametrize(
    ("dataset", "folder", "mean", "std", "flips"),
    [
        (Mnist(), "MNIST", (0.1307,), (0.3081,), (False, False)),
        (FashionMnist(), "FashionMNIST", (0.0,), (1.0,), (True, True)),
        (FashionMnist(flip="train"), "FashionMNIST", (0.0,), (1.0,), (True, False)),
        (FashionMnist(flip="none"), "FashionMNIST", (0.0,), (1.0,), (False, False)),
    ],
)
def test_small_idx_files(
    tmp_path: Path,
    dataset: Mnist | FashionMnist,
    folder: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flips: tuple[bool, bool],
):
    arrays = write_small(tmp_path / folder / "raw")
    data = dataset.load(tmp_path, download=False)
    assert_well_formed(data, dataset)
    for part in ("train", "test"):
        assert np.array_equal(getattr(data, f"x_{part}"), arrays[f"x_{part}"][:, None])
        assert np.array_equal(getattr(data, f"y_{part}"), arrays[f"y_{part}"])
    assert (data.scale, data.mean, data.std) == (1 / 255, mean, std)
    assert (data.flip_train, data.flip_test) == flips


@pytest.mark.parametrize("file", IDX.values())
@pytest.mark.parametrize("size", [0, 3, 7, -1])
def test_truncated_idx_file(tmp_path: Path, file: str, size: int):
    raw = tmp_path / "MNIST" / "raw"
    write_small(raw)
    content = (raw / file).read_bytes()[:size]
    (raw / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"found {len(content)} bytes of another form, expected an idx file") as error:
        Mnist().load(tmp_path, download=False)
    assert str(raw / file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x_train", np.zeros((12, 28, 27), np.uint8), r"shape \(12, 28, 27\), expected \(N, 28, 28\)"),
        ("x_test", np.zeros(10, np.uint8), r"shape \(10,\), expected \(N, 28, 28\)"),
        ("x_train", np.zeros((12, 28, 28), np.int16), "type int16, expected uint8"),
        ("y_train", np.zeros(11, np.uint8), r"labels of shape \(11,\), expected \(12,\)"),
        ("y_test", np.full(10, 10, np.uint8), r"label 10, expected labels in 0\.\.9"),
    ],
)
def test_wrong_idx_file(tmp_path: Path, name: str, array: np.ndarray, message: str):
    raw = tmp_path / "FashionMNIST" / "raw"
    write_small(raw)
    write_idx(raw / IDX[name], array)
    with pytest.raises(ValueError, match=message) as error:
        FashionMnist().load(tmp_path, download=False)
    assert str(raw / IDX[name]) in str(error.value)


@pytest.mark.parametrize(
    ("subset", "labels"),
    [
        ("byclass", range(62)),
        ("bymerge", range(47)),
        ("balanced", range(47)),
        ("letters", range(1, 27)),
        ("digits", range(10)),
        ("mnist", range(10)),
    ],
)
def test_small_emnist(tmp_path: Path, subset: str, labels: range):
    arrays = write_small(tmp_path / "EMNIST" / "raw", EMNIST[subset], labels)
    dataset = DATASETS.parse({"name": "emnist", "subset": subset})
    assert (dataset.shape, dataset.classes) == ((1, 28, 28), len(labels))
    data = dataset.load(tmp_path, download=False)
    assert_well_formed(data, dataset)
    for part in ("train", "test"):
        assert np.array_equal(getattr(data, f"x_{part}"), arrays[f"x_{part}"][:, None])
        assert np.array_equal(getattr(data, f"y_{part}"), arrays[f"y_{part}"].astype(int) - labels[0])
    assert (data.scale, data.mean, data.std) == (1 / 255, (0.1307,), (0.3081,))
    assert (data.flip_train, data.flip_test) == (False, False)


def test_emnist_is_read_as_torchvision_reads_it(tmp_path: Path):
    import torchvision

    write_small(tmp_path / "EMNIST" / "raw", EMNIST["letters"], range(1, 27))
    data = Emnist(subset="letters").load(tmp_path, download=False)
    for train, x, y in ((True, data.x_train, data.y_train), (False, data.x_test, data.y_test)):
        theirs = torchvision.datasets.EMNIST(tmp_path, "letters", train=train)
        assert np.array_equal(x[:, 0], theirs.data.numpy())
        assert np.array_equal(y + 1, theirs.targets.numpy())


def test_real_emnist():
    root = real(*(f"EMNIST/raw/{file}" for file in EMNIST["balanced"].values()))
    data = Emnist().load(root, download=False)
    assert_well_formed(data, Emnist())
    assert (len(data.x_train), len(data.x_test)) == (112_800, 18_800)
    for name, file in EMNIST["balanced"].items():
        loaded = getattr(data, name)
        assert np.array_equal(loaded[:, 0] if name[0] == "x" else loaded, parse_idx(root / "EMNIST" / "raw" / file))


def test_emnist_subset():
    assert Emnist() == Emnist(subset="balanced")
    with pytest.raises(ValidationError, match="Input should be 'byclass', 'bymerge', 'balanced', 'letters'"):
        DATASETS.parse({"name": "emnist", "subset": "byletter"})


@pytest.mark.parametrize(
    ("subset", "name", "array", "message"),
    [
        ("letters", "y_train", np.arange(28, dtype=np.uint8), r"label 27, expected labels in 1\.\.26"),
        ("letters", "y_test", np.arange(26, dtype=np.uint8), r"label 0, expected labels in 1\.\.26"),
        ("balanced", "y_test", np.full(47, 47, np.uint8), r"label 47, expected labels in 0\.\.46"),
        ("balanced", "y_train", np.zeros(48, np.uint8), r"labels of shape \(48,\), expected \(49,\)"),
        ("balanced", "y_train", np.zeros(49, np.int16), "type int16, expected uint8"),
        ("balanced", "x_test", np.zeros((47, 28, 29), np.uint8), r"shape \(47, 28, 29\), expected \(N, 28, 28\)"),
    ],
)
def test_wrong_emnist_file(tmp_path: Path, subset: str, name: str, array: np.ndarray, message: str):
    raw, files = tmp_path / "EMNIST" / "raw", EMNIST[subset]
    write_small(raw, files, range(1, 27) if subset == "letters" else range(47))
    write_idx(raw / files[name], array)
    with pytest.raises(ValueError, match=message) as error:
        Emnist(subset=subset).load(tmp_path, download=False)
    assert str(raw / files[name]) in str(error.value)


def test_emnist_without_images(tmp_path: Path):
    raw, files = tmp_path / "EMNIST" / "raw", EMNIST["balanced"]
    write_small(raw, files, range(47))
    write_idx(raw / files["x_test"], np.zeros((0, 28, 28), np.uint8))
    write_idx(raw / files["y_test"], np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="is damaged: found 16 bytes of another form, expected an idx file") as error:
        Emnist().load(tmp_path, download=False)
    assert str(raw / files["x_test"]) in str(error.value)


@pytest.mark.parametrize("file", EMNIST["balanced"].values())
def test_truncated_emnist_file(tmp_path: Path, file: str):
    raw = tmp_path / "EMNIST" / "raw"
    write_small(raw, EMNIST["balanced"], range(47))
    (raw / file).write_bytes((raw / file).read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes of another form, expected an idx file") as error:
        Emnist().load(tmp_path, download=False)
    assert str(raw / file) in str(error.value)


# CIFAR


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Binary files of random content, of the official size."""
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = rng.integers(256, size=(10_000, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")
    return root


def cifar_record(path: Path, index: int) -> tuple[int, np.ndarray]:
    """The label and the (3, 32, 32) pixels of a record, one byte at a time."""
    with path.open("rb") as file:
        file.seek(index * 3073)
        record = file.read(3073)
    image = np.empty((3, 32, 32), np.uint8)
    for channel in range(3):
        for row in range(32):
            for column in range(32):
                image[channel, row, column] = record[1 + 1024 * channel + 32 * row + column]
    return record[0], image


def test_cifar10_binary_files(cifar_root: Path):
    data = Cifar10().load(cifar_root, download=False)
    assert_well_formed(data, Cifar10())
    assert (len(data.x_train), len(data.x_test)) == (50_000, 10_000)
    assert (data.scale, data.mean, data.std) == (1 / 255, CIFAR_MEAN, CIFAR_STD)
    assert (data.flip_train, data.flip_test) == (True, True)
    folder = cifar_root / "cifar-10-batches-bin"
    for i in (0, 1, 9_999, 10_000, 25_003, 49_999):
        label, image = cifar_record(folder / f"data_batch_{1 + i // 10_000}.bin", i % 10_000)
        assert np.array_equal(data.x_train[i], image)
        assert data.y_train[i] == label
    for i in (0, 4_321, 9_999):
        label, image = cifar_record(folder / "test_batch.bin", i)
        assert np.array_equal(data.x_test[i], image)
        assert data.y_test[i] == label


@pytest.fixture
def cifar_copy(cifar_root: Path, tmp_path: Path) -> Path:
    """A folder of links to the binary files, to be replaced one by one."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for file in (cifar_root / folder.name).iterdir():
        (folder / file.name).symlink_to(file)
    return tmp_path


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch"])
@pytest.mark.parametrize(
    ("size", "label", "message"),
    [
        (0, 0, "found 0 records in 0 bytes, expected 10000 records of 3073 bytes"),
        (9_999 * 3073, 0, "found 9999 records in 30726927 bytes, expected 10000 records"),
        (30_730_001, 0, "in 30730001 bytes, expected 10000 records"),
        (30_730_000, 10, r"found label 10, expected labels in 0\.\.9"),
    ],
)
def test_damaged_cifar10_binary_file(cifar_copy: Path, name: str, size: int, label: int, message: str):
    file = cifar_copy / "cifar-10-batches-bin" / f"{name}.bin"
    file.unlink()
    content = np.zeros(size, np.uint8)
    content[:1] = label
    content.tofile(file)
    with pytest.raises(ValueError, match=message) as error:
        Cifar10().load(cifar_copy, download=False)
    assert str(file) in str(error.value)


def write_pickle(path: Path, labels_key: str, labels: list[int], seed: int) -> tuple[str, str, np.ndarray]:
    """A file as torchvision reads it: its name, its md5 sum and its rows of pixels."""
    rows = np.random.default_rng(seed).integers(256, size=(len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"data": rows, labels_key: labels}))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest(), rows


def write_meta(path: Path, key: str) -> dict[str, str]:
    path.write_bytes(pickle.dumps({key: ["a name"]}))
    return {"filename": path.name, "key": key, "md5": hashlib.md5(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("dataset", "loader", "labels_key"),
    [(Cifar10(), "CIFAR10", "labels"), (Cifar100(flip="none"), "CIFAR100", "fine_labels")],
)
def test_cifar_in_torchvision_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Cifar10 | Cifar100, loader: str, labels_key: str
):
    # the official files cannot be made here: torchvision gets the sums of small ones instead
    import torchvision

    cifar = getattr(torchvision.datasets, loader)
    folder = tmp_path / cifar.base_folder
    labels = list(range(dataset.classes))
    train = [write_pickle(folder / f"train_{i}", labels_key, labels, seed=i) for i in range(2)]
    test = write_pickle(folder / "test", labels_key, labels[::-1], seed=3)
    monkeypatch.setattr(cifar, "train_list", [file[:2] for file in train])
    monkeypatch.setattr(cifar, "test_list", [test[:2]])
    monkeypatch.setattr(cifar, "meta", write_meta(folder / "names", "label_names"))

    data = dataset.load(tmp_path, download=False)
    assert_well_formed(data, dataset)
    assert data.y_train.tolist() == labels * 2
    assert data.y_test.tolist() == labels[::-1]
    rows = np.concatenate([file[2] for file in train])
    for i, channel, row, column in ((0, 0, 0, 0), (3, 1, 2, 5), (dataset.classes + 4, 2, 31, 30)):
        assert data.x_train[i, channel, row, column] == rows[i, 1024 * channel + 32 * row + column]
    assert np.array_equal(data.x_test.reshape(-1, 3072), test[2])
    assert (data.mean, data.std) == (CIFAR_MEAN, CIFAR_STD)

    (folder / "test").write_bytes(b"something else")
    with pytest.raises(ValueError, match="found another md5 sum, expected") as error:
        dataset.load(tmp_path, download=False)
    assert str(folder / "test") in str(error.value)


# SVHN


def svhn_arrays() -> dict[str, dict[str, np.ndarray]]:
    """X and y, as the files hold them, of a valid set of 12 + 10 random images."""
    rng = np.random.default_rng(6)
    return {
        part: {
            "X": rng.integers(256, size=(32, 32, 3, count), dtype=np.uint8),
            "y": np.resize(np.arange(1, 11, dtype=np.uint8), (count, 1)),
        }
        for part, count in (("train", 12), ("test", 10))
    }


def write_svhn(root: Path, variables: dict[str, dict[str, Any]], compressed: bool = True) -> None:
    import scipy.io

    root.mkdir(exist_ok=True)
    for part, content in variables.items():
        scipy.io.savemat(root / SVHN[part], content, do_compression=compressed)


def trust_svhn(monkeypatch: pytest.MonkeyPatch, root: Path, url: str = "") -> None:
    """The sums of the official files, which cannot be made here, become those of the files below `root`."""
    import torchvision

    sums = {part: hashlib.md5((root / file).read_bytes()).hexdigest() for part, file in SVHN.items()}
    files = {part: [f"{url}{file}", file, sums[part]] for part, file in SVHN.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)


def assert_svhn_equals(data: Data, variables: dict[str, dict[str, np.ndarray]]) -> None:
    assert_well_formed(data, Svhn())
    for part, content in variables.items():
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert x.shape == (content["X"].shape[3], 3, 32, 32)
        for i, channel, row, column in ((0, 0, 0, 0), (3, 1, 2, 5), (9, 2, 31, 30)):
            assert x[i, channel, row, column] == content["X"][row, column, channel, i]
        assert np.array_equal(np.moveaxis(x, [0, 1], [3, 2]), content["X"])
        assert y.tolist() == [0 if label == 10 else label for label in content["y"][:, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_small_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool, dtype: str):
    arrays = svhn_arrays()
    written = {part: {"X": array["X"], "y": array["y"].astype(dtype), "Z": "more"} for part, array in arrays.items()}
    write_svhn(tmp_path, written, compressed)
    trust_svhn(monkeypatch, tmp_path)
    data = Svhn().load(tmp_path, download=False)
    assert_svhn_equals(data, arrays)
    assert data.scale == 1 / 255
    assert (data.mean, data.std) == ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    assert (data.flip_train, data.flip_test) == (False, False)


def test_svhn_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torchvision

    write_svhn(tmp_path, svhn_arrays())
    trust_svhn(monkeypatch, tmp_path)
    data = Svhn().load(tmp_path, download=False)
    for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        theirs = torchvision.datasets.SVHN(tmp_path, part)
        assert np.array_equal(x, theirs.data)
        assert np.array_equal(y, theirs.labels)


def test_real_svhn():
    data = Svhn().load(real(*SVHN.values()), download=False)
    assert_well_formed(data, Svhn())
    assert (len(data.x_train), len(data.x_test)) == (73_257, 26_032)
    means = data.x_train.mean(axis=(0, 2, 3)) * data.scale
    assert np.allclose(means, data.mean, atol=1e-3)


X_SVHN, Y_SVHN = svhn_arrays()["test"].values()


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "no X, expected the variables X and y"),
        ({"y": None}, "no y, expected the variables X and y"),
        ({"X": X_SVHN.astype(np.int16)}, "X of type int16, expected uint8"),
        ({"X": X_SVHN / 255}, "X of type float64, expected uint8"),
        ({"X": "images"}, "X of type <U6, expected uint8"),
        ({"X": np.moveaxis(X_SVHN, 3, 0)}, "X of shape (10, 32, 32, 3), expected (32, 32, 3, N)"),
        ({"X": X_SVHN[:, :, :, 0]}, "X of shape (32, 32, 3), expected (32, 32, 3, N)"),
        ({"y": Y_SVHN * 1.0}, "y of type float64, expected integers"),
        ({"y": {"labels": Y_SVHN}}, "y of type [('labels', 'O')], expected integers"),
        ({"y": Y_SVHN[:9]}, "y of shape (9, 1), expected (10, 1), a label for each image"),
        ({"y": Y_SVHN.T}, "y of shape (1, 10), expected (10, 1), a label for each image"),
        ({"X": X_SVHN[..., :0], "y": Y_SVHN[:0]}, "no images, expected at least one"),
        ({"y": Y_SVHN - 1}, "label 0, expected labels in 1..10"),
        ({"y": Y_SVHN + 1}, "label 11, expected labels in 1..10"),
        ({"y": Y_SVHN.astype(np.int8) * -1}, "label -1, expected labels in 1..10"),
    ],
)
def test_wrong_svhn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, changes: dict[str, object], message: str
):
    content = {name: value for name, value in ({"X": X_SVHN, "y": Y_SVHN} | changes).items() if value is not None}
    write_svhn(tmp_path, {**svhn_arrays(), part: content})
    trust_svhn(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="is damaged") as error:
        Svhn().load(tmp_path, download=False)
    assert f"{tmp_path / SVHN[part]} is damaged: found {message}" in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", [b"", b"X,y\n" * 50, b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_svhn_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, content: bytes):
    write_svhn(tmp_path, svhn_arrays())
    (tmp_path / SVHN[part]).write_bytes(content)
    trust_svhn(monkeypatch, tmp_path)
    message = rf"found {len(content)} bytes of another form, expected a \.mat file with X and y"
    with pytest.raises(ValueError, match=message) as error:
        Svhn().load(tmp_path, download=False)
    assert str(tmp_path / SVHN[part]) in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_svhn_is_not_parsed_unless_its_sum_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str):
    """scipy's reader follows whatever the file says, also out of its memory."""
    write_svhn(tmp_path, svhn_arrays())
    trust_svhn(monkeypatch, tmp_path)
    path = tmp_path / SVHN[part]
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="found another md5 sum, expected") as error:
            Svhn().load(tmp_path, download=False)
        assert str(path) in str(error.value)


# Phishing


def write_phishing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = ("-1", "1", "0", "+1")
    path.write_text("".join(f"{labels[i % 4]} {1 + i % 67}:0.5 68:{i % 9}\n" for i in range(11_055)))


def assert_phishing_equals_its_text(data: Data, path: Path) -> None:
    assert_well_formed(data, Phishing())
    x, y = np.zeros((11_055, 68), np.float32), np.zeros(11_055, np.int64)
    for i, line in enumerate(path.read_text().splitlines()):
        label, *features = line.split()
        y[i] = label in ("1", "+1")
        for feature in features:
            index, value = feature.split(":")
            x[i, int(index) - 1] = float(value)
    assert np.array_equal(data.x_train, x[:8_400])
    assert np.array_equal(data.y_train, y[:8_400])
    assert np.array_equal(data.x_test, x[8_400:])
    assert np.array_equal(data.y_test, y[8_400:])


def test_real_phishing():
    root = real("phishing")
    assert_phishing_equals_its_text(Phishing().load(root, download=False), root / "phishing" / "phishing")


def test_written_phishing(tmp_path: Path):
    path = tmp_path / "phishing" / "phishing"
    write_phishing(path)
    assert_phishing_equals_its_text(Phishing().load(tmp_path, download=False), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 1:1\n" * 11_054, "found 11054 rows, expected 11055"),
        ("1 69:1\n" * 11_055, "expected rows of 68 features"),
        ("1 0:1\n" * 11_055, "expected rows of 68 features"),
        ("<html>not found</html>", "expected rows of 68 features"),
    ],
)
def test_damaged_phishing(tmp_path: Path, content: str, message: str):
    path = tmp_path / "phishing" / "phishing"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Phishing().load(tmp_path, download=False)
    assert str(path) in str(error.value)


# Missing files and downloads

WHERE = {
    "mnist": [f"MNIST/raw/{file}" for file in IDX.values()],
    "fashion-mnist": [f"FashionMNIST/raw/{file}" for file in IDX.values()],
    "cifar10": [
        *(f"cifar-10-batches-py/{file}" for file in ("data_batch_1", "data_batch_5", "test_batch", "batches.meta")),
        *(f"cifar-10-batches-bin/{file}.bin" for file in ("data_batch_1", "data_batch_5", "test_batch")),
    ],
    "cifar100": [f"cifar-100-python/{file}" for file in ("train", "test", "meta")],
    "emnist": [f"EMNIST/raw/{file}" for file in EMNIST["balanced"].values()],
    "svhn": list(SVHN.values()),
    "phishing": ["phishing/phishing"],
}


@pytest.mark.parametrize("name", WHERE)
def test_missing_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingData) as error:
        DATASETS.parse(name).load(Path("data"), download=False)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert f"data set {name} " in lines[0]
    for file in WHERE[name]:
        assert str(tmp_path / "data" / file) in lines
    for advice in ("--download", "--data DIR", "BYZRAY_DATA"):
        assert advice in str(error.value)
    assert not (tmp_path / "data").exists()


def test_only_the_missing_files_are_listed(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    write_small(raw)
    (raw / IDX["y_test"]).unlink()
    with pytest.raises(MissingData) as error:
        Mnist().load(tmp_path, download=False)
    assert str(raw / IDX["y_test"]) in str(error.value)
    assert IDX["y_train"] not in str(error.value)


def test_only_the_missing_binary_files_are_listed(cifar_copy: Path):
    folder = cifar_copy / "cifar-10-batches-bin"
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(MissingData) as error:
        Cifar10().load(cifar_copy, download=False)
    assert str(folder / "data_batch_3.bin") in str(error.value)
    assert "data_batch_2.bin" not in str(error.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of an HTTP server on this machine, and the folder of what it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


@pytest.fixture
def redirected(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every download goes to the server on this machine; returns the folder of what it serves."""
    import torchvision.datasets as sets

    address, folder = server
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sets.MNIST, "mirrors", [address])
    monkeypatch.setattr(sets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(sets.CIFAR10, "url", f"{address}cifar-10-python.tar.gz")
    monkeypatch.setattr(sets.CIFAR100, "url", f"{address}cifar-100-python.tar.gz")
    monkeypatch.setattr(sets.EMNIST, "url", f"{address}gzip.zip")
    files = {part: [f"{address}{file}", file, "0" * 32] for part, file in SVHN.items()}
    monkeypatch.setattr(sets.SVHN, "split_list", files)
    monkeypatch.setattr(phishing, "URL", f"{address}phishing")
    return folder


@pytest.mark.parametrize("name", WHERE)
def test_failed_download(name: str, tmp_path: Path, redirected: Path):
    with pytest.raises(MissingData, match="404") as error:
        DATASETS.parse(name).load(tmp_path / "data", download=True)
    assert "The download failed: " in str(error.value)
    assert "--download" not in str(error.value)
    for file in WHERE[name]:
        assert str(tmp_path / "data" / file) in str(error.value)


def test_download_into_a_folder_that_cannot_be_made(tmp_path: Path, redirected: Path):
    write_phishing(redirected / "phishing")
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(MissingData, match="The download failed: "):
        Phishing().load(tmp_path / "data", download=True)


def test_download_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, redirected: Path):
    write_phishing(redirected / "phishing")
    taken = tmp_path / "data" / "phishing" / "phishing"
    taken.mkdir(parents=True)
    with pytest.raises(MissingData, match="The download failed: "):
        Phishing().load(tmp_path / "data", download=True)
    assert list(taken.parent.iterdir()) == [taken]


def test_phishing_is_downloaded(tmp_path: Path, redirected: Path):
    write_phishing(redirected / "phishing")
    data = Phishing().load(tmp_path / "data", download=True)
    assert_phishing_equals_its_text(data, redirected / "phishing")
    assert [path.name for path in (tmp_path / "data" / "phishing").iterdir()] == ["phishing"]
    (redirected / "phishing").unlink()
    assert_phishing_equals_its_text(
        Phishing().load(tmp_path / "data", download=True), tmp_path / "data/phishing/phishing"
    )


class BrokenOff(BaseHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"1 1:1\n")


def test_broken_off_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), BrokenOff) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(phishing, "URL", f"http://127.0.0.1:{server.server_port}/")
        with pytest.raises(MissingData, match="The download failed: IncompleteRead"):
            Phishing().load(tmp_path / "data", download=True)
        server.shutdown()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_mnist_is_downloaded(tmp_path: Path, redirected: Path, monkeypatch: pytest.MonkeyPatch):
    import torchvision

    arrays = write_small(tmp_path / "source")
    resources = []
    for file in IDX.values():
        packed = redirected / f"{file}.gz"
        packed.write_bytes(gzip.compress((tmp_path / "source" / file).read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    data = Mnist().load(tmp_path / "data", download=True)
    assert np.array_equal(data.x_train[:, 0], arrays["x_train"])
    assert np.array_equal(data.y_test, arrays["y_test"])


def pack_emnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The archive that torchvision downloads, with one small subset; returns the arrays of that."""
    import torchvision

    arrays = write_small(folder / "raw", EMNIST["digits"])
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for file in EMNIST["digits"].values():
            archive.writestr(f"gzip/{file}.gz", gzip.compress((folder / "raw" / file).read_bytes()))
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", hashlib.md5((folder / "gzip.zip").read_bytes()).hexdigest())
    return arrays


def test_emnist_is_downloaded(tmp_path: Path, redirected: Path, monkeypatch: pytest.MonkeyPatch):
    arrays = pack_emnist(redirected, monkeypatch)
    raw = tmp_path / "data" / "EMNIST" / "raw"
    for lost in ([], [EMNIST["digits"]["x_test"]], [EMNIST["digits"]["y_train"]]):
        for file in lost:
            (raw / file).unlink()
        data = Emnist(subset="digits").load(tmp_path / "data", download=True)
        assert np.array_equal(data.x_train[:, 0], arrays["x_train"])
        assert np.array_equal(data.y_test, arrays["y_test"])


def test_files_that_are_damaged_are_so_after_a_download(
    tmp_path: Path, redirected: Path, monkeypatch: pytest.MonkeyPatch
):
    """torchvision itself fails on them, which is no failed download."""
    pack_emnist(redirected, monkeypatch)
    data, files = tmp_path / "data", EMNIST["digits"]
    Emnist(subset="digits").load(data, download=True)
    write_idx(redirected / "raw" / files["y_train"], np.zeros(12, np.int16))
    packed = gzip.compress((redirected / "raw" / files["y_train"]).read_bytes())
    with zipfile.ZipFile(redirected / "gzip.zip", "w") as archive:
        archive.writestr(f"gzip/{files['y_train']}.gz", packed)
    monkeypatch.setattr("torchvision.datasets.EMNIST.md5", None)
    (data / "EMNIST" / "raw" / "gzip.zip").unlink()
    (data / "EMNIST" / "raw" / files["y_train"]).unlink()
    with pytest.raises(ValueError, match="found values of type int16, expected uint8") as error:
        Emnist(subset="digits").load(data, download=True)
    assert files["y_train"] in str(error.value)


def test_svhn_is_downloaded(
    tmp_path: Path, redirected: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
):
    arrays = svhn_arrays()
    write_svhn(redirected, arrays)
    trust_svhn(monkeypatch, redirected, server[0])
    assert_svhn_equals(Svhn().load(tmp_path / "data", download=True), arrays)
    (tmp_path / "data" / SVHN["test"]).unlink()
    (tmp_path / "data" / SVHN["train"]).write_bytes(b"one of the user's own, which is not replaced")
    with pytest.raises(ValueError, match="found another md5 sum") as error:
        Svhn().load(tmp_path / "data", download=True)
    assert str(tmp_path / "data" / SVHN["train"]) in str(error.value)
    assert (tmp_path / "data" / SVHN["test"]).exists()


# Archives of the user's own


def arrays_of(**changes: object) -> dict[str, np.ndarray]:
    """The arrays of a valid archive, 6 + 4 examples of 3 classes, with some replaced, or removed (None)."""
    rng = np.random.default_rng(4)
    arrays: dict[str, object] = {
        "x_train": rng.normal(size=(6, 5)),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.normal(size=(4, 5)),
        "y_test": np.array([2, 1, 0, 0]),
    }
    return {name: np.asarray(array) for name, array in (arrays | changes).items() if array is not None}


def load_npz(folder: Path, **changes: object) -> Data:
    np.savez(folder / "mine.npz", **arrays_of(**changes))
    return Npz(path="mine.npz").load(folder, download=False)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npz_floats(tmp_path: Path, dtype: str):
    arrays = arrays_of()
    x_train, x_test = np.asfortranarray(arrays["x_train"].astype(dtype)), arrays["x_test"].astype(dtype)
    data = load_npz(tmp_path, x_train=x_train, x_test=x_test)
    assert data.x_train.dtype == np.dtype(np.float32)
    assert data.x_train.dtype.isnative
    assert data.x_train.flags.c_contiguous
    assert np.array_equal(data.x_train, x_train.astype(np.float32))
    assert np.array_equal(data.x_test, x_test.astype(np.float32))
    assert data.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.y_test.tolist() == [2, 1, 0, 0]
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert (data.scale, data.classes, data.shape) == (1.0, 3, (5,))
    assert (data.mean, data.std, data.flip_train, data.flip_test) == ((0.0,), (1.0,), False, False)


@pytest.mark.parametrize(("shape", "expected"), [((7, 9), (1, 7, 9)), ((3, 7, 9), (3, 7, 9)), ((5,), (5,))])
def test_npz_bytes(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]):
    x = np.random.default_rng(5).integers(256, size=(10, *shape), dtype=np.uint8)
    data = load_npz(tmp_path, x_train=x[:6], x_test=x[6:])
    assert data.shape == data.x_test.shape[1:] == expected
    assert data.x_train.dtype == data.x_test.dtype == np.uint8
    assert data.scale == 1 / 255
    assert np.array_equal(data.x_train, x[:6].reshape(6, *expected))
    assert np.array_equal(data.x_test, x[6:].reshape(4, *expected))


def test_npz_has_two_classes_at_least(tmp_path: Path):
    assert load_npz(tmp_path, y_train=[0] * 6, y_test=[1, 0, 1, 0]).classes == 2


def test_npz_without_test_examples(tmp_path: Path):
    data = load_npz(tmp_path, x_test=np.zeros((0, 5)), y_test=np.zeros(0, np.int64))
    assert data.x_test.shape == (0, 5)
    assert data.y_test.shape == (0,)


def test_npz_shape_and_classes_are_unknown_before(tmp_path: Path):
    assert (Npz(path="mine.npz").shape, Npz(path="mine.npz").classes) == (None, None)


def test_npz_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, here, elsewhere = tmp_path / "root", tmp_path / "here", tmp_path / "elsewhere"
    for folder, classes in ((root, 3), (here, 4), (elsewhere, 5)):
        folder.mkdir()
        np.savez(folder / "mine.npz", **arrays_of(y_train=[0, 1, 2, 0, 1, classes - 1]))
    monkeypatch.chdir(here)
    assert Npz(path="mine.npz").load(root, download=False).classes == 3
    assert Npz(path=str(elsewhere / "mine.npz")).load(root, download=False).classes == 5
    (root / "mine.npz").unlink()
    assert Npz(path="mine.npz").load(root, download=False).classes == 4
    (here / "mine.npz").unlink()
    with pytest.raises(MissingData) as error:
        Npz(path="mine.npz").load(root, download=True)
    for part in (str(root / "mine.npz"), str(here / "mine.npz"), "--data DIR", "BYZRAY_DATA"):
        assert part in str(error.value)


X, Y = arrays_of()["x_train"], arrays_of()["y_train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "'x_train': found only y_train, x_test, y_test, expected this array as well"),
        ({"y_test": None}, "'y_test': found only x_train, y_train, x_test, expected this array as well"),
        ({"x_train": [["a"] * 5] * 6}, "'x_train': found values of type <U1, expected uint8 or floating values"),
        ({"x_train": X.astype(np.int64)}, "'x_train': found values of type int64, expected uint8 or floating values"),
        ({"x_test": X[:4] * 1j}, "'x_test': found values of type complex128, expected uint8 or floating values"),
        ({"x_test": X[:4].astype(np.uint8)}, "'x_test': found examples of uint8, expected float32 as in 'x_train'"),
        ({"x_train": X[:, 0]}, "'x_train': found shape (6,), expected one row an example: (N, ...)"),
        ({"x_train": X[:5]}, "'y_train': found shape (6,), expected (5,), one label for each example of 'x_train'"),
        ({"y_test": Y}, "'y_test': found shape (6,), expected (4,), one label for each example of 'x_test'"),
        ({"y_train": Y[:, None]}, "'y_train': found shape (6, 1), expected (6,), one label for each example"),
        ({"x_test": X[:4, :3]}, "'x_test': found examples of (3,), expected (5,) as in 'x_train'"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "'x_train': found no examples, expected at least one"),
        ({"y_train": Y * 1.0}, "'y_train': found labels of type float64, expected integers"),
        ({"y_test": Y[:4] > 0}, "'y_test': found labels of type bool, expected integers"),
        ({"y_train": Y - 1}, "'y_train': found label -1, expected labels >= 0"),
        ({"y_test": [0, 1, 2, 3]}, "'y_test': found label 3, expected labels in 0..2 as in 'y_train'"),
        (
            {"x_train": np.where(X.max() == X, np.nan, X)},
            "'x_train': found 1 values that are infinite or NaN as float32",
        ),
        ({"x_test": np.full((4, 5), -np.inf)}, "'x_test': found 20 values that are infinite or NaN as float32"),
        ({"x_test": np.full((4, 5), 1e39)}, "'x_test': found 20 values that are infinite or NaN as float32"),
        ({"x_train": X.astype(object)}, "'x_train': found what numpy cannot read (Object arrays cannot be loaded"),
    ],
)
def test_wrong_npz(tmp_path: Path, changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match="array") as error:
        load_npz(tmp_path, **changes)
    assert str(error.value).startswith(f"{tmp_path / 'mine.npz'}: array {message}")


def saved(save: object, *arrays: object, **named: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)  # type: ignore[operator]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found another kind of file, or a damaged one"),
        (b"x_train,y_train\n", "found another kind of file, or a damaged one"),
        (pickle.dumps({"x_train": 1}), "found another kind of file, or a damaged one"),
        (saved(np.savez, **arrays_of())[:-30], "found another kind of file, or a damaged one"),
        (saved(np.save, X), "found a single array"),
    ],
)
def test_not_an_npz(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}, expected a numpy archive") as error:
        Npz(path="mine.npz").load(tmp_path, download=False)
    assert str(tmp_path / "mine.npz") in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_flipped_byte(tmp_path: Path, save: object):
    content = bytearray(saved(save, **arrays_of()))
    content[200] ^= 0xFF  # in the first array, after its header
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match="'x_train': found what numpy cannot read"):
        Npz(path="mine.npz").load(tmp_path, download=False)


def test_npz_with_a_member_that_is_no_array(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        for name in arrays_of():
            archive.writestr(f"{name}.npy", "not an array")
    with pytest.raises(ValueError, match=r"'x_train': found what numpy cannot read .*, expected plain numbers"):
        Npz(path="mine.npz").load(tmp_path, download=False)
