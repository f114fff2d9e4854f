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
    above = {"ray", "actors", "sweeps"}
    if path.parent.name == "commands":  # inside their functions
        assert not above & {name.split(".")[0] for name in imports_when_loaded(path, set())}
    else:
        assert not above & set(imported(path))


@pytest.mark.parametrize("path", sorted((ROOT / "actors").glob("*.py")), ids=lambda path: path.stem)
def test_actors_do_not_import_sweeps(path: Path) -> None:
    assert "sweeps" not in imported(path)


def loaded_by(module: str, among: list[str]) -> str:
    """Which of some modules are loaded once another is imported, as Python prints a list."""
    code = f"import sys, {module}; print([name for name in {among} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", ["actors.worker", "byzray.cohort"])
def test_actors_start_without_what_they_do_not_need(module: str) -> None:
    assert loaded_by(module, ["torchvision", "matplotlib", "sklearn", "pandas"]) == "[]"


@pytest.mark.parametrize("module", ["byzray.commands", "byzray.client"])
def test_commands_and_clients_start_without_what_computes(module: str) -> None:
    """So that `byzray ps`, say, and the completion of a shell answer at once."""
    assert loaded_by(module, ["torch", "numpy", "pandas", "ray", "matplotlib", "sklearn"]) == "[]"


def test_a_clone_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """A script one folder above a clone: the folder `byzray` next to it has no modules of its own."""
    (tmp_path / "byzray" / "byzray").mkdir(parents=True)
    (tmp_path / "byzray" / "byzray" / "__init__.py").touch()
    (tmp_path / "script.py").write_text("from byzray import load_setup")
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)


def modules() -> dict[str, Path]:
    """All modules of the three packages, by their dotted names."""
    found = {}
    for package in ("byzray", "actors", "sweeps"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_when_loaded(path: Path, known: set[str]) -> Iterator[str]:
    """The modules that a module imports when it is imported itself: not those in its functions, nor for types."""
    waiting: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.dump(
            getattr(node, "test", node)
        ):
            waiting += [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            waiting += [line for handler in getattr(node, "handlers", []) for line in handler.body]


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {
        name: {one for one in imports_when_loaded(path, set(known)) if one in known} for name, path in known.items()
    }
    for one in graph:
        graph[one].discard(one)
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    assert graph == {}, "these import each other in a circle"
