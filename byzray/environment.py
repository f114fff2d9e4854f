"""Where a run computes, and from what: versions, devices, the files of the user's own that shape its result."""

import hashlib
import inspect
import linecache
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from byzray.datasets import MissingData
from byzray.datasets.npz import Npz
from byzray.options import Options, own_functions
from byzray.setups import Setup
from byzray.splits.file import File

Environment = dict[str, Any]


def environment(device: torch.device) -> Environment:
    """Where a run computes: versions, devices, the source's git commit."""
    packages = ("byzray", "torch", "numpy", "pydantic", "ray", "torchvision", "scikit-learn")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "git": _git_commit(Path(__file__).parent),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache  # a sweep computes many runs in one process
def _git_commit(folder: Path) -> str | None:
    """The commit that `folder` is checked out from, marked if files were changed since; none outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # A package installed inside some other project's checkout must not report that project's commit.
        is_ours = ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name]
        tracked = subprocess.run(is_ours, capture_output=True)
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() if tracked.returncode == 0 and found.returncode == 0 else None


def fingerprints(setup: Setup, root: Path) -> dict[str, str]:
    """The SHA-256 of each file, named by the setup, that may change without the setup changing.

    Args:
        setup: the setup.
        root: the folder that holds data sets.
    """
    return source_digests(setup) | file_digests(setup, root)


def source_digests(setup: Setup) -> dict[str, str]:
    """The SHA-256 of each file that defines a class of the user's own, or of what was typed to define it."""
    named = [one for options in setup.options().values() for one in options]
    classes = [type(one) for one in named if not one.is_builtin()]
    files = {cls: _source(cls) for cls in classes}
    typed = {cls.__qualname__: _typed_digest(cls) for cls, file in files.items() if file is None}
    return _digests(file for file in files.values() if file is not None) | typed


def file_digests(setup: Setup, root: Path) -> dict[str, str]:
    """The SHA-256 of the data set's file and of the split's, where they are the user's own.

    Args:
        setup: the setup.
        root: the folder that holds data sets.
    """
    digests: dict[str, str] = {}
    with suppress(MissingData):  # what is missing is reported when it is needed
        if isinstance(setup.dataset, Npz):
            digests |= _digests([setup.dataset.file(root)])
    with suppress(MissingData):
        if isinstance(setup.split, File):  # the two files may have one name
            digests |= {f"split {name}": digest for name, digest in _digests([setup.split.file(root)]).items()}
    return digests


def _digests(files: Iterable[Path]) -> dict[str, str]:
    digests = {}
    for file in files:
        with suppress(OSError):  # so is what cannot be read
            digests[file.name] = _digest(file)
    return digests


def _source(cls: type[Options]) -> Path | None:
    """The file of a class; none if it was typed into an interpreter or a cell of a notebook."""
    try:
        found = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # the module has no file
        return None
    return Path(found) if found is not None and Path(found).is_file() else None


def _typed_digest(cls: type[Options]) -> str:
    """The SHA-256 of the cells that define a class's functions; where Python does not keep them, of their code."""
    digest = hashlib.sha256()
    for function in own_functions(cls):
        cell = linecache.getlines(function.__code__.co_filename)
        digest.update("".join(cell).encode() if cell else _instructions(function.__code__))
    return digest.hexdigest()


def _instructions(code: CodeType) -> bytes:
    """What compiled code does, whatever line it stood on."""
    parts = [code.co_code, repr((code.co_names, code.co_varnames)).encode()]
    parts += [_instructions(one) if isinstance(one, CodeType) else repr(one).encode() for one in code.co_consts]
    return b"\0".join(parts)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
