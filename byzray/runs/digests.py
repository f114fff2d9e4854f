"""SHA-256 digests of the files of a run, and their comparison."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from byzray.arrays import LARGEST_VECTOR
from byzray.files import LARGEST_DESCRIPTION, open_plain
from byzray.runs.status import Status
from byzray.runs.table import LARGEST_TABLE

# The results of a finished run; faults.csv only if its setup declares faults.
FINAL_FILES = ("metrics.csv", "evaluations.csv", "faults.csv", "parameters.npy")
NEEDED = ("metrics.csv", "evaluations.csv", "parameters.npy")

# A status holds digests of those of these files that exist.
DIGESTED = (*FINAL_FILES, "setup.yaml", "environment.json")

# The largest files that are read, in bytes.
LARGEST = dict.fromkeys(("metrics.csv", "evaluations.csv", "faults.csv"), LARGEST_TABLE) | {
    "parameters.npy": LARGEST_VECTOR
}


def check_digests(folder: Path, status: Status, names: Collection[str] = DIGESTED) -> None:
    """Compare the files of a run with the digests in its status.

    Args:
        folder: the run's directory.
        status: its status, which has digests if the run is finished, and may have them otherwise.
        names: the files to compare.

    Raises:
        ValueError: one is missing or was changed, or has no digest.
        OSError: one cannot be read.
    """
    known = status.files or {}
    needed = {*known, *NEEDED} if status.state == "finished" else {*known}
    for name in sorted(needed.intersection(names, DIGESTED)):
        if name not in known:
            raise ValueError(f"status.json has no digest of {name}, which every finished run has")
        if digest(folder / name, LARGEST.get(name, LARGEST_DESCRIPTION)) != known[name]:
            was = "" if status.state == "finished" else "was "
            raise ValueError(f"{name} was changed since the run {was}{status.state}")


def digest(path: Path, limit: int | None = None) -> str:
    """The SHA-256 of a plain file.

    Raises:
        OSError: it cannot be read, or has more than `limit` bytes.
    """
    with open_plain(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
