"""Takes the pictures of the dashboard tour, docs/tour/*.png, while its sweep is computed on the cluster of compose.

Needs `pip install playwright` and a Chromium. In docker/, then, some minutes later, in the folder above it:

    docker compose --profile monitoring up --detach
    BYZRAY_SWEEPS=../docs/tour docker compose run --rm sweep tour.yaml --workers-per-actor 1
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

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from playwright.sync_api import BrowserContext, sync_playwright

HERE = Path(__file__).parent
DASHBOARD = HERE.parents[1] / "docker/grafana/dashboards/sweep.json"
WIDTH = 1100  # about that of a page of the site, so that what is written there can be read
SCALE = 2
PATIENCE = 180.0
MINUTES = 3

# Of the sweep's dashboard, the panels that are drawn.
PANELS = ("Runs by state", "Pace by setup", "Accuracy of the runs under way")


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
    draw_panels(arguments.prometheus)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE, extra_http_headers=headers
        )
        dashboard = arguments.dashboard + "/#"
        picture(context, f"{dashboard}/jobs", "jobs", 560)
        picture(context, f"{dashboard}/jobs/{job}", "job", 1250)
        picture(context, f"{dashboard}/jobs/{job}", "tasks", 700, section="Task Table")
        picture(context, f"{dashboard}/actors", "actors", 900, width=1400)
        picture(context, f"{dashboard}/cluster", "nodes", 860)
        browser.close()


def draw_panels(prometheus: str) -> None:
    """Draw panels of the Grafana dashboard of a sweep from what their own queries return."""
    panels = {panel["title"]: panel for panel in json.loads(DASHBOARD.read_text())["panels"]}
    figure, row = plt.subplots(1, len(PANELS), figsize=(11, 3.6), layout="constrained")
    for title, axes in zip(PANELS, row, strict=True):
        for target in panels[title]["targets"]:
            draw(axes, prometheus, target["expr"].replace("$sweep", ".*"), target["legendFormat"])
        axes.set_title(title, fontsize=11)
    figure.savefig(HERE / "panels.png", dpi=200)


def draw(axes: Axes, prometheus: str, expression: str, legend: str) -> None:
    end = time.time()
    query = {"query": expression, "start": end - 60 * MINUTES, "end": end, "step": 5}
    for series in request(f"{prometheus}/api/v1/query_range?{urlencode(query)}"):
        tags = series["metric"]
        label = re.sub(r"{{ *(\w+) *}}", r"{\1}", legend).format_map(tags)
        minutes = [(at - end) / 60 for at, _ in series["values"]]
        axes.plot(minutes, [float(value) for _, value in series["values"]], label=label)
    axes.set_xlabel("minutes")
    axes.legend(fontsize=8)


def request(url: str) -> list[Any]:
    with urlopen(url, timeout=30) as answer:
        result: list[Any] = json.load(answer)["data"]["result"]
    return result


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


def picture(context: BrowserContext, url: str, name: str, height: int, section: str = "", width: int = WIDTH) -> None:
    """Save what a page shows, or a section of it, by the beginning of its title."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.goto(url)
    page.wait_for_timeout(6000)  # the dashboard asks for its content piece by piece
    if section:
        title = page.get_by_text(re.compile(f"^{section}", re.IGNORECASE)).last
        title.click()
        page.mouse.move(0, 0)  # no tool tip in the picture
        page.wait_for_timeout(3000)
        title.evaluate("element => element.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)
    page.screenshot(path=HERE / f"{name}.png")
    page.close()


if __name__ == "__main__":
    main()
