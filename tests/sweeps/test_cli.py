"""`byzray sweep`, `byzray report` and `byzray list sweeps`: what they print, and their exit codes."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from byzray import commands

Byzray = Callable[..., tuple[int, str, str]]

TINY = """
base: {dataset: digits, model: {name: mlp, hidden: [4]}, steps: 6, workers: 7, byzantine: 2, evaluation_interval: 3}
axes: {aggregator: [median, bulyan], attack: [little], momentum.placement: [update, worker]}
conditions: ["aggregator != 'bulyan' or n >= 4*f + 3"]
"""


@pytest.fixture
def byzray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_cluster: str
) -> Byzray:
    """Runs `byzray` in `tmp_path`, where tiny.yaml is a sweep: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("tiny.yaml").write_text(TINY)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["byzray", *arguments])
        with pytest.raises(SystemExit) as stop:
            commands.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return call


def test_a_sweep_from_plan_to_report(byzray: Byzray, tmp_path: Path) -> None:
    code, out, _ = byzray("sweep", "tiny.yaml", "--plan")
    assert code == 0
    assert "tiny: 3 setups x 1 seeds = 3 runs" in out
    assert "3 to run: missing, never started" in out
    assert "no estimate" in out
    assert not (tmp_path / "results").exists()  # nothing was spent

    code, out, _ = byzray("sweep", "tiny.yaml", "--plan", "--measure")
    assert code == 0
    assert "estimate from measured steps/s: 0:00:0" in out
    assert not (tmp_path / "results").exists()

    code, out, err = byzray("sweep", "tiny.yaml", "--cpus", "1.75")
    assert code == 0
    assert "3 runs finished in" in out
    assert "0 were done before" in out
    assert "1 of 1 decided" in out
    assert err.count("best accuracy") == 3
    page = tmp_path / "results" / "tiny" / "report" / "index.html"
    assert f"page: {page}" in out

    code, out, _ = byzray("sweep", "tiny.yaml", "--plan")
    assert "3 done" in out
    assert "nothing is left to run" in out

    code, out, _ = byzray("sweep", "tiny.yaml", "--seeds", "1-2", "--only", "attack == 'none'", "--plan")
    assert "tiny: 1 setups x 2 seeds = 2 runs" in out
    assert "only attack == 'none'" in out
    assert "1 done" in out
    assert "estimate from measured steps/s" in out

    page.unlink()
    (tmp_path / "results" / "tiny" / "report").rename(tmp_path / "elsewhere")
    code, out, _ = byzray("report", "results/tiny")
    assert code == 0
    assert page.exists()


@pytest.fixture
def broken_rule(byzray: Byzray, tmp_path: Path) -> None:
    """In tiny.yaml one of two rules raises an error."""
    (tmp_path / "broken_rules.py").write_text(
        "from byzray.aggregators import Aggregator\n\n\n"
        "class Broken(Aggregator):\n"
        "    def check(self, n, f):\n        return None\n\n"
        "    def aggregate(self, submissions, f):\n        raise ZeroDivisionError('no rule today')\n"
    )
    Path("tiny.yaml").write_text(TINY.replace("bulyan]", "'broken_rules:Broken']"))


def test_a_plan_names_what_cannot_be_measured(byzray: Byzray, broken_rule: None) -> None:
    code, out, err = byzray("sweep", "tiny.yaml", "--plan", "--measure", "--seeds", "1-2")
    assert (code, err) == (1, "")
    assert "tiny: 5 setups x 2 seeds = 10 runs" in out
    assert "estimate from measured steps/s: 0:00:0" in out
    *_, line = out.splitlines()
    assert re.fullmatch(
        r"not measured: \S+-Broken-little-f2-at-update-seed1-\S+ and 1 more: ZeroDivisionError: no rule today",
        line,
    )


def test_a_plan_tells_what_data_are_missing(byzray: Byzray) -> None:
    Path("tiny.yaml").write_text(TINY.replace("dataset: digits", "dataset: mnist"))
    code, out, err = byzray("sweep", "tiny.yaml", "--plan", "--measure", "--data", "nowhere")
    assert (code, err) == (0, "")
    assert "3 to run: missing, never started" in out
    assert "no estimate: nothing could be measured" in out
    (line,) = [line for line in out.splitlines() if line.startswith("not measured: ")]
    assert "and 2 more: " in line
    assert "nowhere" in line


def test_a_failure_is_in_the_exit_code_and_the_last_lines(byzray: Byzray, broken_rule: None) -> None:
    code, out, _ = byzray("sweep", "tiny.yaml", "--cpus", "1.75", "--retries", "0", "--only", "placement == 'worker'")
    assert code == 1
    assert "1 failed" in out
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert "Broken-little-f2-at-worker-seed1" in line
    assert line.endswith("ZeroDivisionError: no rule today")
    assert "results/tiny/runs/*/error.txt; the same command retries them" in out
    states = {json.loads(path.read_text())["state"] for path in Path("results/tiny/runs").glob("*/status.json")}
    assert states == {"finished", "failed"}


def test_plan_of_the_paper(byzray: Byzray) -> None:
    code, out, _ = byzray("sweep", "paper", "--plan")
    assert code == 0
    assert "paper: 736 setups x 5 seeds = 3680 runs" in out
    for name in ("mnist", "fashion-mnist", "cifar10", "cifar100"):
        assert f"184  {name}" in out
    code, out, _ = byzray("sweep", "appendix", "--plan")
    assert "appendix: 22 setups x 5 seeds = 110 runs" in out


def test_list_sweeps(byzray: Byzray) -> None:
    code, out, _ = byzray("list", "sweeps")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert {row[0]: row[-2:] for row in rows if row and row[-1].isdecimal()} == {
        "demo": ["46", "92"],
        "paper": ["736", "3680"],
        "appendix": ["22", "110"],
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("sweep", "papers"), "there is no such sweep: expected demo, paper, appendix, or a YAML file"),
        (("sweep", "nowhere.yaml"), "nowhere.yaml: 1 mistake in the sweep"),
        (("sweep", "demo", "--seeds", "5-1"), "--seeds: got '5-1', expected seeds such as 1-5 or 1,3,7-9"),
        (
            ("sweep", "demo", "--only", "f = 4"),
            "--only: condition 'f = 4': is an assignment, expected a comparison",
        ),
        (("sweep", "demo", "--only", "f == 7"), "no setup meets f == 7"),
        (("sweep", "demo", "--only", "rule == 'median'"), "'rule' is unknown, did you mean 'aggregator'?"),
        (("sweep", "demo", "--only", "agregator == 'median'"), "'agregator' is unknown, did you mean 'aggregator'?"),
        (("sweep", "demo", "--only", "colour == 'red'"), "'colour' is not defined"),
        (("sweep", "demo", "--output", "nowhere://x"), "--output: got 'nowhere://x', expected a folder, or a URI"),
        (("sweep", "demo", "--measure"), "--measure: works only with --plan"),
        (("sweep", "demo", "--workers-per-actor", "0"), "--workers-per-actor"),
        (("sweep", "demo", "--retries", "-1"), "--retries"),
        (("report", "nowhere"), "nowhere"),
    ],
)
def test_wrong_input(byzray: Byzray, arguments: tuple[str, ...], expected: str) -> None:
    code, _, err = byzray(*arguments)
    assert code == 2
    assert expected in " ".join(err.split())
    assert "Traceback" not in err
