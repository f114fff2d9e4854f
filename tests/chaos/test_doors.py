"""Doors, where actors on one machine meet: one that dies there keeps nobody waiting, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors import near
from actors.near import Door, Near, PeerLost, PeerSilent


def test_whoever_does_not_come_in_is_not_waited_for_as_long_as_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ENTRY_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(PeerSilent):
        Door(600.0).admit(1)
    assert time.monotonic() - began < 30


def test_a_server_that_is_killed_at_its_door_leaves_nothing(tmp_path: Path) -> None:
    program = "import os, signal; from actors.near import Door; door = Door(60); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == -9
    assert not list(tmp_path.iterdir())


def test_other_users_do_not_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ENTRY_SECONDS", 0.5)
    door = Door(60)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(f"\0{door.path}")
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(PeerSilent):
            door.admit(1)
        stranger.settimeout(10)
        assert stranger.recv(1) == b""


def test_nobody_enters_another_users_door(monkeypatch: pytest.MonkeyPatch) -> None:
    door, user = Door(60), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(PeerLost):
        Near.enter(door.path, 1, 60)
    door.close()
