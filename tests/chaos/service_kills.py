"""A service whose processes are killed at random moments, under submissions: what it acknowledged must end, with the
bytes of undisturbed runs.

    python tests/chaos/service_kills.py --times 5 --seed 1 --json RESULTS.json

The targets by turns: the replica that answers, the proxy and the controller of Ray Serve, a sweep's driver, an actor
that computes a run, the queue of sweeps, the service's server, and everything at once, after which the service is
started again. The results are written after each kill, and the same command goes on from there.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from killing import TARGETS, digests, disturbed, undisturbed
from running_service import SWEEP, Running, free_port

from byzray.client import Sweep

KILLED = ("replica", "proxy", "controller", "driver", "trial", "queue", "server", "everything")

YAML = SWEEP % (700, 1)


def submitted_meanwhile(service: Running, ended: threading.Event, name: str, found: list[str]) -> None:
    """Submit sweeps again and again, as others do, and remember which were acknowledged."""
    number = 0
    while not ended.wait(3.0):
        with suppress(Exception):  # it was killed: what counts is what it acknowledged
            number += 1
            found.append(service.client(patience=0).submit(yaml=YAML, name=f"{name}-{number}", seeds="1").id)
        if number == 2:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often each target is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=KILLED)
    parser.add_argument("--json", type=Path, help="where the results are written, and read to go on")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    if given.json is not None and given.json.exists():
        results = json.loads(given.json.read_text())["kills"]
    with tempfile.TemporaryDirectory(prefix="byzray-kills-") as folder:
        expected = undisturbed(YAML, Path(folder))
        service = Running(Path(folder) / "storage", free_port(), ("--num-cpus", "2", "--num-gpus", "0"))
        service.start()
        try:
            calm = service.client().wait(_first(service).id)
            assert calm.state == "finished"
            for number in range(given.times):
                for target in given.targets:
                    if any(one["target"] == target and one["number"] == number for one in results):
                        continue
                    results.append(_kill(service, target, number, given.seed, expected))
                    print(json.dumps(results[-1]), flush=True)
                    if given.json is not None:
                        content = {"commit": _commit(), "seed": given.seed, "kills": results}
                        given.json.write_text(json.dumps(content, indent=1) + "\n")
        finally:
            service.stop()
    _print_table(results)
    sys.exit(any(not one["same"] for one in results))


def _first(service: Running) -> Sweep:
    return service.client().submit(yaml=YAML, name="calm")


def _kill(service: Running, target: str, number: int, seed: int, expected: dict[str, bytes]) -> dict[str, Any]:
    """One kill and its outcome."""
    numbers = random.Random(f"{seed} {target} {number}")
    name = f"{target}-{number}"
    others: list[str] = []
    ended = threading.Event()
    thread = threading.Thread(target=submitted_meanwhile, args=(service, ended, f"{name}-meanwhile", others))
    thread.start()
    problem = ""
    seconds = 0.0
    try:
        sweep, seconds = disturbed(service, YAML, name, target, numbers)
        for one in (sweep.id, *others):
            found = service.wait_for(one, lambda found: found.state in ("finished", "failed"))
            if found.state != "finished":
                problem = f"{one}: {found.state}: {found.why}"
            elif digests(service.storage / "sweeps" / one / "runs") != expected:
                problem = f"{one}: other bytes"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"[:2000]
    ended.set()
    thread.join()
    return {
        "target": target,
        "number": number,
        "sweeps": 1 + len(others),
        "seconds": round(seconds, 1),
        "same": not problem,
        "problem": problem,
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return found.stdout.strip()


def _print_table(results: list[dict[str, Any]]) -> None:
    by_target: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in results:
        by_target[one["target"]].append(one)
    print(f"{'target':<12}{'kills':>6}{'sweeps':>8}{'as undisturbed':>16}{'seconds, most':>15}")
    for target, kills in by_target.items():
        sweeps, same = sum(one["sweeps"] for one in kills), sum(one["same"] for one in kills)
        print(f"{target:<12}{len(kills):>6}{sweeps:>8}{same:>16}{max(one['seconds'] for one in kills):>15.1f}")


if __name__ == "__main__":
    main()
