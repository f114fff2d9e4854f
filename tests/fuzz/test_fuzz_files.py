"""Real files with changes anywhere: each is read, or refused with a message, in little time and memory."""

import contextlib
import gzip
import hashlib
import itertools
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_generator as generator
import numpy as np
import pytest
from fuzz_harness import SEED, Failures, byzray, calls, scaled

from byzray import load_setup, simulate
from byzray.mistakes import Interrupted
from sweeps.definition import load_sweep
from sweeps.grid import SweepError
from sweeps.plan import make_plan
from sweeps.search import read_draws
from sweeps.storage import Storage

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
VECTORS = ROOT / "tests" / "vectors"

TINY = """
steps: 2
workers: 5
batch_size: 2
aggregator: average
evaluation_interval: 0
model: {name: mlp, hidden: [3]}
study: off
device: cpu
"""


def damaged(path: Path, content: bytes, rng: random.Random) -> str:
    """Put something else in the place of a file; says what."""
    kind = rng.random()
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind < 0.5 and path.suffix == ".npz":
        path.write_bytes(generator.mutated_archive(content, rng))
        return "mutated within"
    if kind < 0.85:
        path.write_bytes(generator.mutated(content, rng))
        return "mutated"
    if kind < 0.88:
        path.mkdir()
        return "a folder"
    if kind < 0.91:
        path.symlink_to(path.name)
        return "a loop of links"
    if kind < 0.94:
        path.symlink_to("/proc/self/mem")  # a file that cannot be read, not even by root
        return "unreadable"
    if kind < 0.97:
        path.write_bytes(b"")
        return "empty"
    path.write_bytes(rng.randbytes(rng.choice([10, 5000])))
    return "noise"


class Mutants:
    """Cases of one kind: one of some files is damaged, the command reads it, and the file is as it was before.

    Args:
        kind: what they are called.
        files: those to damage.
        arguments: of the command.
        codes: the exit codes that are all right.
        before: called before each case.
    """

    def __init__(
        self,
        kind: str,
        files: list[Path],
        arguments: list[str],
        codes: tuple[int, ...] = (0, 2),
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.failures = Failures(kind)
        self.files = {path: path.read_bytes() for path in files}
        self.arguments = arguments
        self.codes = codes
        self.before = before
        self.rng = random.Random(f"{kind} {[path.name for path in files]} {SEED}")

    def run(self, count: int) -> None:
        """So many cases."""
        assert self.files
        path = next(iter(self.files))
        self.before()
        intact = byzray(*self.arguments, limit=60)  # it also imports what the others find imported
        assert intact.code == 0, intact.err
        for _ in range(count):
            path = self.rng.choice(list(self.files))
            self.before()
            how = damaged(path, self.files[path], self.rng)
            outcome = byzray(*self.arguments, count=self.failures.kind)
            problem = outcome.problem(self.codes)
            if problem is not None:
                self.failures.check(problem, f"{path.name}: {how}, kept as {self.keep(path)}")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(self.files[path])
        self.failures.tell()

    def keep(self, path: Path) -> str:
        """Where a copy of a damaged file lies afterwards."""
        kept = path.parent / f"kept-{next(NUMBERS)}-{path.name}"
        if path.is_file() and not path.is_symlink():
            shutil.copy(path, kept)
        return str(kept)


NUMBERS = itertools.count()


def run_arguments(place: Path, dataset: str, more: str = "") -> list[str]:
    """Computes two steps on a data set below `place`."""
    (place / "setup.yaml").write_text(f"{TINY}dataset: {dataset}\n{more}")
    return ["run", "setup.yaml", "--in-process", "--data", str(place), "--output", str(place / "out")]


def emptied(folder: Path) -> Callable[[], None]:
    """Removes the folder, so that nothing is computed already."""
    return lambda: shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_examples(name: str, place: Path) -> None:
    sweep = name in ("sweep.yaml", "search.yaml", "heterogeneous-sweep.yaml", "mixing-sweep.yaml")
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    arguments = ["sweep", name, "--plan", "--output", "out"] if sweep else ["show", name]
    kind = "sweeps of examples/, mutated" if sweep else "setups of examples/, mutated"
    Mutants(kind, [place / name], arguments).run(scaled(4, 25))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_npz(packed: bool, place: Path) -> None:
    with np.load(place / "small.npz") as arrays:
        (np.savez_compressed if packed else np.savez)(place / "own.npz", **arrays)
    arguments = run_arguments(place, "{name: npz, path: own.npz}")
    Mutants("data: .npz", [place / "own.npz"], arguments, before=emptied(place / "out")).run(scaled(15, 130))


def write_idx(folder: Path) -> list[Path]:
    """A very small MNIST."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    written = []
    for part, count in (("train", 12), ("t10k", 4)):
        images, labels = folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"
        pixels = rng.integers(256, size=count * 784, dtype=np.uint8)
        images.write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        labels.write_bytes(struct.pack(">2i", 2049, count) + bytes(range(10))[:count].ljust(count, b"\x03"))
        written += [images, labels]
    return written


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx(name: str, place: Path) -> None:
    files = write_idx(place / ("MNIST" if name == "mnist" else "FashionMNIST") / "raw")
    for path in files:  # what downloads leave next to them is not looked at
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:9])
    arguments = run_arguments(place, name)
    Mutants("data: idx", files, arguments, before=emptied(place / "out")).run(scaled(10, 75))


def test_cifar10_binary(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byzray.datasets.cifar10.RECORDS", 4)
    folder = place / "cifar-10-batches-bin"
    folder.mkdir()
    rng = random.Random(1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name in names:
        (folder / name).write_bytes(b"".join(bytes([i]) + rng.randbytes(3072) for i in range(4)))
    arguments = run_arguments(place, "cifar10")
    files = [folder / name for name in names]
    Mutants("data: CIFAR, binary", files, arguments, before=emptied(place / "out")).run(scaled(8, 60))


def test_cifar_pickles(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their md5 sums are checked before they are unpickled, which runs code."""
    import torchvision

    cifar = torchvision.datasets.CIFAR100
    folder = place / cifar.base_folder
    folder.mkdir()
    rows = np.random.default_rng(2).integers(256, size=(8, 3072), dtype=np.uint8)
    sums = {}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "fine_labels": list(range(8))}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"]}))
    for name in ("train", "test", "meta"):
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(cifar, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(cifar, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    files = [folder / name for name in sums]
    arguments = run_arguments(place, "cifar100")
    Mutants("data: CIFAR, pickles", files, arguments, before=emptied(place / "out")).run(scaled(8, 60))


def test_phishing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byzray.datasets.phishing.ROWS", 30)
    monkeypatch.setattr("byzray.datasets.phishing.TRAIN", 20)
    path = place / "phishing" / "phishing"
    path.parent.mkdir()
    rng = random.Random(3)
    lines = []
    for _ in range(30):
        chosen = sorted(rng.sample(range(1, 69), 30))
        lines.append(" ".join([rng.choice("01"), *(f"{index}:{rng.choice(['1', '0.5'])}" for index in chosen)]))
    path.write_text("\n".join(lines) + "\n")
    arguments = run_arguments(place, "phishing")
    Mutants("data: LIBSVM", [path], arguments, before=emptied(place / "out")).run(scaled(15, 130))


def test_vectors(place: Path) -> None:
    """Some of each kind of case; with other numbers in them the exit code may be 1."""
    vectors = place / "vectors"
    shutil.copytree(VECTORS, vectors)
    shutil.rmtree(vectors / "trajectories")
    files = []
    for part in ("aggregators", "attacks"):
        cases = json.loads((vectors / f"{part}.json").read_text())[::23]
        names = {case[key] for case in cases for key in ("input", "output")}
        with np.load(vectors / f"{part}.npz") as arrays:
            kept = {name: arrays[name] for name in names}
        np.savez(vectors / f"{part}.npz", **kept)
        (vectors / f"{part}.json").write_text(json.dumps(cases, indent=1))
        files += [vectors / f"{part}.json", vectors / f"{part}.npz"]
    Mutants("vectors of rules and attacks", files, ["conformance", str(vectors)], (0, 1, 2)).run(scaled(16, 120))


def test_trajectories(place: Path) -> None:
    vectors = place / "vectors"
    shutil.copytree(VECTORS / "trajectories", vectors / "trajectories")
    cases = json.loads((vectors / "trajectories" / "cases.json").read_text())
    cases["cases"] = cases["cases"][:1]
    (vectors / "trajectories" / "cases.json").write_text(json.dumps(cases, indent=1))
    used = [path for path in (vectors / "trajectories").iterdir() if not path.name.startswith("case1")]
    Mutants("vectors: trajectories", sorted(used), ["conformance", str(vectors)], (0, 1, 2)).run(scaled(8, 60))


def forged(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """An array whose header promises more than there is."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


@pytest.mark.parametrize(
    "shape",
    [(10**10, 10), (10**30, 3), (2**62, 4), (-1, 5), (0, 10**18), (10**9, 0), (1,) * 70],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<f8", "|V0", "<U1000000000", "|O", "nonsense"])
def test_forged_size(shape: tuple[int, ...], dtype: str, place: Path) -> None:
    """100 GB in a header are not allocated."""
    import zipfile

    with zipfile.ZipFile(place / "own.npz", "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", forged(shape, dtype))
    failures = Failures("data: .npz with forged sizes")
    outcome = byzray(*run_arguments(place, "{name: npz, path: own.npz}"), count=failures.kind)
    failures.check(outcome.problem((2,), "own.npz"), f"{dtype} {shape}")
    failures.tell()


@pytest.mark.parametrize("name", ["setup.yaml", "own.npz"])
def test_without_permission(name: str, place: Path, without_privileges: None) -> None:
    shutil.copy(place / "small.npz", place / "own.npz")
    arguments = run_arguments(place, "{name: npz, path: own.npz}")
    (place / name).chmod(0)
    failures = Failures("files without permission to read")
    failures.check(byzray(*arguments, count=failures.kind).problem((2,), name), name)
    failures.tell()


def run_files(folder: Path) -> list[Path]:
    """Whatever a run directory holds that is read again."""
    read = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".png", ".svg", ".lock")]
    return sorted(path for path in read if path.name != ".lock")


def computed(place: Path, until: int | None = None) -> Path:
    """The folder `out` with one run in it, finished or interrupted at a step, and `setup.yaml` next to it."""
    (place / "setup.yaml").write_text(TINY.replace("steps: 2", "steps: 6").replace("study: off", "study: on"))
    setup = load_setup(place / "setup.yaml")

    def progress(update: Any) -> bool:
        return until is not None and update.step >= until

    with contextlib.suppress(Interrupted):
        simulate(setup, output=place / "out", progress=progress)
    return place / "out"


def restored(folder: Path) -> Callable[[], None]:
    """Puts the folder back as it is now, whatever a case made of it."""
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)

    return restore


RUN = ["run", "setup.yaml", "--in-process", "--output", "out"]


def test_finished_run(place: Path) -> None:
    folder = computed(place)
    Mutants("run directories: finished", run_files(folder), RUN, before=restored(folder)).run(scaled(16, 130))


def test_resumed_run(place: Path) -> None:
    folder = computed(place, until=2)
    arguments = [*RUN, "--resume"]
    Mutants("run directories: resumed", run_files(folder), arguments, before=restored(folder)).run(scaled(16, 130))


@pytest.mark.parametrize("until", [None, 2], ids=["finished", "interrupted"])
def test_report(until: int | None, place: Path) -> None:
    """A damaged run is listed in the report, and stops no other."""
    folder = computed(place, until)
    before = restored(folder)
    Mutants("run directories: reports", run_files(folder), ["report", "out"], before=before).run(scaled(2, 60))


def planned(place: Path) -> Path:
    """The folder `out` of a sweep, with its plan and one run of two."""
    base = TINY.replace("\n", "\n  ")
    (place / "own.yaml").write_text(f"base: {base}\naxes: {{workers: [5, 6]}}\n")
    sweep = load_sweep("own.yaml")
    with Storage("out") as storage:
        plan = make_plan(sweep, storage, place)
        plan.save(storage.folder)
        simulate(plan.runs[0].setup, output=storage.runs)
    return place / "out"


@pytest.mark.parametrize("command", ["sweep", "report"])
def test_sweep_folder(command: str, place: Path) -> None:
    folder = planned(place)
    arguments = ["sweep", "own.yaml", "--plan", "--output", "out"] if command == "sweep" else ["report", "out"]
    kind = f"sweep folders: {command}"
    Mutants(kind, run_files(folder), arguments, before=restored(folder)).run(scaled(4, 60))


def test_draws(place: Path) -> None:
    """What Optuna suggested earlier."""
    ranges = "{batch_size: {integer: [2, 8]}, l2: {uniform: [0, 1]}}"
    base = TINY.replace("\n", "\n  ")
    (place / "own.yaml").write_text(f"base: {base}\nsample: {{count: 3, search: optuna, over: {ranges}}}\n")
    search = load_sweep("own.yaml").search
    assert search is not None
    (place / "out").mkdir()
    lines = [json.dumps({"search": search.digest(), "draw": draw}) for draw in search.sample.draws(3)]
    content = ("\n".join(lines) + "\n").encode()
    failures, rng = Failures("draws of a search"), random.Random(f"draws {SEED}")
    for _ in range(scaled(8, 60)):
        how = damaged(place / "out" / "draws.jsonl", content, rng)

        def look() -> None:
            with Storage("out") as storage:
                read_draws(search, (1,), storage)

        failures.check(calls(look, failures.kind, (SweepError,)), how)
    failures.tell()
