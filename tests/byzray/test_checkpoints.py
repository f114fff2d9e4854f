"""Runs that are interrupted, damaged or starved of room, and go on as if nothing had happened."""

import json
import resource
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from byzray import Interrupted, Result, RunExists, Setup, Update, load_setup, simulate
from byzray.files import StorageFault
from byzray.runs.checkpoints import Checkpoint, CheckpointInterval, Checkpoints, Damaged
from byzray.runs.digests import FINAL_FILES
from byzray.runs.directory import RunDirectory
from byzray.runs.table import Table

EVERY_STEP = CheckpointInterval(steps=1)

VARIANTS: dict[str, dict[str, Any]] = {
    "worker": {"momentum": {"placement": "worker", "nesterov": True}},
    "server": {"momentum": {"placement": "server", "nesterov": True}},
    "update": {"momentum": {"placement": "update", "nesterov": True}},
    "mixture": {"aggregator": {"name": "random-mixture", "rules": [{"rule": "median"}, {"rule": "multi-krum"}]}},
    "searched": {"attack": {"name": "empire", "factor": "searched", "evaluations": 4}, "aggregator": "median"},
    "local": {"local_steps": 2, "clip": 0.5, "study": None},
    "faults": {
        "faults": {
            "missing": "drop",
            "events": [
                {"kind": "crash", "workers": 0, "steps": "2-3, 7"},
                {"kind": "silent", "workers": 3, "steps": 6},
            ],
        },
        "aggregator": "median",
    },
    "diverging": {"attack": "nan", "aggregator": "average"},
}


def files(result: Result) -> dict[str, bytes]:
    """What must be the same, to the byte."""
    assert result.directory is not None
    paths = [result.directory / name for name in FINAL_FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def stopped(setup: Setup, root: Path, step: int, checkpoints: CheckpointInterval = EVERY_STEP) -> Path:
    """The directory of a run that was interrupted at a step."""
    with pytest.raises(Interrupted):
        simulate(setup, output=root, progress=lambda update: update.step >= step, checkpoints=checkpoints, resume=True)
    (directory,) = root.iterdir()
    return directory


def saved(directory: Path) -> list[Path]:
    return Checkpoints(directory / "checkpoints").paths()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_resumed_after_any_step_is_the_undisturbed_one(small_setup: Setup, tmp_path: Path, variant: str) -> None:
    setup = small_setup.changed(**VARIANTS[variant])
    whole = files(simulate(setup, output=tmp_path / "whole"))
    assert len(whole) == (4 if variant == "faults" else 3)
    for step in range(setup.steps):
        root = tmp_path / str(step)
        stopped(setup, root, step)
        assert files(simulate(setup, output=root, resume=True)) == whole, step


def test_a_run_interrupted_at_every_step_is_the_undisturbed_one(small_setup: Setup, tmp_path: Path) -> None:
    whole = files(simulate(small_setup, output=tmp_path / "whole"))
    for step in range(small_setup.steps):
        stopped(small_setup, tmp_path / "parts", step)
    result = simulate(small_setup, output=tmp_path / "parts", resume=True)
    assert files(result) == whole
    assert result.directory is not None
    assert not saved(result.directory)
    log = (result.directory / "log.txt").read_text()
    assert log.count("continues from step") == 11
    assert log.rstrip().endswith("finished")


def test_a_corrupted_byte_anywhere_is_detected_and_the_checkpoint_before_is_used(
    small_setup: Setup, tmp_path: Path
) -> None:
    directory = stopped(small_setup, tmp_path, 6)
    newest, before = saved(directory)
    checkpoints, content = Checkpoints(newest.parent), newest.read_bytes()
    for position in range(len(content)):
        newest.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        with pytest.raises(Damaged, match="is damaged"):
            checkpoints.load(newest)
        refused: list[str] = []
        assert next(checkpoints.intact(refused)).step == 5
        assert len(refused) == 1
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        newest.write_bytes(content[:cut])
        with pytest.raises(Damaged):
            checkpoints.load(newest)
    newest.write_bytes(content)
    assert checkpoints.load(newest).step == 6
    assert before.exists()


@pytest.mark.parametrize("harm", ["newest", "metrics.csv", "evaluations.csv"])
def test_a_damaged_state_is_left_for_the_one_before(small_setup: Setup, tmp_path: Path, harm: str) -> None:
    whole = files(simulate(small_setup, output=tmp_path / "whole"))
    directory = stopped(small_setup, tmp_path / "parts", 6)
    if harm == "newest":
        saved(directory)[0].write_bytes(b"nonsense")
    else:
        path = directory / harm
        path.write_bytes(path.read_bytes()[:-3])  # of the last row
    with pytest.raises(RunExists, match=r"continues it from step [56]"):
        simulate(small_setup, output=tmp_path / "parts")
    result = simulate(small_setup, output=tmp_path / "parts", resume=True)
    assert files(result) == whole
    log = (directory / "log.txt").read_text()
    assert "continues from step 5" in log
    assert ("is damaged" if harm == "newest" else f"{harm}: expected at least") in log


@pytest.mark.parametrize("harm", ["missing", "short", "words", "checkpoints"])
def test_what_cannot_be_continued_says_why_and_is_kept(small_setup: Setup, tmp_path: Path, harm: str) -> None:
    directory = stopped(small_setup, tmp_path, 6)
    path, match = directory / "metrics.csv", r"metrics\.csv: "
    with (directory / "evaluations.csv").open("a") as file:
        file.write("6,0.5")  # which is not removed where nothing comes of it
    evaluations = (directory / "evaluations.csv").read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "short":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    elif harm == "words":
        path.write_text(path.read_text().replace("1", "x", 1))
    else:
        match = r"safetensors: is damaged"
        for checkpoint in saved(directory):
            checkpoint.write_bytes(b"")
    with pytest.raises(RunExists, match=match + r"(.|\n)*move .* away to start anew"):
        simulate(small_setup, output=tmp_path, resume=True)
    assert len(saved(directory)) == 2
    assert (directory / "evaluations.csv").read_bytes() == evaluations


def test_an_interruption_where_a_checkpoint_lies_leaves_the_history_as_it_is(
    small_setup: Setup, tmp_path: Path
) -> None:
    before = saved(stopped(small_setup, tmp_path, 6))
    assert saved(stopped(small_setup, tmp_path, 0)) == before


def test_a_failure_after_divergence_is_recorded(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(attack="nan", aggregator="average")
    directory = stopped(setup, tmp_path, 6)
    with RunDirectory(tmp_path, load_setup(directory / "setup.yaml")) as run:
        run.fail("for a test", "no traceback")
    status = json.loads((directory / "status.json").read_text())
    assert (status["state"], status["diverged"]["step"]) == ("failed", 0)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(Checkpoint(1, {"theta": torch.zeros(10)}, {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageFault, match="cannot be written"):
            checkpoints.save(Checkpoint(2, {"theta": torch.zeros(10_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [checkpoint.step for checkpoint in checkpoints.intact([])] == [1]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_run_without_a_checkpoint_starts_anew(small_setup: Setup, tmp_path: Path) -> None:
    directory = stopped(small_setup, tmp_path, 6)
    with pytest.raises(RunExists, match="--resume continues it from step 6"):
        simulate(small_setup, output=tmp_path)
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(RunExists, match="--resume starts it over, as no checkpoint was saved yet"):
        simulate(small_setup, output=tmp_path)
    assert len(simulate(small_setup, output=tmp_path, resume=True).metrics) == small_setup.steps


def test_two_checkpoints_are_kept(small_setup: Setup, tmp_path: Path) -> None:
    directory = stopped(small_setup, tmp_path, 7, CheckpointInterval(steps=3))
    assert [int(path.name.partition("-")[0]) for path in saved(directory)] == [9, 6]


def test_checkpoints_ahead_of_one_that_is_saved_are_given_up(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (3, 9, 12, 4):
        checkpoints.save(Checkpoint(step, {"theta": torch.full((2,), float(step))}, {"seconds": 1.0}))
    assert [checkpoint.step for checkpoint in checkpoints.intact([])] == [4]
    checkpoints.save(Checkpoint(5, {"theta": torch.zeros(2)}, {}))
    assert [checkpoint.step for checkpoint in checkpoints.intact([])] == [5, 4]


@pytest.mark.parametrize(("text", "expected"), [("100", (100, None)), ("30s", (None, 30.0)), ("0.5s", (None, 0.5))])
def test_intervals(text: str, expected: tuple[int | None, float | None]) -> None:
    interval = CheckpointInterval.parse(text)
    assert (interval.steps, interval.seconds) == expected


@pytest.mark.parametrize("text", ["", "s", "0", "-3", "0s", "1.5", "nans", "infs", "10 minutes"])
def test_wrong_intervals(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of steps, such as 100, or of seconds, such as 30s"):
        CheckpointInterval.parse(text)


def test_saving_takes_a_small_share_of_the_time(
    small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes a second and a checkpoint five."""
    now, saves = [0.0], []
    for module in ("loop", "recorder"):
        monkeypatch.setattr(f"byzray.recording.{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    save = Checkpoints.save

    def slow(self: Checkpoints, checkpoint: Checkpoint) -> None:
        saves.append(now[0])
        save(self, checkpoint)
        now[0] += 5

    def tick(update: Update) -> None:
        now[0] += 1

    monkeypatch.setattr(Checkpoints, "save", slow)
    setup = small_setup.changed(steps=1200, evaluation_interval=0, study=None)
    simulate(setup, output=tmp_path, progress=tick)
    first, *others = saves
    assert first == 61  # a minute, and the first step that is over then
    assert [later - before for before, later in pairwise(saves)] == [506] * len(others)  # 5 s are 1 % of 500 s
    assert len(others) == 2


@pytest.mark.parametrize("name", FINAL_FILES[:2] + FINAL_FILES[3:])
def test_a_finished_run_that_was_changed_is_not_taken_for_its_result(
    small_setup: Setup, tmp_path: Path, name: str
) -> None:
    directory = simulate(small_setup, output=tmp_path).directory
    assert directory is not None
    path = directory / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunExists, match=f"{name} was changed since the run finished"):
        simulate(small_setup, output=tmp_path)
    path.write_bytes(content)
    assert simulate(small_setup, output=tmp_path).reused


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "gone", "step": 1}', '{"state": "running"}'])
def test_a_damaged_status_is_named_and_can_be_done_without(small_setup: Setup, tmp_path: Path, content: str) -> None:
    whole = files(simulate(small_setup, output=tmp_path / "whole"))
    directory = stopped(small_setup, tmp_path / "parts", 6)
    (directory / "status.json").write_text(content)
    with pytest.raises(RunExists, match=r"status\.json: is damaged (.|\n)*Delete this file and run the same command"):
        simulate(small_setup, output=tmp_path / "parts", resume=True)
    (directory / "status.json").unlink()
    assert files(simulate(small_setup, output=tmp_path / "parts", resume=True)) == whole


def test_a_diverged_run_is_marked_and_its_result_kept(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(attack="nan", aggregator="average")
    for mode, steps in (("go-on", 12), ("stop", 1)):
        changed = setup.changed(divergence=mode)
        result = simulate(changed, output=tmp_path)
        assert result.diverged is not None
        assert result.diverged.step == 0
        assert "Byzantine submissions were not finite, and average let them through" in result.diverged.reason
        assert len(result.metrics) == steps
        assert result.evaluations["step"].iloc[-1] == steps
        assert result.directory is not None
        status = json.loads((result.directory / "status.json").read_text())
        assert (status["state"], status["step"], status["diverged"]["step"]) == ("finished", steps, 0)
        again = simulate(changed, output=tmp_path)
        assert again.reused
        assert again.diverged == result.diverged


def test_where_a_run_diverged_is_known_after_it_was_resumed(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(attack="nan", aggregator="average")
    directory = stopped(setup, tmp_path, 6)
    assert json.loads((directory / "status.json").read_text())["diverged"]["step"] == 0
    result = simulate(setup, output=tmp_path, resume=True)
    assert result.diverged is not None
    assert result.diverged.step == 0


def test_declared_faults_are_reported_by_step(small_setup: Setup, tmp_path: Path) -> None:
    setup = small_setup.changed(**VARIANTS["faults"])
    result = simulate(setup, output=tmp_path)
    assert result.directory is not None
    assert (result.directory / "faults.csv").read_text().splitlines() == [
        "step,worker,fault,submission",
        "2,0,crash,left out",
        "3,0,crash,left out",
        "6,3,silent,left out",
        "7,0,crash,left out",
    ]
    again = simulate(setup, output=tmp_path)
    assert result.faults is not None
    assert again.faults is not None
    assert again.faults.equals(result.faults)


def test_a_killed_run_is_called_interrupted(small_setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        simulate(small_setup, output=tmp_path, progress=lambda update: update.step > 0)
    (path,) = tmp_path.glob("*/status.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))  # as a killed process leaves it
    with pytest.raises(RunExists, match=r"holds this run, interrupted at step \d+ of 12"):
        simulate(small_setup, output=tmp_path)


def test_a_stopped_run_is_called_stopped_though_a_file_was_changed(small_setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        simulate(small_setup, output=tmp_path, progress=lambda update: update.step > 0)
    (path,) = tmp_path.glob("*/status.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "stopped"}))
    with (path.parent / "evaluations.csv").open("a") as file:
        file.write("7,0.5\n")
    with pytest.raises(RunExists, match=r"holds this run, stopped at step \d+ of 12"):
        simulate(small_setup, output=tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["step", "accuracy", "worst"], "found the columns without worst, expected with worst"),
        (["step"], "found the columns with accuracy, expected without accuracy"),
    ],
)
def test_a_table_with_other_columns_is_not_continued(tmp_path: Path, columns: list[str], message: str) -> None:
    path = tmp_path / "evaluations.csv"
    table = Table(["step", "accuracy"], path)
    table.extend(pd.DataFrame([(0, 0.5)], columns=table.columns))
    table.flush()
    assert Table(["step", "accuracy"], path).content(table.position()) == path.read_bytes()
    with pytest.raises(ValueError, match=f"was begun by another version: {message}"):
        Table(columns, path).content(table.position())
