"""A service in processes of its own, for tests: `byzray serve` with a cluster of its own."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from byzray.client import Client, Sweep

# How long a service may take to start, or to start again, on a busy machine, in seconds.
PATIENCE = 180.0

SWEEP = """\
base: {dataset: digits, workers: 7, byzantine: 2, attack: little, steps: %d, evaluation_interval: 20}
axes: {aggregator: [median, trimmed-mean]}
seeds: 1-%d
"""


@dataclass
class Running:
    """A service.

    Attributes:
        storage: its folder.
        port: its port.
    """

    storage: Path
    port: int
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, token: str | None = None, patience: float = PATIENCE) -> Client:
        return Client(self.url, token, patience)

    def start(self) -> None:
        command = [sys.executable, "-m", "byzray", "serve", "--storage", str(self.storage), "--port", str(self.port)]
        with (self.storage.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log, start_new_session=True)
        began = time.monotonic()
        while True:
            try:
                self.client(patience=0).health()
                return
            except Exception:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() - began < PATIENCE, self.log()
                time.sleep(0.5)

    def log(self) -> str:
        texts = [self.storage.parent / "serve.log", self.storage / "service.log"]
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in texts if path.exists())

    def family(self) -> list[psutil.Process]:
        """All processes of the service."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def find(self, what: str) -> list[psutil.Process]:
        """Processes of the service with a word in their command lines."""
        found = []
        for process in self.family():
            try:
                if what in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def wait_for(self, sweep: str, holds: Callable[[Sweep], bool], client: Client | None = None) -> Sweep:
        """Wait until a sweep is as wanted."""
        client = client or self.client()
        began = time.monotonic()
        while not holds(found := client.sweep(sweep)):
            assert time.monotonic() - began < PATIENCE, f"{found}\n{self.log()}"
            time.sleep(0.2)
        return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def digests(runs: Path) -> dict[str, bytes]:
    """What the runs of a sweep computed, by the names of their directories and files."""
    names = ("metrics.csv", "evaluations.csv", "parameters.npy")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for name in names for path in runs.glob(f"*/{name}")}


def ask(service: Running, method: str, path: str, token: str | None = None, **more: Any) -> requests.Response:
    headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    return requests.request(method, service.url + path, headers=headers, timeout=60, **more)
