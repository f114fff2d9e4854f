"""Run directories that somebody else made, or harmed: they are data, and one of them ends nothing."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from byzray import Interrupted, RunExists, Setup, SetupError, simulate
from byzray.data import load_data
from byzray.files import StorageFault
from byzray.mistakes import WrongInput, visible
from byzray.report import write_report
from byzray.report.collect import SweepFacts, collect
from byzray.report.collect import _sweep as read_sweep
from byzray.runs.checkpoints import Checkpoint, CheckpointInterval, Checkpoints
from byzray.runs.directory import RunDirectory
from byzray.runs.verification import verify

READ = ("setup.yaml", "status.json", "environment.json", "metrics.csv", "evaluations.csv", "parameters.npy")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """Three finished runs: standard, at the workers, without an attack."""
    folder = tmp_path_factory.mktemp("computed")
    attacked = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(small_data)},
            "model": {"name": "mlp", "hidden": [4]},
            "steps": 4,
            "learning_rate": 0.1,
            "workers": 7,
            "byzantine": 2,
            "attack": "little",
            "aggregator": "median",
            "evaluation_interval": 2,
        }
    )
    for placement in ("update", "worker"):
        simulate(attacked.changed(momentum={"placement": placement}), output=folder)
    simulate(attacked.changed(attack=None, byzantine=0, tolerated=0, workers=5, aggregator="average"), output=folder)
    return folder


@pytest.fixture
def folder(computed: Path, tmp_path: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(computed, tmp_path / "runs"))


def one_of(folder: Path) -> Path:
    (found,) = folder.glob("*-little-*-at-worker-*")
    return found


def planned(folder: Path, *setups: Any) -> None:
    lines = [json.dumps({"run": f"run {number}", "setup": setup}) for number, setup in enumerate(setups)]
    (folder / "planned.jsonl").write_text("\n".join(lines) + "\n")


def plain(folder: Path) -> dict[str, Any]:
    """The setup of one of the runs."""
    (run,) = [run for run in collect(folder).runs if run.name == one_of(folder).name]
    return run.setup


# Code


@pytest.mark.parametrize("rule", ["stranger_rules:Rule", {"rules": [{"rule": "stranger_rules:Rule"}]}], ids=str)
def test_no_class_that_a_run_directory_names_is_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Any
) -> None:
    (tmp_path / "stranger_rules.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    option = {"name": rule} if isinstance(rule, str) else {"name": "random-mixture", **rule}
    content = {**plain(folder), "aggregator": option}
    strange = folder / "strange"
    strange.mkdir()
    (strange / "setup.yaml").write_text(json.dumps(content))
    planned(folder, {**content, "seed": 5})
    report = write_report(folder)
    table = pd.read_csv(folder / "report" / "runs.csv").set_index("run")
    assert table.loc["strange", "rule"] in ("Rule", "random-mixture")
    assert np.isnan(table.loc["strange", "bound"])
    assert table.loc["run 0", "state"] == "missing"
    assert report.states["finished"] == 3
    assert not (tmp_path / "ran").exists()
    assert "stranger_rules" not in sys.modules


# Files


def replace_by_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(SECRET)


def replace_by_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replace_by_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def replace_by_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def replace_by_huge(path: Path) -> None:
    """Far more than the machine has memory for, in no room on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 2**42)


SECRET = Path("/etc/hostname")

HARMS: dict[str, Callable[[Path], None]] = {
    "a link": replace_by_link,
    "a pipe": replace_by_pipe,
    "a device": replace_by_device,
    "a folder": replace_by_folder,
    "a terabyte": replace_by_huge,
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_no_plain_file_is_refused_and_the_rest_is_reported(folder: Path, harm: str) -> None:
    whole = one_of(folder)
    for name in (*READ, "error.txt", "log.txt"):
        HARMS[harm](Path(shutil.copytree(whole, folder / f"bad-{name}")) / name)
    for name in ("planned.jsonl", "sweep.json"):
        HARMS[harm](folder / name)
    report = write_report(folder)
    collection = collect(folder)
    reasons = {run.name: run.reason for run in collection.runs if run.state == "damaged"}
    notes = " ".join(collection.notes)
    for name in ("planned.jsonl", "sweep.json", "bad-setup.yaml"):
        assert name in notes
    # Runs that are the same as another appear in notes only.
    for name in READ[1:]:
        if f"bad-{name}" in reasons:
            assert name in reasons[f"bad-{name}"]
    assert report.states["finished"] == 3
    page = report.page.read_text()
    assert SECRET.read_text().strip() not in page
    if harm == "a link":
        assert "found a symbolic link, expected a plain file" in page


def test_the_log_of_a_failed_run_shows_no_file_that_a_link_stands_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a private key")
    run = one_of(folder)
    (run / "status.json").write_text('{"state": "failed", "step": 2, "reason": "Oops"}')
    (run / "error.txt").symlink_to(tmp_path / "secret")
    page = write_report(folder).page.read_text()
    assert "a private key" not in page
    assert "error.txt is not shown: found a symbolic link, expected a plain file" in page


def test_nothing_is_written_through_a_link(small_setup: Setup, tmp_path: Path) -> None:
    """Of a run that is computed in a directory that somebody has prepared."""
    mine = {name: tmp_path / f"my-{name}" for name in ("metrics.csv", "log.txt", "status.json", "report")}
    for path in mine.values():
        path.write_text("mine")
    setup = small_setup.changed(actors=None)
    run = tmp_path / "out" / RunDirectory.name(setup)
    run.mkdir(parents=True)
    for name, path in mine.items():
        (run / name).symlink_to(path)
    with pytest.raises(StorageFault, match=r"metrics\.csv: cannot be written"):
        simulate(setup, output=tmp_path / "out")
    with pytest.raises(RunExists, match="found a symbolic link, expected a plain file"):
        simulate(setup, output=tmp_path / "out")
    assert {path.read_text() for path in mine.values()} == {"mine"}


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_neither_lock_nor_checkpoints_are_written_through_a_link(small_setup: Setup, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    run = tmp_path / "out" / RunDirectory.name(small_setup.changed(actors=None))
    run.mkdir(parents=True)
    (run / name).symlink_to(tmp_path / "mine" / ("file" if name == ".lock" else ""))
    with pytest.raises((RunExists, StorageFault), match="found a symbolic link"):
        simulate(small_setup, output=tmp_path / "out", checkpoints=CheckpointInterval(steps=1))
    assert [(path.name, path.read_text()) for path in (tmp_path / "mine").iterdir()] == [("file", "mine")]


def test_a_report_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (folder / "report").symlink_to(tmp_path / "mine")
    with pytest.raises(WrongInput, match="move it away"):
        write_report(folder)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


# Contents

SETUPS: dict[str, dict[str, Any]] = {
    "rule": {"aggregator": {"name": "$\\foo{$"}},
    "attack": {"attack": {"name": "_$\\frac{1}{$", "a": [[{}]], "b": "\x1b[31m"}},
    "number": {"workers": 10**30},
    "float": {"workers": 1e30},
    "truth": {"seed": True},
    "negative": {"steps": -1},
    "largest": {"workers": 2**63 - 1, "byzantine": 2**63 - 1, "tolerated": 2**63 - 1, "seed": 2**63 - 1},
    "placement": {"momentum": {"placement": "elsewhere"}},
    "list placement": {"momentum": {"placement": []}},
    "rate": {"learning_rate": {"initial": "fast"}},
    "huge rate": {"learning_rate": {"initial": 10**400}},
    "schedule": {"learning_rate": {"schedule": {"soon": 1}}},
    "list schedule": {"learning_rate": {"schedule": [1, 2]}},
    "name": {"model": {"name": 3}},
    "long": {"dataset": {"name": "x" * 5000}},
    "longer": {"dataset": {"name": "x" * 500_000}},
    "half": {"aggregator": {"name": "\ud800"}},
    "options": {"aggregator": {"name": "median", "f": float("nan"), "\x1b": {"deep": [1, None, {}]}}},
    "unreal rule": {"aggregator": {"name": "multi-krum", "m": -(10**18)}},
}

SWEEPS: list[Any] = [
    [],
    3,
    {"sweep": 3},
    {"whole": {"runs": "many"}, "runs": 3},
    {"whole": {"runs": 10**40, "pairs": None}},
    {"whole": 1, "only": 3, "seeds": {"a": 1}},
    {"sweep": "\x1b[2J", "only": ["<script>"], "seeds": [1], "runs": 1, "whole": {"runs": 2, "pairs": 2}},
]

ENVIRONMENTS: list[Any] = [
    {"packages": 3, "device": {"a": []}, "git": 7},
    {"packages": {"torch": "x" * 10**6}, "device": "\x1b[31m" * 10, "platform": None},
    [],
]

STATUSES: list[Any] = [
    [],
    {"state": 3, "step": 1},
    {"state": "finished", "step": 10**30},
    {"state": "running", "step": -1},
    {"state": "failed", "step": 1, "reason": ["a"]},
    {"state": "failed", "step": 1, "reason": "x" * 10**6},
    {"state": "finished", "step": 4, "files": {"../../../etc/passwd": "0", "metrics.csv": "x"}},
    {"state": "failed", "step": 1, "diverged": {"step": -3, "reason": "x"}},
    {"state": "failed", "step": 1, "diverged": {"step": 10**25, "reason": "x"}},
    {"state": "failed", "step": 1, "seconds": 1e308},
]

HUGE = "1.7976931348623157e308"
TABLES: dict[str, list[str]] = {
    "metrics.csv": [
        f"Step number,Average loss,l2 from origin\n0,{HUGE},1\n1,-{HUGE},{HUGE}\n2,{HUGE},3\n",
        f"Step number,Average loss,Honest gradient deviation,Honest gradient norm\n0,1,{HUGE},1e-300\n1,1,{HUGE},1\n",
        f"Step number,Average loss\n{HUGE},1\n",
        "Step number,Average loss\n3,1\n3,1\n",
        "Step number,Average loss\nnan,1\n",
        "Step number,Average loss\n-5,1\n",
        '"' * 1000,
        "Step number,Step number,Average loss\n0,0,1\n",
    ],
    "evaluations.csv": [
        f"step,accuracy\n0,{HUGE}\n",
        "step,accuracy\n0,-0.5\n",
        "step,accuracy\n99999999999999999999,0.5\n",
        "step,accuracy\n0,inf\n",
        "step,accuracy\n0,0.5,7\n",
    ],
}


def test_no_entry_ends_a_report(folder: Path) -> None:
    whole, setup = one_of(folder), plain(folder)
    count = 0

    def another(**changes: Any) -> Path:
        """A copy of the run, of another seed: otherwise it would be the same run twice."""
        nonlocal count
        count += 1
        path = Path(shutil.copytree(whole, folder / f"entry-{count:03}"))
        (path / "status.json").write_text('{"state": "interrupted", "step": 4}')
        changed = {**setup, "seed": 1000 + count, **changes}
        (path / "setup.yaml").write_text(json.dumps(changed))
        return path

    for changes in SETUPS.values():
        another(**changes)
    planned(folder, *({**setup, "seed": 5000, **changes} for changes in SETUPS.values()), None, [], 3)
    for status in STATUSES:
        (another() / "status.json").write_text(json.dumps(status))
    for environment in ENVIRONMENTS:
        (another() / "environment.json").write_text(json.dumps(environment))
    for name, contents in TABLES.items():
        for content in contents:
            (another() / name).write_text(content)
    for sweep in SWEEPS:
        (folder / "sweep.json").write_text(json.dumps(sweep))
        assert isinstance(read_sweep(folder / "sweep.json", []), SweepFacts)
    # Both are reported, and nothing they hold reaches terminal or page as it is.
    report = write_report(folder)
    assert report.states["finished"] == 3
    assert report.states["damaged"] >= 19
    page = report.page.read_text()
    for text in (page, *report.summary):
        assert visible(text) == text
    assert "<script>" not in page
    assert "cannot be drawn" not in page
    assert verify(folder)


def test_escapes_in_reasons_names_and_logs_are_spelt_out(folder: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    run = one_of(folder)
    (run / "status.json").write_text(json.dumps({"state": "failed", "step": 2, "reason": f"Oops {evil}"}))
    (run / "error.txt").write_text(f"line {evil}")
    shutil.copytree(run, folder / "name-\x1b[31m-\udce9")
    report = write_report(folder)
    for text in (report.page.read_text(), *report.summary, (folder / "report" / "runs.csv").read_text()):
        assert visible(text) == text
    assert any(r"Oops \x1b]0;owned\x07\x9b2J\u202e" in line for line in report.summary)


def test_escapes_in_messages_are_spelt_out() -> None:
    assert "\x1b" not in str(RunExists("a \x1b[31m"))
    assert (
        str(SetupError("x.yaml", ["\x1b[2J: unknown key"])) == "x.yaml: 1 mistake in the setup\n  \\x1b[2J: unknown key"
    )


# Checkpoints


def stopped(setup: Setup, root: Path) -> Path:
    """The directory of a run that was interrupted at step 5, with one checkpoint."""
    with pytest.raises(Interrupted):
        simulate(setup, output=root, progress=lambda update: update.step >= 5, checkpoints=CheckpointInterval(steps=50))
    (directory,) = root.iterdir()
    return directory


def forged(checkpoint: Checkpoint, how: str) -> Checkpoint:
    """Another that fits its name all the same."""
    state, record = dict(checkpoint.state), dict(checkpoint.record)
    if how == "shape":
        state["theta"] = state["theta"][:3]
    elif how == "type":
        state["theta"] = state["theta"].double()
    elif how == "workers":
        state["worker momentum"] = state["worker momentum"][:2]
    elif how == "missing":
        del state["origin"]
    elif how == "step":
        return Checkpoint(10**9, state, record)
    elif how == "record":
        record["files"] = {"metrics.csv": {"bytes": -1, "digest": 3}}
    elif how == "no record":
        record = {}
    elif how == "diverged":
        record["diverged"] = ["soon", 3]
    return Checkpoint(checkpoint.step, state, record)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("shape", r"'theta' is \(3,\) torch.float32, expected \(\d+,\) torch.float32"),
        ("type", r"'theta' is \(\d+,\) torch.float64, expected"),
        ("workers", r"'worker momentum' is \(2, \d+\)"),
        ("missing", r"it has no 'origin'"),
        ("step", "the run has 12 steps"),
        ("record", "its record is damaged"),
        ("no record", "its record is damaged"),
        ("diverged", "its record is damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_lost(
    small_setup: Setup, tmp_path: Path, how: str, expected: str
) -> None:
    directory = stopped(small_setup, tmp_path)
    checkpoints = Checkpoints(directory / "checkpoints")
    (good,) = checkpoints.intact([])
    kept = {path: path.read_bytes() for path in directory.rglob("*.*") if path.suffix in (".csv", ".safetensors")}
    checkpoints.remove()
    checkpoints.save(forged(good, how))
    with pytest.raises(RunExists, match=f"cannot be used: .*{expected}(.|\n)*move .* away to start anew"):
        simulate(small_setup, output=tmp_path, resume=True)
    tables = {path: content for path, content in kept.items() if path.suffix == ".csv"}
    assert {path: path.read_bytes() for path in tables} == tables


@pytest.mark.parametrize("harm", ["a link", "a pipe", "a device"])
def test_a_checkpoint_that_is_no_plain_file_is_refused(small_setup: Setup, tmp_path: Path, harm: str) -> None:
    directory = stopped(small_setup, tmp_path)
    (saved,) = (directory / "checkpoints").iterdir()
    HARMS[harm](saved)
    with pytest.raises(RunExists, match="expected a plain file"):
        simulate(small_setup, output=tmp_path, resume=True)


# Data


def test_an_archive_that_stands_for_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By smaller limits: 26 MB can stand for 6 GB, which takes a while to pack."""
    monkeypatch.setattr("byzray.arrays.UNPACKED_BYTES", 100_000)
    x, y = np.zeros((200_000, 4), np.float32), np.zeros(200_000, np.int64)
    np.savez_compressed(tmp_path / "bomb.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    setup = Setup.model_validate({"dataset": {"name": "npz", "path": str(tmp_path / "bomb.npz")}})
    with pytest.raises(SetupError, match=r"found an archive of \d+ bytes that stands for 48\d+, more than \d+"):
        load_data(setup)
    # The same numbers, not packed, are what they are.
    np.savez(tmp_path / "bomb.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    assert len(load_data(setup).x_train) == 200_000
