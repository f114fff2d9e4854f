"""Checks of this machine: versions, devices, memory and data sets, and how to fix what is missing."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from byzray.data import data_root
from byzray.datasets import DATASETS, Data, MissingData

State = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        state: ok; missing: something optional is not there; warning: runs work, but not as well as they should;
            broken: nothing can run.
        what: what was checked.
        found: what was found.
        fix: how to fix it, empty if nothing is wrong.
    """

    state: State
    what: str
    found: str
    fix: str = ""


def examine(root: str | Path | None = None) -> Iterator[Finding]:
    """Check this machine.

    Args:
        root: the folder that holds data sets, see :func:`byzray.data.data_root`.
    """
    yield Finding("ok", "Python", sys.version.split()[0])
    yield from _packages()
    yield from _devices()
    yield from _memory()
    yield from _data(data_root(root))


def _packages() -> Iterator[Finding]:
    """Check the packages that byzray's metadata requires."""
    for line in metadata.requires("byzray") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("broken", requirement.name, "not installed", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding("ok", requirement.name, found)
        else:
            yield Finding(
                "broken", requirement.name, f"{found}, needs {requirement.specifier}", f"pip install '{line}'"
            )
    try:
        import torchvision  # noqa: F401  its C++ part must match torch's
    except Exception as error:
        fix = "install torch and torchvision from the same index"
        yield Finding("broken", "torchvision", f"cannot be imported: {error}", fix)


def _devices() -> Iterator[Finding]:
    yield Finding("ok", "CPUs", f"{os.cpu_count()}, PyTorch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield Finding("missing", "GPU", "none that PyTorch sees", "not needed: everything runs on CPUs")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield Finding("ok", "memory", f"{total / 2**30:.1f} GiB; a worker actor takes about 0.35 GB")
    except (OSError, ValueError):
        yield Finding("missing", "memory", "unknown on this platform")
    shared = Path("/dev/shm")
    if shared.exists():
        free = shutil.disk_usage(shared).free
        if free < 2**29:
            fix = "in Docker: --shm-size=1g; else Ray's object store falls back to slower files"
            yield Finding("missing", "shared memory", f"{free / 2**20:.0f} MiB free", fix)
        else:
            yield Finding("ok", "shared memory", f"{free / 2**30:.1f} GiB free")
    free = shutil.disk_usage(Path.cwd()).free
    state: State = "ok" if free > 2**30 else "missing"
    yield Finding(state, "disk here", f"{free / 2**30:.1f} GiB free", "" if state == "ok" else "free some space")


def load_all(root: Path) -> Iterator[tuple[str, Data | Exception]]:
    """Load each data set that needs no file of the user's own; yields it, or the error."""
    for name, cls in DATASETS.classes.items():
        if any(field.is_required() for field in cls.model_fields.values()):
            continue
        try:
            yield name, cls().load(root, download=False)
        except Exception as error:  # damage, or torchvision cannot be imported; continue with the others
            yield name, error


def _data(root: Path) -> Iterator[Finding]:
    for name, found in load_all(root):
        what = f"data set {name}"
        if isinstance(found, Data):
            yield Finding("ok", what, f"{len(found.x_train):,} + {len(found.x_test):,} examples")
        else:
            yield Finding("missing", what, _why(found, root), str(found))


def _why(error: Exception, root: Path) -> str:
    if isinstance(error, MissingData):
        return f"not below {root}"
    return "damaged" if isinstance(error, ValueError) else "cannot be read"
