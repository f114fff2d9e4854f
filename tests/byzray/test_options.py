"""Options are found in the files of their package: a new file is all that a new one takes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import byzray
from byzray import datasets, models
from byzray.datasets import DATASETS
from byzray.models import MODELS
from byzray.options import Options, Registry

ROUND = "from shapes._base import Shape\n\n\nclass Circle(Shape):\n    radius: int = 1\n"
SQUARE = """
from shapes._base import Shape
from shapes.round_one import Circle


class _Rectangle(Shape):
    side: int = 2


class Square(_Rectangle):
    inner: Circle = Circle()
"""


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Options]]:
    """Those of a package of two files."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_base.py").write_text("from byzray.options import Options\n\n\nclass Shape(Options):\n    pass\n")
    (folder / "round_one.py").write_text(ROUND)
    (folder / "square.py").write_text(SQUARE)
    (folder / "notes.txt").write_text("no module")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("shape", import_module("shapes._base").Shape, "shapes")
    for name in ["shapes", *(f"shapes.{file}" for file in loaded() | {"_base"})]:
        sys.modules.pop(name)


def loaded() -> set[str]:
    """The files of the package that were imported."""
    return {name.partition(".")[2] for name in sys.modules if name.startswith("shapes.")} - {"_base"}


def test_names_are_those_of_the_files_and_only_the_file_that_is_named_is_imported(shapes: Registry[Options]) -> None:
    assert shapes.names == ["round-one", "square"]
    assert loaded() == set()
    assert shapes.parse({"name": "round-one", "radius": 3}).model_dump() == {"radius": 3}
    assert loaded() == {"round_one"}
    assert [(name, cls.__qualname__) for name, cls in shapes.classes.items()] == [
        ("round-one", "Circle"),
        ("square", "Square"),
    ]
    assert shapes["square"] is shapes.classes["square"]


@pytest.mark.parametrize(
    ("text", "got"), [("from shapes._base import Shape\n", "none"), (ROUND + SQUARE, "Circle, Square")]
)
def test_a_file_without_exactly_one_class_is_refused(
    text: str, got: str, shapes: Registry[Options], tmp_path: Path
) -> None:
    (tmp_path / "shapes/odd.py").write_text(text.replace("from shapes.round_one import Circle\n", ""))
    with pytest.raises(RuntimeError, match=rf"^shapes\.odd: expected one class derived from Shape .*, got {got}$"):
        shapes.parse("odd")


def test_classes_are_exported_by_their_own_names(shapes: Registry[Options]) -> None:
    with pytest.raises(AttributeError, match="module 'shapes' has no attribute '__wrapped__'"):
        shapes.exported("__wrapped__")
    assert loaded() == set()
    assert shapes.exported("Square") is shapes["square"]
    assert shapes.exports == ["Circle", "Square"]
    for name in ("Triangle", "_Rectangle", "square"):
        with pytest.raises(AttributeError, match=f"module 'shapes' has no attribute '{name}'"):
            shapes.exported(name)


def test_what_can_be_imported_is_completed() -> None:
    assert {"MODELS", "MLP", "Model", "WideResNet"} <= set(dir(models))
    assert {"Cifar10", "DATASETS", "Data", "Npz"} <= set(dir(datasets))
    for package in (models, datasets):
        assert all(hasattr(package, name) for name in dir(package))


@pytest.mark.parametrize("name", ["_base", "_trial", "base", "__init__", "wide_resnet", "", "../models/mlp"])
def test_a_file_that_is_no_option_is_no_name(name: str) -> None:
    message = f"there is no model '{name}': .*" r" \(or a class of your own, 'module:Class'\)$"
    with pytest.raises(ValueError, match=message):
        MODELS.parse(name)


@pytest.mark.parametrize("registry", [MODELS, DATASETS])
def test_classes_are_called_as_their_files(registry: Registry[Options]) -> None:
    assert list(registry.classes) == registry.names == sorted(registry.names)
    assert [cls.name for cls in registry.classes.values()] == registry.names
    assert [cls.written() for cls in registry.classes.values()] == registry.names


class Wide(models.MLP):
    pass


class Named(models.MLP):
    name = "a-name-of-its-own"


def test_a_class_of_the_users_own_is_labelled_by_its_class() -> None:
    assert [Wide().label(), Named().label(), models.MLP().label()] == ["Wide", "a-name-of-its-own", "mlp"]
    assert [Wide.written(), Named.written()] == [f"{__name__}:Wide", f"{__name__}:Named"]


def test_a_new_file_changes_no_other(tmp_path: Path) -> None:
    """In a copy of the package: the name, the list, what can be imported, and a run with it."""
    sources = Path(byzray.__file__).parent
    shutil.copytree(sources, tmp_path / "byzray", ignore=shutil.ignore_patterns("__pycache__"))
    text = (sources / "models/full.py").read_text().replace("FullyConnected", "Half").replace("784, 100", "64, 5")
    (tmp_path / "byzray/models/half_full.py").write_text(text.replace("784", "64"))
    code = (
        "from byzray import Setup, simulate\n"
        "from byzray.models import MODELS, Half\n"
        "setup = Setup(model='half-full', steps=1)\n"
        "assert type(setup.model) is Half\n"
        "print(MODELS.names, setup.describe()['model'], setup.model.label(), simulate(setup).parameters.shape)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = sorted([*MODELS.names, "half-full"])
    assert ran.stdout == f"{names} {{'name': 'half-full'}} half-full (385,)\n"
    listing = [sys.executable, "-m", "byzray", "list", "models"]
    ran = subprocess.run(listing, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "\nhalf-full " in ran.stdout
