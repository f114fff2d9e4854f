"""Actors on one machine that connect: one that dies meanwhile blocks nobody and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors import local_peers
from actors.local_peers import Listener, LocalPeer, PeerLost, PeerTimeout


def test_a_peer_that_does_not_connect_is_waited_for_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_peers, "ACCEPT_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(PeerTimeout):
        Listener(600.0).accept(1)
    assert time.monotonic() - began < 30


def test_a_server_that_is_killed_while_it_listens_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal; from actors.local_peers import Listener; listener = Listener(60); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == -9
    assert not list(tmp_path.iterdir())


def test_connections_of_other_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_peers, "ACCEPT_SECONDS", 0.5)
    listener = Listener(60)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(f"\0{listener.path}")
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(PeerTimeout):
            listener.accept(1)
        stranger.settimeout(10)
        assert stranger.recv(1) == b""


def test_nobody_connects_to_another_users_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, user = Listener(60), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(PeerLost):
        LocalPeer.connect(listener.path, 1, 60)
    listener.close()
