"""The `byzray` command: what it prints, what it leaves behind, its exit codes."""

import csv
import importlib.metadata
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from byzray import commands
from byzray.aggregators import AGGREGATORS
from byzray.attacks import ATTACKS
from byzray.datasets import DATASETS
from byzray.models import MODELS
from byzray.options import Registry
from byzray.preaggregators import PREAGGREGATORS
from byzray.setups import Setup, load_setup
from byzray.splits import SPLITS
from byzray.yaml import parse_yaml

Byzray = Callable[..., tuple[int, str, str]]

TINY = """
model: {name: mlp, hidden: [4]}
steps: 6
workers: 7
byzantine: 2
aggregator: median
attack: little
evaluation_interval: 4
"""

FILES = {
    "setup.yaml",
    "environment.json",
    "metrics.csv",
    "evaluations.csv",
    "parameters.npy",
    "accuracy.png",
    "log.txt",
    "accuracy.svg",
    "status.json",
}


@pytest.fixture
def byzray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Byzray:
    """Runs `byzray` in `tmp_path`, where setup.yaml is a tiny setup: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("setup.yaml").write_text(TINY)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["byzray", *arguments])
        with pytest.raises(SystemExit) as stop:
            commands.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return call


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was last changed, and what it holds; the lock, which is none of the run's, left out."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [(), ("run",), ("list",)])
def test_help(command: tuple[str, ...], option: str, byzray: Byzray) -> None:
    code, out, _ = byzray(*command, option)
    assert code == 0
    assert " ".join(["Usage: byzray", *command]) in out


def test_version(byzray: Byzray) -> None:
    assert byzray("--version") == (0, f"byzray {importlib.metadata.version('byzray')}\n", "")


def test_a_run_and_its_directory(byzray: Byzray, figures: None, tmp_path: Path) -> None:
    code, out, _ = byzray("run", "setup.yaml", "--in-process", "--output", "runs")
    assert code == 0
    (directory,) = (tmp_path / "runs").iterdir()
    summary, shown = out.splitlines()
    assert shown == f"runs/{directory.name}"
    files = contents(directory)
    assert files.keys() == FILES

    setup = load_setup(directory / "setup.yaml")
    assert setup == load_setup("setup.yaml", {"actors": None})
    assert directory.name.endswith(setup.digest())
    status = json.loads(files["status.json"][1])
    assert status.pop("seconds") > 0
    written = {"metrics.csv", "evaluations.csv", "parameters.npy", "setup.yaml", "environment.json"}
    assert set(status.pop("files")) == written
    assert status == {"state": "finished", "step": 6}
    environment = json.loads(files["environment.json"][1])
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")

    rows = list(csv.reader((directory / "metrics.csv").open()))
    assert rows[0] == COLUMNS
    assert [row[:2] for row in rows[1:]] == [[str(step), str(step * 5 * 4)] for step in range(6)]
    evaluations = list(csv.reader((directory / "evaluations.csv").open()))
    assert [row[0] for row in evaluations] == ["step", "0", "4", "6"]
    accuracies = [float(row[1]) for row in evaluations[1:]]
    assert summary.startswith(
        f"median/little seed 1: best accuracy {max(accuracies):.4f}, {accuracies[-1]:.4f} at step 6, "
    )
    parameters = np.load(directory / "parameters.npy")
    assert parameters.shape == (64 * 4 + 4 + 4 * 10 + 10,)
    assert parameters.dtype == np.float32
    assert np.isfinite(parameters).all()
    assert files["accuracy.png"][1].startswith(b"\x89PNG")
    assert b"<svg" in files["accuracy.svg"][1]

    code, out, _ = byzray("run", "setup.yaml", "--in-process", "--output", "runs")
    assert code == 0
    assert out.splitlines()[-1] == shown
    assert contents(directory) == files

    code, *_ = byzray("run", "setup.yaml", "--in-process", "--output", "runs", "--seed", "2")
    assert code == 0
    (other,) = set((tmp_path / "runs").iterdir()) - {directory}
    assert json.loads((other / "status.json").read_text())["state"] == "finished"
    assert (other / "parameters.npy").read_bytes() != files["parameters.npy"][1]
    assert contents(directory) == files


def test_a_changed_file_is_told_wherever_it_is_read(byzray: Byzray) -> None:
    arguments = ("run", "setup.yaml", "--in-process", "--output", "runs", "--set", "steps=2")
    assert byzray(*arguments)[0] == 0
    assert byzray("verify", "runs")[:2] == (0, "1 runs: 1 finished\n")
    (directory,) = Path("runs").iterdir()
    text = (directory / "evaluations.csv").read_text()
    (directory / "evaluations.csv").write_text(re.sub(r"0\.\d+$", "0.9999", text, flags=re.MULTILINE))
    changed = "evaluations.csv was changed since the run finished"
    assert byzray("verify", str(directory))[:2] == (
        1,
        f"damaged: {directory.name}: {changed}\n1 runs: 1 damaged\n",
    )
    code, out, _ = byzray("report", "runs")
    assert (code, f"damaged: {directory.name}: {changed}" in out) == (0, True)
    code, _, err = byzray(*arguments)
    assert (code, changed in err) == (2, True)
    assert byzray("verify", "nowhere")[0] == 2


# The names that the published code gives its columns.
COLUMNS = [
    "Step number",
    "Training point count",
    "Average loss",
    "l2 from origin",
    *(f"{which} gradient deviation" for which in ("Sampled", "Honest", "Attack")),
    *(f"{which} gradient norm" for which in ("Sampled", "Honest", "Attack", "Defense")),
    *(f"{which} max coordinate" for which in ("Sampled", "Honest", "Attack", "Defense")),
    "Sampled-honest cosine",
    "Sampled-attack cosine",
    "Sampled-defense cosine",
    "Honest-attack cosine",
    "Honest-defense cosine",
    "Attack-defense cosine",
    "Sampled-prev cosine",
    "Sampled composite curvature",
    "Attack acceptation ratio",
]


def test_without_a_study_there_are_three_columns(byzray: Byzray, tmp_path: Path) -> None:
    code, *_ = byzray("run", "setup.yaml", "--in-process", "--set", "study=off")
    assert code == 0
    (directory,) = (tmp_path / "results").iterdir()
    assert (directory / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS[:3])


def krum_bound(n: int, f: int) -> float:
    return 1 / math.sqrt(2 * (n - f + f * (n + f * (n - f - 2) - 2) / (n - 2 * f - 2)))


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        ("median", 1 / math.sqrt(5)),
        ("krum", krum_bound(7, 2)),
        ("{name: multi-krum, m: 2}", krum_bound(7, 2)),
        ("minimum-diameter", 5 / (math.sqrt(8) * 2)),
        ("cge", None),
        ("trimmed-mean", None),
    ],
)
def test_show(rule: str, bound: float | None, byzray: Byzray) -> None:
    code, out, _ = byzray("show", "setup.yaml", "--set", f"aggregator={rule}")
    assert code == 0
    setup = Setup.model_validate(parse_yaml(out))
    assert setup == load_setup("setup.yaml", {"aggregator": parse_yaml(rule)})
    about, verdict = [line for line in out.splitlines() if line.startswith("#")]
    assert about.startswith("# n = 7, f = 2, honest workers: 5, run directory: digits-")
    assert about.endswith(setup.digest())
    known = "no variance-norm bound is known" if bound is None else f"variance-norm bound {bound:.6g}"
    kappas = {"median": 4 * (1 + 2 / 3) ** 2, "trimmed-mean": 6 * 2 / 3 * (1 + 2 / 3)}
    robust = f", kappa {kappas[rule]:.6g}" if rule in kappas else ""
    assert verdict == f"# {setup.aggregator.label()}: valid for these n and f; {known}{robust}"


def test_show_reads_data_whose_shape_is_known_only_then(byzray: Byzray, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (20, 3, 32, 32), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "rgb.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "rgb.yaml").write_text(
        f"dataset: {{name: npz, path: {tmp_path}/rgb.npz}}\nbatch_size: 1\nloss: cross-entropy\n"
        "model: {name: torchvision, architecture: resnet18, training: true}\n"
    )
    code, out, err = byzray("show", "rgb.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("byzray: rgb.yaml: 1 mistake in the setup\n")
    assert (
        "batch_size: got 1, expected at least 2, as the network fails on a single example: ValueError: Expected" in err
    )
    code, out, _ = byzray("show", "rgb.yaml", "--set", "batch_size=2", "--set", "dataset.path=nowhere.npz")
    assert code == 0
    assert out.rstrip().endswith("# the data set is not here, so the model was not checked against it")


def test_show_how_a_split_deals_the_labels(byzray: Byzray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = byzray("show", "setup.yaml", "--set", "split=dirichlet")
    found = re.search(
        r"^# split dirichlet: label skew (0\.\d\d), shards of (\d+) to (\d+) examples$", out, re.MULTILINE
    )
    assert code == 0
    assert found is not None
    assert 0.2 < float(found[1]) < 0.8
    assert 10 <= int(found[2]) < int(found[3]) < 1438
    np.savez(tmp_path / "parts.npz", worker=np.arange(1438) % 2, labels=np.zeros(3))
    two = ["--set", "workers=2", "--set", "byzantine=0", "--set", "attack=none"]
    code, out, _ = byzray("show", "setup.yaml", "--set", "split={name: file, path: parts.npz}", *two)
    assert re.search(r"^# split file: label skew 0\.0\d, shards of 719 examples$", out, re.MULTILINE)
    code, out, _ = byzray("show", "setup.yaml", "--set", "split={name: file, path: none.npz}", *two)
    assert code == 0
    assert out.splitlines()[-1] == "# the data set or the split's file is not here, so the label skew is not known"
    code, _, err = byzray("show", "setup.yaml", "--set", "split={name: file, path: parts.npz}")
    assert code == 2
    assert err.startswith(
        "byzray: setup.yaml: 1 mistake in the setup\n  split: parts.npz: array 'worker': found no exam"
    )
    monkeypatch.setenv("BYZRAY_DATA", str(tmp_path))
    code, out, _ = byzray("show", "setup.yaml", "--set", "split=iid", "--set", "dataset=mnist", "--set", "model=full")
    assert code == 0
    assert out.splitlines()[-1] == "# the data set is not here, so the label skew is not known"


def test_show_a_mixture(byzray: Byzray) -> None:
    mixture = "aggregator={name: random-mixture, rules: [{rule: median}, {rule: krum}]}"
    code, out, _ = byzray("show", "setup.yaml", "--set", mixture)
    assert code == 0
    bounds = {"random-mixture": krum_bound(7, 2), "median": 1 / math.sqrt(5), "krum": krum_bound(7, 2)}
    assert out.splitlines()[-3:] == [
        f"# {name}: valid for these n and f; variance-norm bound {bound:.6g}"
        + (f", kappa {4 * (1 + 2 / 3) ** 2:.6g}" if name == "median" else "")
        for name, bound in bounds.items()
    ]


def test_show_pre_aggregators(byzray: Byzray) -> None:
    code, out, _ = byzray("show", "setup.yaml", "--set", "pre=bucketing", "--set", "byzantine=1", "--set", "attack=nan")
    assert code == 0
    valid = "# bucketing+median: valid for these n and f, median sees n = 4; no variance-norm bound is known"
    assert out.splitlines()[-1] == valid


@pytest.mark.parametrize(
    ("kind", "registry"),
    [
        ("aggregators", AGGREGATORS),
        ("preaggregators", PREAGGREGATORS),
        ("attacks", ATTACKS),
        ("splits", SPLITS),
        ("models", MODELS),
        ("datasets", DATASETS),
    ],
)
def test_list(kind: str, registry: Registry[Any], byzray: Byzray) -> None:
    code, out, _ = byzray("list", kind)
    assert code == 0
    proven = kind in ("aggregators", "preaggregators")
    lines = out.splitlines()[:-1] if proven else out.splitlines()
    first_words = [line.split(" ")[0] for line in lines]
    assert [word for word in first_words if word] == ["name", *registry.classes]
    assert ("kappa" in lines[0]) == proven
    for cls in registry.classes.values():
        assert (cls.__doc__ or "").split()[0] in out
        for option, field in cls.model_fields.items():
            assert (f"{option} (required)" if field.is_required() else f"{option} = {field.default}") in out


@pytest.mark.parametrize(
    ("rule", "bound", "kappa"),
    [
        ("median", f"{1 / math.sqrt(13):.3g}", f"{4 * (1 + 4 / 9) ** 2:.3g}"),
        ("trimmed-mean", "-", f"{6 * 4 / 9 * (1 + 4 / 9):.3g}"),
        ("random-mixture", "-", "-"),
    ],
)
def test_list_shows_what_is_proven(rule: str, bound: str, kappa: str, byzray: Byzray) -> None:
    _, out, _ = byzray("list", "aggregators", "--workers", "17", "--byzantine", "4")
    line = next(line for line in out.splitlines() if line.startswith(f"{rule} "))
    assert line.split()[-2:] == [bound, kappa]


def test_list_says_where_workers_are_too_few(byzray: Byzray) -> None:
    _, out, _ = byzray("list", "preaggregators", "--workers", "4", "--byzantine", "2")
    line = next(line for line in out.splitlines() if line.startswith("nnm "))
    assert line.split()[-1] == "n/a"


def test_doctor(byzray: Byzray, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        for part in ("train", "t10k"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"no idx file")
    (tmp_path / "actors.py").write_text("raise ImportError('not ours')")
    code, out, _ = byzray("doctor", "--data", str(tmp_path / "data"))
    found: dict[str, str] = {}  # what was found: its state
    for line in out.splitlines():
        state, _, rest = line.partition(" ")
        if state:
            found[" ".join(rest.split())] = state

    def states(start: str) -> list[str]:
        return [state for text, state in found.items() if text.startswith(start)]

    assert code == (1 if "broken" in found.values() else 0)
    assert states("Python 3") == ["ok"]
    for line in importlib.metadata.requires("byzray") or []:
        requirement = Requirement(line)
        if requirement.marker is None:
            version = importlib.metadata.version(requirement.name)
            assert states(f"{requirement.name} {version}") == ["ok"], requirement
    assert states("Ray ") == ["ok"], out
    assert states("data set digits 1,438 + 359 examples") == ["ok"]
    assert states("data set mnist damaged") == ["missing"]
    for name in ("fashion-mnist", "cifar10", "cifar100", "phishing"):
        assert states(f"data set {name} not below {tmp_path / 'data'}") == ["missing"]
    assert f"  {tmp_path / 'data' / 'FashionMNIST/raw/train-images-idx3-ubyte'}\n" in out
    assert "npz" not in out


def test_a_user_without_a_home(byzray: Byzray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run as any user: HOME is unset, and the user has no passwd entry."""
    for variable in ("HOME", "BYZRAY_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert byzray("run", "setup.yaml", "--in-process")[0] == 0
    code, _, err = byzray("run", "setup.yaml", "--in-process", "--set", "dataset=phishing")
    assert code == 2
    assert f"  {tmp_path / '.cache/byzray/data/phishing/phishing'}\n" in err
    assert "--data DIR or the variable BYZRAY_DATA" in err


def test_a_folder_whose_name_is_no_utf8(byzray: Byzray, tmp_path: Path) -> None:
    folder = os.fsdecode(b"r\xe9sultats")
    code, out, _ = byzray("run", "setup.yaml", "--in-process", "--output", folder)
    assert code == 0
    assert out.splitlines()[-1].startswith("r\\udce9sultats/digits-")
    code, out, _ = byzray("report", folder)
    assert code == 0
    assert (tmp_path / folder / "report" / "index.html").exists()
    code, _, err = byzray("run", f"{folder}.yaml")
    assert (code, err) == (2, "byzray: r\\udce9sultats.yaml: 1 mistake in the setup\n  there is no such file\n")


# Every kind of state that has to survive an interruption, and an attack that can be slowed down, without work, for long
# enough to be interrupted.
LONG = """
steps: 160
batch_size: 8
learning_rate: {initial: 0.2, half_life: 50, every: 7}
momentum: {beta: 0.9, nesterov: true, placement: worker}
clip: 2
workers: 11
byzantine: 3
aggregator: {name: random-mixture, rules: [{rule: multi-krum}, {rule: median}]}
attack: {name: "slow_attack_of_cli:Slow", factor: searched}
evaluation_interval: 10
study: {past: 10}
"""

SLOW = """
import os, time

from byzray.attacks import Empire


class Slow(Empire):
    def __call__(self, *arguments):
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))
        return super().__call__(*arguments)
"""


def test_an_interrupted_run_continues_as_if_nothing_happened(byzray: Byzray, figures: None, tmp_path: Path) -> None:
    Path("setup.yaml").write_text(LONG)
    Path("slow_attack_of_cli.py").write_text(SLOW)
    run = ["run", "setup.yaml", "--in-process", "--output"]
    # Rounding depends on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "SECONDS_A_STEP": "0.05"}
    command = [sys.executable, "-m", "byzray", *run, "interrupted"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while rows_so_far(tmp_path / "interrupted") < 30:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "SIGINT: stopping after the current steps" in err
    (directory,) = (tmp_path / "interrupted").iterdir()
    status = json.loads((directory / "status.json").read_text())
    step = status["step"]
    seconds = status.pop("seconds")
    digested = {"setup.yaml", "environment.json", "metrics.csv", "evaluations.csv"}
    assert set(status.pop("files")) == digested
    assert status == {"state": "interrupted", "step": step}
    assert 30 <= step < 160
    assert f"byzray: stopped at step {step} of 160; the same command with --resume continues it" in err
    before = contents(directory)

    code, out, err = byzray(*run, "interrupted")
    assert (code, out) == (2, "")
    assert (
        f"holds this run, interrupted at step {step} of 160; resume it (--resume continues it from step {step})" in err
    )
    assert contents(directory) == before

    assert byzray(*run, "interrupted", "--resume")[0] == 0
    assert byzray(*run, "uninterrupted")[0] == 0
    status = json.loads((directory / "status.json").read_text())
    assert status.pop("seconds") > seconds  # of both halves together
    assert set(status.pop("files")) == digested | {"parameters.npy"}
    assert status == {"state": "finished", "step": 160}
    assert {path.name for path in directory.iterdir()} - {".lock"} == FILES
    # What was computed before the interruption was not computed again.
    assert before["metrics.csv"][1] == (directory / "metrics.csv").read_bytes()[: len(before["metrics.csv"][1])]
    (whole,) = (tmp_path / "uninterrupted").iterdir()
    assert whole.name == directory.name
    for name in ("setup.yaml", "metrics.csv", "evaluations.csv", "parameters.npy"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes(), name


def rows_so_far(output: Path) -> int:
    """How many rows of metrics the only run below `output` has written."""
    return max((table.read_bytes().count(b"\n") - 1 for table in output.glob("*/metrics.csv")), default=0)


OWN_RULE = """
from byzray.aggregators import Average

class Breaks(Average):
    def aggregate(self, submissions, f):
        if len(seen) == 3:
            raise ZeroDivisionError("the rule gave up")
        seen.append(1)
        return super().aggregate(submissions, f)

seen = []
"""


def test_a_rule_that_raises(byzray: Byzray, tmp_path: Path) -> None:
    Path("own_that_breaks.py").write_text(OWN_RULE)
    code, out, err = byzray("run", "setup.yaml", "--in-process", "--set", "aggregator=own_that_breaks:Breaks")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "byzray: failed: ZeroDivisionError: the rule gave up"
    assert "own_that_breaks.py" in err  # where to look
    (directory,) = (tmp_path / "results").iterdir()
    status = json.loads((directory / "status.json").read_text())
    assert status.pop("seconds") >= 0
    assert status == {"state": "failed", "step": 3, "reason": "ZeroDivisionError: the rule gave up"}
    assert not (directory / "parameters.npy").exists()


def test_a_link_to_a_setup_finds_the_classes_next_to_the_file(
    byzray: Byzray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "linked_rules.py").write_text(
        "from byzray.aggregators import Median\n\n\nclass Mine(Median):\n    pass\n"
    )
    (tmp_path / "real" / "setup.yaml").write_text("aggregator: linked_rules:Mine\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link.yaml").symlink_to(tmp_path / "real" / "setup.yaml")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, shown, _ = byzray("show", "link.yaml")
    assert (code, "linked_rules:Mine" in shown) == (0, True)
