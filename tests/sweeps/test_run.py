"""sweeps.run, the call from Python, and what it leaves for Python."""

import logging
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import ray

import byzray
import sweeps
from byzray import Setup
from byzray.mistakes import WrongInput
from sweeps.progress import Progress
from sweeps.storage import Storage

SWEEP = "{base: base.yaml, axes: {aggregator: [median, multi-krum]}, seeds: 1-2}"


class Recorded(sweeps.Observer):
    """Remembers what it is informed of, and asks for a stop after so many runs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.calls: list[str] = []
        self.ended: dict[str, str] = {}

    def begin(self, title: str, progress: Progress) -> None:
        self.calls.append(f"begin {title.partition(':')[0]} {progress.total}")

    def run_ended(self, run: str, outcome: str) -> None:
        self.ended[run] = outcome

    def stop_asked(self) -> bool:
        assert self.calls[0].startswith("begin")
        assert "end" not in self.calls
        return self.stop_after is not None and len(self.ended) >= self.stop_after

    def end(self) -> None:
        self.calls.append("end")


@pytest.fixture
def sweep_file(tmp_path: Path, small_setup: Setup, ray_cluster: str) -> Path:
    (tmp_path / "base.yaml").write_text(small_setup.changed(steps=40, evaluation_interval=5, actors=None).yaml())
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP)
    return path


def test_a_sweep_and_its_frame(sweep_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    observer = Recorded()
    outcome = sweeps.run(sweep_file, output, cpus=1.75, observer=observer)
    assert (outcome.finished, outcome.failed, outcome.complete) == (6, {}, True)  # with the two references
    assert observer.calls == ["begin mine 6", "end"]
    assert set(observer.ended) == {path.name for path in (output / "runs").iterdir()}
    assert repr(outcome) == f"<Outcome: 6 finished, in {output}>"
    assert "<td>6 finished</td>" in outcome._repr_html_()

    frame = byzray.load_runs(output)
    assert len(frame) == 6
    assert set(frame["state"]) == {"finished"}
    means = frame.groupby(["rule", "attack"])["best_accuracy"].mean()
    assert set(means.index.get_level_values("attack")) == {"little", "none"}
    for run, best in zip(frame["run"], frame["best_accuracy"], strict=True):
        assert pd.read_csv(output / "runs" / run / "evaluations.csv")["accuracy"].max() == best

    again = sweeps.run(str(sweep_file), output, observer=Recorded())
    assert (again.earlier, again.finished) == (6, 0)


def test_a_part_of_it(sweep_file: Path, tmp_path: Path) -> None:
    outcome = sweeps.run(
        sweep_file, tmp_path / "x", only="aggregator == 'median' and attack != 'none'", seeds="3", observer=Recorded()
    )
    assert outcome.finished == 2  # with its reference
    assert byzray.load_runs(tmp_path / "x")["seed"].tolist() == [3, 3]


def test_it_stops_when_asked_and_continues(sweep_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    base = sweep_file.with_name("base.yaml")
    base.write_text(base.read_text().replace("steps: 40", "steps: 400"))
    observer = Recorded(stop_after=1)
    outcome = sweeps.run(sweep_file, output, cpus=1.75, observer=observer)
    assert outcome.interrupted
    assert not outcome.complete
    assert 1 <= outcome.finished < 6
    assert observer.calls[-1] == "end"
    assert repr(outcome).startswith("<Outcome: interrupted, ")
    frame = byzray.load_runs(output)
    assert (frame["state"] == "finished").sum() == outcome.finished
    rest = sweeps.run(sweep_file, output, observer=Recorded())
    assert (rest.earlier, rest.finished) == (outcome.finished, 6 - outcome.finished)


def test_an_interrupt_saves_what_runs(sweep_file: Path, tmp_path: Path) -> None:
    """Ctrl-C in a script, or the stop button of a notebook; nothing is left that keeps the next call waiting."""
    output = tmp_path / "results"
    base = sweep_file.with_name("base.yaml")
    base.write_text(base.read_text().replace("steps: 40", "steps: 400"))

    class Interrupts(Recorded):
        def run_ended(self, run: str, outcome: str) -> None:
            super().run_ended(run, outcome)
            if len(self.ended) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sweeps.run(sweep_file, output, cpus=1.75, observer=Interrupts())
    states = byzray.load_runs(output)["state"].value_counts()
    assert "running" not in states
    assert 1 <= states["finished"] < 6
    rest = sweeps.run(sweep_file, output, cpus=1.75, observer=Recorded())
    assert (rest.earlier, rest.finished) == (states["finished"], 6 - states["finished"])


def test_the_process_stays_as_it_was(sweep_file: Path, tmp_path: Path) -> None:
    """No signal handler, environment variable or logger of the caller's is changed."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    level = logging.getLogger("ray.tune.tune").level
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "1"
    before = dict(os.environ)
    seen: list[object] = []

    class Sees(Recorded):
        def refresh(self) -> None:
            seen.append(signal.getsignal(signal.SIGINT))

    try:
        sweeps.run(sweep_file, tmp_path / "x", only="attack == 'none'", seeds=[1], observer=Sees())
        assert dict(os.environ) == before
    finally:
        del os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"]
    assert set(seen) == {handlers[0]}
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert logging.getLogger("ray.tune.tune").level == level
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweep": "nowhere"}, "there is no such sweep"),
        ({"only": "colour == 'red'"}, "'colour' is not defined"),
        ({"seeds": "1,2,x"}, "seeds: got '1,2,x', expected seeds such as 1-5"),
        ({"output": "nowhere://x"}, "output: got 'nowhere://x', expected a folder, or a URI"),
        ({"seeds": [1, -1]}, "seeds: got '1,-1', expected seeds such as 1-5"),
        ({"retries": -1}, "retries: got -1, expected at least 0"),
        ({"cpus": 0}, "cpus: got 0, expected a number >= 0.0001"),
        ({"workers_per_actor": 0}, "workers_per_actor: got 0, expected at least 1"),
    ],
)
def test_wrong_input(options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongInput, match=message):
        sweeps.run(**{"sweep": "demo", **options})  # type: ignore[arg-type]


def test_an_outcome_shows_no_secrets(sweep_file: Path, tmp_path: Path) -> None:
    """Of a URI its user and options are left out."""
    output = f"file://{tmp_path}/remote"
    outcome = sweeps.run(sweep_file, output, only="attack == 'none'", seeds=[1, 1], observer=Recorded())
    assert outcome.finished == 1
    assert outcome.output == output
    assert Storage("s3://KEY:SECRET@bucket/x?region=eu").shown == "s3://bucket/x"
