"""Sweeps on the command line that are stopped, killed and started again, and two at the same time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

import byzray
from byzray import load_setup

# Multi-Krum. One run is computed at full speed; the others slow down after step 100, so that tests find them in the
# middle of their work, until there is a certain file.
RULE = """
import time
from pathlib import Path
from byzray.aggregators import MultiKrum

HASTEN, FIRST = Path(%r), Path(%r)
passes = False


class SlowMultiKrum(MultiKrum):
    def step(self, submissions, step, state):
        global passes
        if step.number == 100:
            try:
                FIRST.open("x").close()
                passes = True
            except FileExistsError:
                passes = False
        if step.number > 100 and not passes and not HASTEN.exists():
            time.sleep(0.1)
        return super().step(submissions, step, state)
"""

SWEEP = """
base:
  dataset: {name: npz, path: %s}
  model: {name: mlp, hidden: [4]}
  steps: %d
  batch_size: 4
  learning_rate: 0.1
  workers: 7
  byzantine: 2
  aggregator: interruption_rules:SlowMultiKrum
  attack: little
  evaluation_interval: 50
axes: {momentum.placement: [update, worker], momentum.beta: [0.9, 0.5]}
reference: false
"""

WITHIN = 240.0  # seconds, far more than any wait takes


class Sweep:
    """A sweep in a folder, run by processes of its own on the session's cluster, two runs at a time."""

    def __init__(self, folder: Path, data: Path, steps: int = 800) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.file = folder / "mine.yaml"
        self.steps = steps
        self.file.write_text(SWEEP % (data, steps))
        self._hasten = folder / "hasten"
        (folder / "interruption_rules.py").write_text(RULE % (str(self._hasten), str(folder / "first")))

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "byzray",
            "sweep",
            "mine.yaml",
            "--output",
            "results",
            "--cpus",
            "1.75",
        ]
        command += ["--address", ray.get_runtime_context().gcs_address, *more]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def states(self) -> dict[str, dict[str, object]]:
        found = (self.folder / "results" / "runs").glob("*/status.json")
        return {path.parent.name: json.loads(path.read_text()) for path in found}

    def hasten(self) -> None:
        self._hasten.touch()

    def wait_for_the_middle(self) -> set[str]:
        """Until one run is finished and another under way; returns those that are finished."""
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            states = {name: status["state"] for name, status in self.states().items()}
            finished = {name for name, state in states.items() if state == "finished"}
            running = [self._steps(name) for name, state in states.items() if state == "running"]
            if finished and any(100 < steps < self.steps / 2 for steps in running):
                return finished
            time.sleep(0.05)
        raise AssertionError(f"no sweep in the middle of its work within {WITHIN} s: {self.states()}")

    def stop_an_actor(self) -> str:
        """Have the actor that computes some run hang; returns the run's name."""
        for name in (name for name, status in self.states().items() if status["state"] == "running"):
            lock = str(self.folder / "results" / "runs" / name / ".lock")
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.name().startswith("ray::") and any(one.path == lock for one in process.open_files()):
                        process.suspend()
                        return name
        raise AssertionError(f"no actor computes a run: {self.states()}")

    def _steps(self, name: str) -> int:
        return (self.folder / "results" / "runs" / name / "metrics.csv").read_bytes().count(b"\n")

    def stamps(self, names: set[str]) -> dict[Path, int]:
        runs = self.folder / "results" / "runs"
        return {path: path.stat().st_mtime_ns for name in names for path in (runs / name).iterdir()}

    def check(self, names: Iterable[str] | None = None) -> None:
        """The runs, or those of these names, are what `simulate` computes without interruption."""
        for directory in (self.folder / "results" / "runs").iterdir():
            if names is not None and directory.name not in names:
                continue
            expected = byzray.simulate(load_setup(directory / "setup.yaml"), output=self.folder / "alone").directory
            assert expected is not None
            for name in ("metrics.csv", "evaluations.csv", "parameters.npy"):
                assert (directory / name).read_bytes() == (expected / name).read_bytes(), directory.name


@pytest.fixture
def sweep(tmp_path: Path, small_data: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.syspath_prepend(tmp_path)  # `check` loads the rule in this process
    monkeypatch.delitem(sys.modules, "interruption_rules", raising=False)
    return Sweep(tmp_path, small_data)


def test_killed_and_started_again(sweep: Sweep) -> None:
    driver = sweep.start()
    finished = sweep.wait_for_the_middle()
    driver.kill()
    driver.wait()
    stamps = sweep.stamps(finished)
    sweep.hasten()

    again = sweep.start()
    log, _ = again.communicate(timeout=WITHIN)
    assert again.returncode == 0, log
    assert f"{4 - len(finished)} runs finished" in log
    assert f"{len(finished)} were done before" in log
    assert {status["state"] for status in sweep.states().values()} == {"finished"}
    assert len(sweep.states()) == 4
    assert sweep.stamps(finished).items() >= {path: at for path, at in stamps.items() if path.name != ".lock"}.items()
    sweep.check()


def test_interrupted_and_continued(sweep: Sweep) -> None:
    driver = sweep.start()
    sweep.wait_for_the_middle()
    driver.send_signal(signal.SIGINT)
    log, _ = driver.communicate(timeout=WITHIN)
    assert driver.returncode == 1, log
    assert "SIGINT: saving the runs in progress" in log
    assert log.rstrip().endswith("interrupted; the same command continues it")
    assert "FileNotFoundError" not in log  # of Tune, for each run that was not begun
    saved = {
        name: int(str(status["step"])) for name, status in sweep.states().items() if status["state"] == "interrupted"
    }
    assert saved
    assert any(saved.values())
    sweep.hasten()

    again = sweep.start()
    log, _ = again.communicate(timeout=WITHIN)
    assert again.returncode == 0, log
    for name, step in saved.items():
        environment = json.loads((sweep.folder / "results" / "runs" / name / "environment.json").read_text())
        assert ("earlier" in environment) == (step > 0)
    sweep.check(saved)


def test_a_run_whose_actor_hangs_is_tried_again(sweep: Sweep) -> None:
    driver = sweep.start("--deadline", "12")
    sweep.wait_for_the_middle()
    hung = sweep.stop_an_actor()
    sweep.hasten()
    log, _ = driver.communicate(timeout=WITHIN)
    assert driver.returncode == 0, log
    assert f"{hung}: failed, will be retried: no report for" in log
    assert "4 runs finished" in log
    assert {status["state"] for status in sweep.states().values()} == {"finished"}
    assert not (sweep.folder / "results" / ".processes").exists()
    sweep.check()


def test_one_interrupt_ends_a_sweep_whose_actor_hangs(sweep: Sweep) -> None:
    driver = sweep.start("--deadline", "12")
    sweep.wait_for_the_middle()
    hung = sweep.stop_an_actor()
    driver.send_signal(signal.SIGINT)
    log, _ = driver.communicate(timeout=WITHIN)
    assert driver.returncode == 1, log
    assert "no report for" in log
    assert log.rstrip().endswith("interrupted; the same command continues it")
    assert "FileNotFoundError" not in log
    assert "WARNING" not in log
    assert sweep.states()[hung]["state"] == "failed"
    assert "no report for" in str(sweep.states()[hung]["reason"])

    sweep.hasten()
    again = sweep.start()
    log, _ = again.communicate(timeout=WITHIN)
    assert again.returncode == 0, log
    sweep.check()


@pytest.fixture
def slow_sweep(tmp_path: Path, small_data: Path, ray_cluster: str) -> Iterator[subprocess.Popen[str]]:
    """A sweep of one run that is in its first step, which takes 8 seconds."""
    (tmp_path / "slow_rules.py").write_text(
        "import time\n"
        "from byzray.aggregators import Median\n\n\n"
        "class Slow(Median):\n"
        "    def aggregate(self, submissions, f):\n"
        "        time.sleep(8)\n"
        "        return super().aggregate(submissions, f)\n"
    )
    sweep = Sweep(tmp_path, small_data, steps=20)
    text = sweep.file.read_text().replace("interruption_rules:SlowMultiKrum", "slow_rules:Slow")
    sweep.file.write_text(text.replace("[update, worker]", "[worker]").replace("[0.9, 0.5]", "[0.9]"))
    driver = sweep.start()
    deadline = time.monotonic() + WITHIN
    while not any(status["state"] == "running" for status in sweep.states().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3)  # into the first step
    yield driver
    driver.kill()
    driver.wait()


def test_a_long_step_is_waited_for(slow_sweep: subprocess.Popen[str], tmp_path: Path) -> None:
    slow_sweep.send_signal(signal.SIGTERM)
    log, _ = slow_sweep.communicate(timeout=WITHIN)
    assert slow_sweep.returncode == 1, log
    (path,) = (tmp_path / "results" / "runs").glob("*/status.json")
    status = json.loads(path.read_text())
    assert (status["state"], status["step"]) == ("interrupted", 1)


def test_a_second_interrupt_does_not_wait(slow_sweep: subprocess.Popen[str], tmp_path: Path) -> None:
    slow_sweep.send_signal(signal.SIGINT)
    time.sleep(1)
    slow_sweep.send_signal(signal.SIGINT)
    log, _ = slow_sweep.communicate(timeout=WITHIN)
    assert slow_sweep.returncode == 130, log  # as shells count a process that SIGINT ended
    assert "byzray: SIGINT: saving the runs in progress" in log
    (path,) = (tmp_path / "results" / "runs").glob("*/status.json")
    assert json.loads(path.read_text())["state"] == "running", "nothing was saved"


@pytest.mark.chaos  # most of a minute
def test_two_sweeps_at_once(tmp_path: Path, small_data: Path, ray_cluster: str) -> None:
    sweeps = [Sweep(tmp_path / name, small_data) for name in ("one", "two")]
    sweeps[1].file.write_text(sweeps[1].file.read_text().replace("learning_rate: 0.1", "learning_rate: 0.2"))
    for sweep in sweeps:
        text = sweep.file.read_text().replace("steps: 800", "steps: 300").replace(", momentum.beta: [0.9, 0.5]", "")
        sweep.file.write_text(text.replace("interruption_rules:SlowMultiKrum", "multi-krum"))
    for sweep, driver in [(sweep, sweep.start()) for sweep in sweeps]:
        log, _ = driver.communicate(timeout=WITHIN)
        assert driver.returncode == 0, log
        assert len(sweep.states()) == 2
        sweep.check()
