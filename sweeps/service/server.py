"""The server of a service: a process that starts a Serve application on a Ray cluster, and checks that it answers.

    python -m sweeps.service.server STORAGE ADDRESS

See :mod:`sweeps.service.supervisor`, which starts it, and starts it again when it ends by itself.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from ray import serve
from ray.exceptions import RayError

from actors import FleetError, connect
from sweeps.service.app import build
from sweeps.service.drivers import LIVE, jobs_client
from sweeps.service.settings import Settings
from sweeps.service.storage import ask_to_stop, digest_of, read_settings

# So many requests at a time; most of them watch a sweep and wait.
MOST_REQUESTS = 2000

# How often the service is asked whether it answers, and for how long it may not, in seconds.
CHECK_SECONDS, PATIENCE_SECONDS = 2.0, 60.0

# How long drivers have to save their runs when the service ends, in seconds.
STOP_SECONDS = 60.0


def application(settings: Settings) -> str:
    """The name of the service's application."""
    return f"byzray-{digest_of(settings.storage)}"


def deploy(settings: Settings) -> None:
    """Start the application on the cluster that Ray is connected to."""
    serve.start(http_options={"host": settings.host, "port": settings.port, "location": "HeadOnly"})
    deployed = serve.deployment(
        name="service",
        num_replicas=1,
        max_ongoing_requests=MOST_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5,
        health_check_period_s=5,
        health_check_timeout_s=30,
    )
    ingress = serve.ingress(lambda: build(settings))(type("Service", (), {}))
    # Another service on this cluster has another name, and Ray Serve refuses two with one prefix.
    serve.run(deployed(ingress).bind(), name=application(settings), route_prefix="/")


def answers(settings: Settings) -> bool:
    """Whether the service answers."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    try:
        with build_opener(ProxyHandler({})).open(f"http://{host}:{settings.port}/v1/health", timeout=10) as answer:
            return answer.status == 200
    except (URLError, OSError, ValueError):
        return False


def run(settings: Settings, address: str) -> int:
    """Serve until SIGTERM arrives; returns an exit code, which is 1 if the service is lost."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    try:
        connect(address, output=False)
    except FleetError as error:
        print(f"byzray: {error}", file=sys.stderr)
        return 1
    ask_to_stop(settings, False)
    deploy(settings)
    print(f"byzray: serves on http://{settings.host}:{settings.port}, storage {settings.storage}", flush=True)
    heard = time.monotonic()
    while not ended.wait(CHECK_SECONDS):
        if answers(settings):
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE_SECONDS:
            print("byzray: the service does not answer any more", file=sys.stderr, flush=True)
            return 1
    print("byzray: saving the runs in progress", flush=True)
    ask_to_stop(settings)
    _wait_for_drivers(settings)
    serve.delete(application(settings))
    return 0


def _wait_for_drivers(settings: Settings) -> None:
    began = time.monotonic()
    try:
        client = jobs_client()
        while time.monotonic() - began < STOP_SECONDS:
            live = [job.metadata or {} for job in client.list_jobs() if job.status in LIVE]
            if not any(one.get("byzray", "").startswith(f"{digest_of(settings.storage)}/") for one in live):
                return
            time.sleep(0.5)
    except (RayError, RuntimeError, OSError):  # the cluster is gone
        return


def main(storage: str, address: str) -> None:
    """The entry point."""
    settings = read_settings(Path(storage))
    code = run(settings, address)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray's threads may keep a process that has lost its cluster


if __name__ == "__main__":
    main(*sys.argv[1:])
