"""Keeps a service running: starts its processes, and starts them again when they end by themselves.

There are two: the head of a Ray cluster, unless the service uses one that is there, and the server, see
:mod:`sweeps.service.server`. Whatever they leave behind when they are killed is ended first.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from byzray.files import read_plain, replace_text
from byzray.mistakes import Failure, WrongInput
from sweeps.service.settings import Settings
from sweeps.service.storage import digest_of, write_settings

# How long the head of a cluster may take to start, in seconds.
HEAD_SECONDS = 120.0

# How long the server may take to save the runs in progress when the service ends, in seconds.
STOP_SECONDS = 90.0

# After processes ended by themselves, the next ones are started after 1, 2, 4, ... and at most so many seconds.
LONGEST_WAIT = 60.0

# Processes that ran for so long are taken for sound, in seconds.
SOUND_SECONDS = 300.0

POLL_SECONDS = 0.5

RAY_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

# Of Ray's dashboard, if it is free.
DASHBOARD_PORT = 8265

# Of Linux: the signal that a process gets when its parent has died.
PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs a service until :meth:`stop`.

    Args:
        settings: of the service.
        address: of a Ray cluster; by default $RAY_ADDRESS, else one is started here.
        cpus: of a cluster that is started here; None: all.
        gpus: likewise.
        say: receives messages for the operator.
    """

    def __init__(
        self,
        settings: Settings,
        address: str | None,
        cpus: int | None = None,
        gpus: int | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.settings = settings
        named = address or os.environ.get("RAY_ADDRESS")
        self.address = None if named == "local" else named
        self.cpus = cpus
        self.gpus = gpus
        self.say = say
        self.log = settings.storage / "service.log"
        self._stopping = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._remains = settings.storage / ".processes.json"

    def stop(self) -> None:
        """End the service: the runs in progress are saved. May be called by the handler of a signal."""
        self._stopping = True

    def run(self) -> None:
        """Run until :meth:`stop` is called.

        Raises:
            byzray.mistakes.WrongInput: another service uses the storage, or another program the port.
            byzray.mistakes.Failure: the cluster cannot be started.
        """
        self.settings.storage.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.settings.storage / ".service.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise WrongInput(f"--storage: {self.settings.storage} is that of a service that runs already") from None
        try:
            _end(self._noted())  # of an earlier service that was killed
            if self.address is None:  # else Ray Serve may listen there already, for this or another application
                _expect_free(self.settings.host, self.settings.port)
            write_settings(self.settings)
            self._keep_running()
        finally:
            self._end_all()
            lock.release()

    def _keep_running(self) -> None:
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            try:
                address = self.address or self._start_head()
            except Failure as error:
                if not failures:  # it never ran
                    raise
                self.say(str(error))
                address = None
            if address is not None:
                server = [sys.executable, "-m", "sweeps.service.server", str(self.settings.storage), address]
                self._start(server)
            while address and not self._stopping and all(process.poll() is None for process in self._processes):
                self._note_remains()
                time.sleep(POLL_SECONDS)
            if self._stopping:
                self._end_gently()
                return
            self._end_all()
            failures = 1 if time.monotonic() - began > SOUND_SECONDS else failures + 1
            wait = min(LONGEST_WAIT, 2.0 ** (failures - 1))
            self.say(f"the service ended by itself, see {self.log}; it is started again in {wait:g} s")
            until = time.monotonic() + wait
            while not self._stopping and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _start_head(self) -> str | None:
        """Start the head of a cluster that only this machine can reach, and return its address; None after a stop.

        Raises:
            byzray.mistakes.Failure: it does not start.
        """
        ray = str(Path(sys.executable).with_name("ray"))
        # Whoever can reach a cluster can run anything on it, so that other users of this machine need a token.
        subprocess.run([ray, "get-auth-token", "--generate"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, dashboard = _free_port(), _free_port(DASHBOARD_PORT)
        command = [ray, "start", "--head", "--block", "--disable-usage-stats", f"--port={port}"]
        command += [f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1"]
        command += [f"--temp-dir={self._sessions()}"]
        command += [f"--num-cpus={self.cpus}"] if self.cpus is not None else []
        command += [f"--num-gpus={self.gpus}"] if self.gpus is not None else []
        head = self._start(command)
        began = time.monotonic()
        while not self._stopping:
            if head.poll() is not None or time.monotonic() - began > HEAD_SECONDS:
                raise Failure(f"Ray does not start here, see {self.log}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                self.say(f"Ray's dashboard: http://127.0.0.1:{dashboard}")
                return f"127.0.0.1:{port}"
            time.sleep(POLL_SECONDS)
        return None

    def _sessions(self) -> Path:
        """The folder for the files of Ray's sessions; of the earlier ones in it, only the last is kept.

        Raises:
            byzray.mistakes.Failure: it belongs to somebody else.
        """
        # Ray's sockets lie there, whose paths may have 107 bytes: the storage's could be too long.
        folder = Path(tempfile.gettempdir()) / f"byzray-{os.getuid()}-{digest_of(self.settings.storage)}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise Failure(f"{folder}: belongs to somebody else; set TMPDIR to a folder of your own")
        earlier = sorted(path for path in folder.glob("session_2*") if path.is_dir())
        for path in earlier[:-1]:
            shutil.rmtree(path, ignore_errors=True)
        return folder

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        # Its processes are to find no other cluster.
        known = {name: value for name, value in os.environ.items() if name not in RAY_VARIABLES}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**known, "RAY_AUTH_MODE": "token"} if self.address is None else known,
                cwd=self.settings.storage,
                start_new_session=True,  # the terminal's Ctrl-C is for this process alone
                preexec_fn=_end_with_parent,
            )
        self._processes.append(process)
        return process

    def _note_remains(self) -> None:
        """Write down all processes of this service, for whoever comes after a SIGKILL."""
        found = [[process.pid, process.create_time()] for process in self._family()]
        content = json.dumps(found)
        with suppress(OSError):
            if not self._remains.exists() or self._remains.read_text() != content:
                replace_text(self._remains, content)

    def _family(self) -> list[psutil.Process]:
        """All processes that descend from this one."""
        found: list[psutil.Process] = []
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                found += [parent, *parent.children(recursive=True)]
        return found

    def _noted(self) -> list[psutil.Process]:
        """The processes that were written down and live, also those whose parents have died."""
        known: list[Any] = []
        with suppress(OSError, ValueError):
            known = json.loads(read_plain(self._remains))
        found = []
        for pid, created in known:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process = psutil.Process(int(pid))
                if abs(process.create_time() - created) < 1:  # process ids are used again
                    found.append(process)
        return found

    def _end_gently(self) -> None:
        """Let the server save the runs in progress, then end everything."""
        for server in self._processes[-1:]:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(STOP_SECONDS)
        self._end_all()

    def _end_all(self) -> None:
        """End all processes."""
        _end([*{*self._family(), *self._noted()}])
        for started in self._processes:
            with suppress(subprocess.TimeoutExpired):
                started.wait(5)
        self._processes.clear()
        self._remains.unlink(missing_ok=True)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _end_with_parent() -> None:
    """In a child before its program starts: end it when this process dies, however that happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _expect_free(host: str, port: int) -> None:
    """Refuse a port that another program listens on; Ray would share it with it.

    Raises:
        byzray.mistakes.WrongInput: it is not free.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(where)
    except OSError as error:
        raise WrongInput(f"--host, --port: cannot listen on {host}:{port} ({error.strerror or error})") from None


def _free_port(wanted: int = 0) -> int:
    """A free port, the wanted one if it is."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", wanted))
        except OSError:
            return _free_port()
        return int(one.getsockname()[1])
