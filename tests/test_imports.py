"""Imports point one way: sweeps -> actors -> byzray; byzray never imports ray, its commands excepted."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sorted((ROOT / "byzray").rglob("*.py")), ids=lambda path: path.stem)
def test_byzray_imports_neither_ray_nor_what_lies_above_it(path: Path) -> None:
    allowed = {"actors", "sweeps"} if path.parent.name == "commands" else set()
    assert {"ray", "actors", "sweeps"} & set(imported(path)) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "actors").glob("*.py")), ids=lambda path: path.stem)
def test_actors_do_not_import_sweeps(path: Path) -> None:
    assert "sweeps" not in imported(path)


@pytest.mark.parametrize("module", ["actors.worker", "byzray.cohort"])
def test_actors_start_without_what_they_do_not_need(module: str) -> None:
    heavy = ["torchvision", "matplotlib", "sklearn", "pandas"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_a_clone_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """A script one folder above a clone: the folder `byzray` next to it has no modules of its own."""
    (tmp_path / "byzray" / "byzray").mkdir(parents=True)
    (tmp_path / "byzray" / "byzray" / "__init__.py").touch()
    (tmp_path / "script.py").write_text("from byzray import load_setup")
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
