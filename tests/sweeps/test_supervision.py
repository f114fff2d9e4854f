"""Trials that are silent, as the driver counts it, and what ends them."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from byzray import Setup
from sweeps import supervision
from sweeps.storage import Storage
from sweeps.supervision import FIRST_SECONDS, FLEET_SECONDS, REPORT_SECONDS, Supervisor, end_process, start_time


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials that were ended."""
    found: list[str] = []
    monkeypatch.setattr(supervision, "end_trial", lambda storage, trial: found.append(trial))
    return found


class Clock:
    """Time that passes as a test wants it."""

    def __init__(self, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.supervisor = supervisor
        self.now = time.monotonic()
        monkeypatch.setattr("sweeps.supervision.time.monotonic", lambda: self.now)

    def check(self, seconds: float, every: float = 1.0, stopping: bool = False) -> None:
        """The driver checks at this interval, for so many seconds."""
        for _ in range(round(seconds / every)):
            self.now += every
            self.supervisor.check(stopping)


def begun(folder: Path, deadline: float | None, setup: Setup | None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    supervisor = Supervisor(Storage(str(folder)), deadline)
    clock = Clock(supervisor, monkeypatch)
    supervisor.check(False)
    supervisor.begins("a", setup)
    return clock


def test_a_trial_is_ended_after_the_deadline(
    tmp_path: Path, small_setup: Setup, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = begun(tmp_path, 10.0, small_setup.changed(actors=None), monkeypatch)
    clock.check(FIRST_SECONDS)
    clock.supervisor.reports("a")  # the first takes longer, whatever the deadline
    clock.check(10.0 + REPORT_SECONDS)
    assert not ended
    clock.check(1.0)
    assert ended == ["a"]
    assert clock.supervisor.ends("a", for_good=False).startswith("no report for 13 s")
    assert clock.supervisor.ends("a") == ""


def test_reports_that_wait_to_be_read_are_no_silence(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = begun(tmp_path, 10.0, None, monkeypatch)
    clock.supervisor.reports("a")
    clock.check(600.0, every=100.0)  # the driver itself was busy
    assert not ended


def test_who_looks_after_a_fleet_may_be_silent_for_longer(
    tmp_path: Path, small_setup: Setup, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = begun(tmp_path, 10.0, small_setup.changed(actors={}), monkeypatch)
    clock.supervisor.reports("a")
    clock.check(FLEET_SECONDS)
    assert not ended
    clock.check(20.0)
    assert ended == ["a"]


def test_whoever_waits_for_the_end_does_not_wait_longer_for_a_run_that_never_reported(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = begun(tmp_path, None, None, monkeypatch)
    clock.check(FIRST_SECONDS + 1)
    assert not ended
    clock.check(1.0, stopping=True)
    assert ended == ["a"]


def test_without_a_deadline_it_follows_from_the_pace_and_doubles(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = begun(tmp_path, None, None, monkeypatch)
    for _ in range(3):
        clock.check(3.0)
        clock.supervisor.reports("a")
    clock.check(20 * 3.0 + REPORT_SECONDS + 1)
    assert ended == ["a"]
    clock.supervisor.ends("a", for_good=False)
    clock.supervisor.begins("a", None)
    clock.supervisor.reports("a")
    clock.check(20 * 3.0 + REPORT_SECONDS + 1)
    assert ended == ["a", "a"]  # it had reported, so its pace is known again


def test_a_process_is_ended_but_not_one_that_took_over_its_number() -> None:
    process = subprocess.Popen(["sleep", "60"])
    end_process(process.pid, start_time(os.getpid()) or "another")
    assert process.poll() is None
    end_process(process.pid, start_time(process.pid))
    assert process.wait(60) == -9
    end_process(process.pid, start_time(process.pid))  # it is gone
