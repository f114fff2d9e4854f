"""What the user's plotting environment says or breaks: no figure is another for it, and no run fails."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from byzray import Setup, Update, load_setup, simulate
from byzray.report import write_report
from byzray.report.run import save_run_figure

pytestmark = pytest.mark.usefixtures("figures")

# Of a notebook's kernel, whose backend a subprocess may not have; of a user with LaTeX, on a machine without; broken.
MATPLOTLIBRC = {
    "inline": (b"text.usetex: True\nfigure.figsize: 1, 1\nsavefig.bbox: tight\n", "module://matplotlib_inline.backend"),
    "broken": (b"font.size: 40\n# \xff\n", "nonsense"),
}


@pytest.fixture(scope="module")
def setup_file(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("setup") / "setup.yaml"
    setup = {"dataset": {"name": "npz", "path": str(small_data)}, "model": {"name": "mlp", "hidden": [4]}, "steps": 3}
    path.write_text(json.dumps({**setup, "workers": 5, "byzantine": 1, "aggregator": "median", "attack": "little"}))
    return path


@pytest.fixture(scope="module")
def undisturbed(setup_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("undisturbed")
    save_run_figure(simulate(load_setup(setup_file)), directory)
    return (directory / "accuracy.svg").read_bytes()


@pytest.mark.parametrize("kind", MATPLOTLIBRC)
def test_a_plotting_environment_changes_no_figure(
    kind: str, setup_file: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    settings, backend = MATPLOTLIBRC[kind]
    (tmp_path / "matplotlibrc").write_bytes(settings)
    command = [sys.executable, "-m", "byzray", "run", str(setup_file), "--in-process", "--output", "out"]
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no figure" not in done.stderr
    (directory,) = (tmp_path / "out").iterdir()
    assert (directory / "accuracy.svg").read_bytes() == undisturbed


@pytest.fixture
def usetex() -> Iterator[None]:
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": True, "font.size": 30}):
        yield
        assert matplotlib.rcParams["text.usetex"]  # what the user set is left as it is


@pytest.mark.usefixtures("usetex")
def test_settings_of_the_users_own_program_change_no_figure(
    setup_file: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    directory = simulate(load_setup(setup_file), output=tmp_path).directory
    assert directory is not None
    assert (directory / "accuracy.svg").read_bytes() == undisturbed
    assert not any("cannot be drawn" in line for line in write_report(tmp_path).summary)


def test_a_figure_that_fails_is_one_line_and_is_drawn_later(small_setup: Setup, tmp_path: Path) -> None:
    events: list[str] = []

    def obstruct(update: Update) -> None:
        events.extend(update.events)
        (directory,) = tmp_path.iterdir()
        (directory / "accuracy.png").mkdir(exist_ok=True)

    result = simulate(small_setup, output=tmp_path, progress=obstruct)
    assert result.directory is not None
    assert json.loads((result.directory / "status.json").read_text())["state"] == "finished"
    assert (result.directory / "parameters.npy").exists()
    (event,) = events
    assert event.startswith("no figure: IsADirectoryError")
    assert event in (result.directory / "log.txt").read_text()
    assert not (result.directory / "accuracy.svg").exists()
    # Once nothing is in the way, the same call draws it, and computes nothing.
    (result.directory / "accuracy.png").rmdir()
    assert simulate(small_setup, output=tmp_path).reused
    assert (result.directory / "accuracy.png").is_file()
    assert (result.directory / "accuracy.svg").is_file()


WITHOUT = """
import sys
sys.modules["matplotlib"] = None  # an import of it fails
from byzray import load_setup
from byzray.recording.loop import recorded
from byzray.report import write_report
from byzray.data import load_data
from byzray.simulation import LocalSimulation
setup = load_setup(sys.argv[1], {"actors": None})
for figure in (False, True):
    start = lambda: LocalSimulation(setup, load_data(setup))
    updates = recorded(setup, start, fingerprints={}, output="runs", figure=figure)
    print([event for update in updates for event in update.events])
print(*write_report("runs").summary, sep="\\n")
"""


def test_runs_and_reports_do_without_matplotlib(setup_file: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WITHOUT, str(setup_file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without_figure, with_figure, *summary = done.stdout.splitlines()
    assert without_figure == "[]"
    assert "no figure: ModuleNotFoundError: " in with_figure
    assert "1 runs of 1 setups: 1 finished" in summary[0]
    assert any(line.startswith("note: the panels cannot be drawn (") for line in summary)
    assert (tmp_path / "runs" / "report" / "index.html").exists()
