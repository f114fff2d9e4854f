"""Writes Grafana's dashboards into `dashboards/`: `python docker/grafana/generate_dashboards.py`."""

import json
from pathlib import Path

import run_dashboard
import sweep_dashboard
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = {"sweep": sweep_dashboard.build, "run": run_dashboard.build}
FOLDER = Path(__file__).parent / "dashboards"


def render(dashboard: Dashboard) -> str:
    """A dashboard as JSON, with its panels numbered."""
    model = dashboard.build()
    for number, panel in enumerate(model.panels or [], 1):
        panel.id_val = number
    return json.dumps(model, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> None:
    for name, build in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(render(build()))


if __name__ == "__main__":
    main()
