"""Executes the notebook of the tutorial, and writes the page that shows it with what it prints and draws.

python docs/reference/notebook.py
"""

import base64
import os
import re
import sys
import tempfile
from pathlib import Path
from shutil import copy
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "my-first-study.ipynb"
HEADER = """<!-- Written by docs/reference/notebook.py (make notebook); changes belong into my-first-study.ipynb. -->

"""


def executed(folder: Path) -> NotebookNode:
    """The notebook, executed by a kernel of this Python in `folder`/docs, next to a copy of the setups of examples/."""
    for name in ("docs", "examples"):
        (folder / name).mkdir()
    for path in (ROOT / "examples").glob("*.yaml"):
        copy(path, folder / "examples")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder / "docs")}})
    manager: Any = client.create_kernel_manager()
    # A kernel by the name python3 may be another Python's.
    manager.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.km = manager
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})  # more threads are slower for networks this small
    return notebook


def page(notebook: NotebookNode) -> tuple[str, list[bytes]]:
    """The page, and its figures. What goes to stderr, such as Ray's log, is left out."""
    parts: list[str] = []
    figures: list[bytes] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        shown = [output.data for output in cell.outputs if "data" in output]
        for text in (printed, *(data["text/plain"] for data in shown if "image/png" not in data)):
            parts += [f"```text\n{text.rstrip()}\n```"] if text else []
        for data in shown:
            if "image/png" in data:
                figures.append(base64.b64decode(data["image/png"]))
                parts.append(f"![{cell.metadata.alt}](figures/my-first-study-{len(figures)}.png)")
    return HEADER + "\n\n".join(parts) + "\n", figures


def without_outputs(page: str) -> str:
    """What a page shows of the notebook itself."""
    return re.sub(r"\n```text\n.*?\n```\n|\n!\[.*\]\(figures/my-first-study-\d+\.png\)\n", "", page, flags=re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text, figures = page(executed(Path(folder)))
    NOTEBOOK.with_suffix(".md").write_text(text)
    for number, figure in enumerate(figures, start=1):
        (DOCS / f"figures/my-first-study-{number}.png").write_bytes(figure)


if __name__ == "__main__":
    main()
