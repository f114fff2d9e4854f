"""What Ray's workers import: installed modules before modules of the same name in the user's folder.

Ray puts the driver's script folder and its working folder first on the `sys.path` of its workers. An `actors.py` or a
`pandas.py` there would be imported by actors instead of the installed one.
"""

import os
import pkgutil
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def worker_environment(address: str | None) -> dict[str, Any] | None:
    """The runtime environment of a driver's job: None, unless its folders hold names of installed modules.

    With a runtime environment Ray cannot use the workers that it has prestarted.

    Args:
        address: of the cluster; a client's server (``ray://``) starts the driver in a folder of its own.
    """
    client = (address or os.environ.get("RAY_ADDRESS") or "").startswith("ray://")
    return {"worker_process_setup_hook": _installed_first()} if not client and shadowing() else None


def shadowing() -> list[str]:
    """The modules in the driver's folders that would shadow installed ones in Ray's workers."""
    found = []
    for folder in {Path.cwd(), Path(sys.argv[0]).resolve().parent}:
        others = [entry for entry in sys.path if Path(entry).resolve() != folder]
        names = [module.name for module in pkgutil.iter_modules([str(folder)])]
        found += [name for name in names if PathFinder.find_spec(name, others) is not None]
    return sorted(found)


def _installed_first() -> Callable[[], None]:
    """A function for workers to call before Ray puts the driver's folders first.

    It is defined inside a function so that Ray sends it by value, even to nodes without byzray.
    """

    def installed_first() -> None:
        import sys
        from importlib.machinery import ModuleSpec, PathFinder

        installed = list(sys.path)

        class InstalledFirst:
            @staticmethod
            def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
                return PathFinder.find_spec(name, installed) if path is None else None

        sys.meta_path.insert(sys.meta_path.index(PathFinder), InstalledFirst)

    return installed_first
