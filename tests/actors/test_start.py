"""If Ray cannot start, one message gives the reason and the fix."""

import os
import subprocess
import sys
from pathlib import Path

START = """
import actors
from byzray.mistakes import Failure

try:
    actors.connect(dashboard=False)
    print("started")
except Failure as reason:
    print(reason)
"""


def started(folder: Path, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, cwd=folder, env=variables | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_long_name_of_the_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    expected = f"would be too long below {folder}: set RAY_TMPDIR to a shorter folder, or compute without Ray"
    assert expected in started(tmp_path, TMPDIR=str(folder))


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    found = started(tmp_path, HOME="/proc/nothing")
    if found != "started":  # older releases of Ray have no token
        assert found.startswith("Ray cannot write its token to /proc/nothing/.ray/auth_token ([Errno 2] ")
        assert found.endswith("set HOME to a folder of your own, or compute without Ray (byzray run --in-process)")


def test_a_working_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xe9sultats")
    folder.mkdir()
    assert started(folder).startswith("Ray needs a working folder whose name is UTF-8, got ")
