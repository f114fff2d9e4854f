"""How fair a service is to its owners, and what many readers cost it.

    python benchmarks/service.py fairness --json docs/benchmarks/service.json
    python benchmarks/service.py load --minutes 5 --json docs/benchmarks/service.json

Fairness: two owners with sixty runs each on two CPUs; how many runs of each are done when sixty are done in all, and
how long a third owner's sweep, submitted while they compute, waits for its first run.

Load: twenty sweeps, of which one computes; fifty watch it, and twenty requests a second ask for lists, sweeps and runs.
Errors, times, the memory of the service's processes, and the steps/s of the sweep with and without all that, by turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import requests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))

from running_service import Running, free_port  # type: ignore[import-not-found]  # found at run time, above

from byzray.client import Client
from byzray.environment import environment
from byzray.files import write_atomically

SETUP = "{dataset: digits, workers: 7, byzantine: 2, attack: little, aggregator: median, evaluation_interval: 100, "
SETUP += "steps: %d}"

WATCHERS, REQUESTS_PER_SECOND, SWEEPS = 50, 20, 20


@contextmanager
def serving(folder: Path) -> Iterator[Running]:
    """A service on two CPUs."""
    service = Running(folder / "storage", free_port(), ("--num-cpus", "2", "--num-gpus", "0"))
    service.start()
    try:
        yield service
    finally:
        service.stop()


def fairness(service: Running, steps: int, runs: int) -> dict[str, Any]:
    """Two owners from the start, a third one later."""
    clients = {}
    for name in ("alice", "bob", "carol"):
        command = [sys.executable, "-m", "byzray", "service", "token", "add", name, "--storage", str(service.storage)]
        token = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        clients[name] = service.client(token)
    yaml = SETUP % steps
    sweeps = {name: clients[name].submit(yaml=yaml, name=name, seeds=f"1-{runs}").id for name in ("alice", "bob")}
    done = dict.fromkeys(sweeps, 0)
    at_half: dict[str, int] | None = None
    third: dict[str, Any] = {}
    while min(done.values()) < runs:
        found = {name: clients[name].sweep(sweep) for name, sweep in sweeps.items()}
        done = {name: found[name].runs.done for name in ("alice", "bob")}
        total = sum(done.values())
        if at_half is None and total >= runs:
            at_half = dict(done)
        if at_half is not None and "carol" not in sweeps:
            sweeps["carol"] = clients["carol"].submit(yaml=yaml, name="carol", seeds="1-4").id
            third["submitted"] = time.monotonic()
        if "carol" in found and "seconds" not in third and found["carol"].runs.running:
            third["seconds"] = round(time.monotonic() - third["submitted"], 1)
        time.sleep(0.1)
    seconds = [run.seconds for run in clients["alice"].runs(sweeps["alice"]) if run.seconds is not None]
    each = round(statistics.fmean(seconds), 1)
    return {
        "runs": runs,
        "done when half were": at_half,
        "third began after, s": third["seconds"],
        "a run takes, s": each,
    }


def load(service: Running, minutes: float, steps: int) -> dict[str, Any]:
    """Readers and a sweep, by turns with the sweep alone."""
    client = service.client()
    for number in range(SWEEPS - 1):
        client.submit(yaml=SETUP % 5, name=f"listed-{number}")
    for sweep in list(client.sweeps()):
        client.wait(sweep.id)
    numbers = count()
    paces: dict[str, list[float]] = {"alone": [], "with readers": []}
    latencies: list[float] = []
    errors: list[str] = []
    memory = [_memory(service)]
    turns = max(1, round(minutes))
    for _ in range(turns):
        paces["alone"].append(_pace(client, steps, next(numbers)))
        with _readers(service, latencies, errors):
            began = time.monotonic()
            while time.monotonic() - began < 60 * minutes / turns:
                paces["with readers"].append(_pace(client, steps, next(numbers)))
        memory.append(_memory(service))
    latencies.sort()
    return {
        "requests": len(latencies),
        "errors": len(errors),
        "first error": errors[0] if errors else "",
        "p50, ms": round(1000 * latencies[len(latencies) // 2]),
        "p99, ms": round(1000 * latencies[int(len(latencies) * 0.99)]),
        "MiB": memory,
        "seconds of a sweep alone": [round(one, 1) for one in paces["alone"]],
        "seconds with readers": [round(one, 1) for one in paces["with readers"]],
        "slower by": round(statistics.median(paces["with readers"]) / statistics.median(paces["alone"]) - 1, 3),
    }


def _pace(client: Client, steps: int, number: int) -> float:
    """How long a sweep of six runs takes from its first step on."""
    sweep = client.submit(yaml=SETUP % steps, name=f"computing-{number}", seeds="1-6")
    began = 0.0
    while (found := client.sweep(sweep.id)).state not in ("finished", "failed") and found.runs.done < 6:
        if not began and found.runs.running:
            began = time.monotonic()
        time.sleep(0.25)
    took = time.monotonic() - began
    client.wait(sweep.id)
    return took


def _memory(service: Running) -> dict[str, int]:
    """The resident memory of the service's processes by their kind, in MiB."""
    kinds = {"replica": "ray::ServeReplica", "proxy": "ray::ProxyActor", "controller": "ray::ServeController"}
    found = {}
    for kind, words in kinds.items():
        processes: list[psutil.Process] = service.find(words)
        found[kind] = sum(process.memory_info().rss for process in processes) // 2**20
    return found


@contextmanager
def _readers(service: Running, latencies: list[float], errors: list[str]) -> Iterator[None]:
    """Watchers, and requests at a fixed rate, in threads."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                newest = requests.get(f"{service.url}/v1/sweeps?limit=1", timeout=60).json()["items"][0]["id"]
                with requests.get(f"{service.url}/v1/sweeps/{newest}/events", stream=True, timeout=60) as answer:
                    answer.raise_for_status()
                    for _ in answer.iter_lines():
                        if ended.is_set():
                            return
                ended.wait(1)
            except requests.RequestException as error:
                errors.append(f"watching: {error}")

    def ask(path: str) -> None:
        began = time.monotonic()
        try:
            answer = requests.get(f"{service.url}{path}", timeout=60)
            if answer.status_code != 200:
                errors.append(f"{path}: {answer.status_code}")
            latencies.append(time.monotonic() - began)
        except requests.RequestException as error:
            errors.append(f"{path}: {error}")

    def asks(first: int) -> None:
        """Two requests a second."""
        sweep = requests.get(f"{service.url}/v1/sweeps?limit=1", timeout=60).json()["items"][0]["id"]
        paths = ["/v1/sweeps", f"/v1/sweeps/{sweep}", f"/v1/sweeps/{sweep}/runs", "/v1/cluster"]
        due = time.monotonic()
        for number in count(first):
            if ended.is_set():
                return
            ask(paths[number % len(paths)])
            due += 0.5
            ended.wait(max(0.0, due - time.monotonic()))

    targets: list[Callable[[], None]] = [watch] * WATCHERS
    threads = [threading.Thread(target=target) for target in targets]
    threads += [threading.Thread(target=asks, args=(number,)) for number in range(REQUESTS_PER_SECOND // 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fairness", "load"))
    parser.add_argument("--runs", type=int, default=60, help="of each owner")
    parser.add_argument("--steps", type=int, default=3000, help="of a run")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the load")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="byzray-service-") as folder, serving(Path(folder)) as service:
        if given.what == "fairness":
            found = fairness(service, given.steps, given.runs)
        else:
            found = load(service, given.minutes, given.steps)
    print(json.dumps(found, indent=2))
    if given.json is not None:
        known = json.loads(given.json.read_text()) if given.json.exists() else {}
        import torch

        known |= {given.what: found, "environment": environment(torch.device("cpu"))}
        write_atomically(given.json, lambda path: _write(path, json.dumps(known, indent=1) + "\n"))


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
