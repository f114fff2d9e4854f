"""Takes the pictures of the dashboard tour, docs/tour/*.png, while a sweep is computed on a cluster.

Needs `pip install playwright`, a Chromium, and a sweep on its way, with one worker an actor:

    docker compose run --rm sweep demo --workers-per-actor 1
    RAY_AUTH_TOKEN=... python docs/tour/screenshots.py
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from playwright.sync_api import BrowserContext, sync_playwright

HERE = Path(__file__).parent
WIDTH = 1500
PATIENCE = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description="pictures of the dashboards")
    parser.add_argument("--dashboard", default="http://127.0.0.1:8265", help="of Ray")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the program")
    arguments = parser.parse_args()
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}

    def ask(path: str) -> Any:
        with urlopen(Request(arguments.dashboard + path, headers=headers), timeout=30) as answer:
            return json.load(answer)

    job = eventually(lambda: running_job(ask))
    eventually(lambda: len(living_workers(ask)) > 1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": WIDTH, "height": 900}, extra_http_headers=headers)
        dashboard = arguments.dashboard + "/#"
        picture(context, f"{dashboard}/jobs", "jobs", 560)
        picture(context, f"{dashboard}/jobs/{job}", "job", 900)
        picture(context, f"{dashboard}/jobs/{job}", "placement-groups", 560, section="Placement Group")
        picture(context, f"{dashboard}/actors", "actors", 900)
        picture(context, f"{dashboard}/cluster", "nodes", 620)
        query = {
            "g0.expr": "max by (setup, seed) (ray_byzray_variance_norm_ratio)",
            "g0.tab": "0",
            "g0.range_input": "5m",
        }
        stranger = browser.new_context()  # the token is none of Prometheus' business
        picture(stranger, f"{arguments.prometheus}/graph?{urlencode(query)}", "prometheus", 900)
        browser.close()


def eventually(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := check()):
        if time.monotonic() > deadline:
            raise SystemExit("no sweep with worker actors is running")
        time.sleep(1)
    return found


def running_job(ask: Callable[[str], Any]) -> str | None:
    running = [job for job in ask("/api/jobs/") if job["status"] == "RUNNING" and job["submission_id"]]
    return running[0]["submission_id"] if running else None


def living_workers(ask: Callable[[str], Any]) -> list[str]:
    query = urlencode({"limit": 1000, "filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"})
    actors = ask(f"/api/v0/actors?{query}")["data"]["result"]["result"]
    return [actor["name"] for actor in actors if ": worker" in (actor["name"] or "")]


def picture(context: BrowserContext, url: str, name: str, height: int, section: str = "") -> None:
    """Save what a page shows, or a section of it, by the beginning of its title."""
    page = context.new_page()
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto(url)
    page.wait_for_timeout(6000)  # the dashboard asks for its content piece by piece
    if section:
        title = page.get_by_text(re.compile(f"^{section}", re.IGNORECASE)).last
        title.click()
        page.wait_for_timeout(3000)
        title.evaluate("element => element.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)
    page.screenshot(path=HERE / f"{name}.png")
    page.close()


if __name__ == "__main__":
    main()
