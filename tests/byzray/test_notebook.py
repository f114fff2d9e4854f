"""Classes that are typed rather than imported: in a notebook, which is executed here, in `python -c`, in a prompt."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
from byzray import RunExists, Setup, SetupError, simulate

def setup(**fields):
    small = {"dataset": {"name": "npz", "path": %r}, "model": {"name": "mlp", "hidden": [4]}}
    return Setup.model_validate({**small, "steps": 4, "workers": 3, "actors": {}, **fields})
"""

MEAN = """
from byzray.aggregators import Aggregator

class Mean(Aggregator):
    scale: float = 1.0

    def aggregate(self, submissions, f):
        return self.scale * submissions.rows_ND.mean(dim=0) * 1.0
"""

MODEL = """
from torch import nn
from byzray.models import Model

class Net(Model):
    def build(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(5, classes), nn.LogSoftmax(dim=1))
"""

RUN = """
result = simulate(setup(aggregator=Mean(scale=0.5), model=Net()), output="results")
print(result.reused, len(result.metrics), result.directory.name.startswith("npz-Mean-"))
"""

CHANGED = """
try:
    simulate(setup(aggregator=Mean(scale=0.5), model=Net()), output="results")
except RunExists as error:
    print("another content of Mean" in str(error))
"""

ON_ACTORS = """
import actors
try:
    actors.simulate(setup(aggregator="__main__:Mean"))
except SetupError as error:
    print(error)
"""

IN_A_FUNCTION = """
def compare():
    class Half(Mean):
        def aggregate(self, submissions, f):
            return 0.5 * super().aggregate(submissions, f)
    return simulate(setup(aggregator=Half())).parameters, simulate(setup(aggregator=Mean(scale=0.5))).parameters

half, scaled = compare()
print((half == scaled).all())
"""

COMMAND = """
import sys
from pathlib import Path
_ = Path("setup.yaml").write_text(setup(actors=None).yaml())
!{sys.executable} -m byzray run setup.yaml --output by-command > out.txt 2>&1; echo exit $?
"""


def executed(folder: Path, *cells: str) -> list[str]:
    """What the cells of a notebook print, executed by a kernel of this Python in a folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    # A kernel by the name python3 may be another Python's.
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}})
    client.km = client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()
    return [
        "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout").strip()
        for cell in notebook["cells"]
    ]


def test_classes_of_notebook_cells(small_data: Path, tmp_path: Path) -> None:
    cells = (SETUP % str(small_data), MEAN, MODEL, RUN, MEAN, RUN, MEAN.replace("* 1.0", "* 2.0"), CHANGED, ON_ACTORS)
    said = executed(tmp_path, *cells, MEAN, IN_A_FUNCTION, COMMAND)
    assert said[3] == "False 4 True"
    assert said[5] == "True 4 True"  # the same cell, executed again
    assert said[7] == "True"
    assert "aggregator: got '__main__:Mean', expected a class in a module" in said[8]
    assert said[10] == "True"
    assert said[11] == "exit 0", (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize("way", ["-c", "-i"])
def test_classes_of_a_command_and_of_a_prompt(small_data: Path, tmp_path: Path, way: str) -> None:
    code = "\n".join([SETUP % str(small_data), MEAN, MODEL, RUN, RUN]).replace("\n\n    def", "\n    def")
    command = [sys.executable, "-c", code] if way == "-c" else [sys.executable, way]
    ran = subprocess.run(command, input=None if way == "-c" else code, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == ["False 4 True", "True 4 True"], ran.stderr
