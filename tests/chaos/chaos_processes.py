"""Processes that tests start, find and kill."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from chaos_stage import PATIENCE, alive_nodes, slowness, wait_for


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """The processes that a process, by default this one, has started, and those that they did."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(pid: int) -> bool:
    """Kill a process; returns whether it existed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def holder(path: Path) -> psutil.Process | None:
    """The actor in this process's cluster that has a file open, such as a run's lock."""
    for process in descendants():
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and any(one.path == str(path) for one in process.open_files()):
                return process
    return None


class Command:
    """A `byzray` command in its own process; its output is in the file `log`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.log = folder / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start it, or start it again, with more options."""
        command = [sys.executable, "-m", "byzray", *self.arguments, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def descendants(self) -> list[psutil.Process]:
        """The processes that it has started, and those that they did."""
        return descendants(self.process.pid) if self.process is not None else []

    def kill(self) -> bool:
        """Kill it; returns whether it was running."""
        assert self.process is not None
        there = self.running
        self.process.kill()
        self.process.wait()
        return there

    def finish(self, patience: float = PATIENCE) -> None:
        """Wait until it has ended.

        Raises:
            RuntimeError: it failed.
            TimeoutError: it did not end, and was killed.
        """
        assert self.process is not None
        try:
            wait_for(lambda: not self.running, "the end of the command", patience)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}: {self._output_tail()}") from None
        if code := self.process.returncode:
            raise RuntimeError(f"the command ended with {code}: {self._output_tail()}")

    def _output_tail(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])


class Outpost:
    """A second node of the cluster at `address`, on this machine, that may be killed."""

    def __init__(self, address: str, cpus: int, folder: Path) -> None:
        before = alive_nodes()
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--address", address]
        command += ["--num-cpus", str(cpus), "--object-store-memory", str(100 * 2**20)]
        with (folder / "outpost.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.members: list[psutil.Process] = []  # recorded before the raylet ends, after which they have no parent
        wait_for(lambda: alive_nodes() - before, "a second node")

    def kill(self) -> None:
        """Kill its raylet; its workers notice that and end."""
        self.members = descendants(self.process.pid)
        next(one for one in self.members if one.name() == "raylet").kill()

    def close(self) -> list[psutil.Process]:
        """End it; returns processes that did not end by themselves after the raylet was killed, and are killed now."""
        left = psutil.wait_procs(self.members, timeout=PATIENCE * slowness())[1]
        members = descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(20 * slowness())
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end([*members, *left])
        return left


def end(processes: list[psutil.Process]) -> None:
    """Kill the processes that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
