"""Processes that are killed at any moment of writing, disks that are full, folders that cannot be written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from byzray import Setup, load_setup, simulate
from byzray.runs.digests import FINAL_FILES

# Runs the setup again and again in forked processes, each killed at a later operation on files, and continues it.
KILLED_EVERYWHERE = '''
import itertools, os, signal, sys
from pathlib import Path

import byzray.report
from byzray import load_setup, simulate
from byzray.runs.checkpoints import CheckpointInterval

byzray.report.save_run_figure = lambda result, folder: None
setup, root = load_setup(sys.argv[1]), Path(sys.argv[2])
CHANGES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "shutil.rmtree"}

def compute(where, last):
    """Compute the run there; die before the operation of that number that changes a file."""
    left = itertools.count(last, -1)
    def watch(event, arguments):
        changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3)
        if changes and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if last >= 0:
        sys.addaudithook(watch)
    simulate(setup, output=where, resume=True, checkpoints=CheckpointInterval(steps=3))

def forked(where, last):
    child = os.fork()
    if not child:
        try:
            compute(where, last)
        except BaseException as error:
            print(f"killed at {last}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

def content(where):
    (directory,) = where.iterdir()
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".csv", ".npy")}

compute(root / "whole", -1)
whole = content(root / "whole")
for number in itertools.count():
    where = root / str(number)
    outcome = forked(where, number)
    if outcome == 0:
        break
    assert outcome == signal.SIGKILL, outcome
    try:
        compute(where, -1)
    except Exception as error:
        raise AssertionError(f"killed before operation {number}, the run cannot be continued") from error
    assert content(where) == whole, f"killed before operation {number}, the continued run is another"
    left = [str(path) for pattern in (".*.*", "checkpoints") for path in where.rglob(pattern)]
    assert not left, f"killed before operation {number}, this was left: {left}"
print(number)
'''


def test_a_run_killed_before_any_operation_on_files_is_continued_exactly(small_setup: Setup, tmp_path: Path) -> None:
    setup = tmp_path / "setup.yaml"
    setup.write_text(small_setup.yaml())
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(setup), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 40  # the tables, four checkpoints, setup, environment, status, parameters


# Runs the command as often as it is asked to, each time in a process forked from this one, which has loaded PyTorch.
FORKING = """
import json, os, resource, sys

import byzray.kernels, byzray.sorting, byzray.report, byzray.simulation
from byzray import commands

for line in sys.stdin:
    arguments, output, limit = json.loads(line)
    child = os.fork()
    if not child:
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["byzray", *arguments]
        commands.main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stderr: str


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Runs a setup without Ray; `limit`: the largest file that can be written, in bytes, as if the disk were full."""
    said = tmp_path_factory.mktemp("said") / "command"
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def call(setup: Path, output: Path, *options: str, limit: int | None = None) -> Ended:
            arguments = ["run", str(setup), "--in-process", "--output", str(output), *options]
            print(json.dumps([arguments, str(said), limit]), file=process.stdin, flush=True)
            return Ended(int(process.stdout.readline()), said.with_suffix(".stderr").read_text())

        yield call
        process.stdin.close()


def same_as_undisturbed(setup: Path, output: Path, tmp_path: Path) -> None:
    (directory,) = output.iterdir()
    whole = simulate(load_setup(setup), output=tmp_path / "whole").directory
    assert whole is not None
    for name in FINAL_FILES:
        if (whole / name).exists():
            assert (directory / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture
def setup_file(small_setup: Setup, tmp_path: Path) -> Path:
    path = tmp_path / "setup.yaml"
    path.write_text(small_setup.changed(steps=100, actors=None).yaml())
    return path


@pytest.mark.parametrize("room", [3_000, 20_000])
def test_a_full_disk_stops_a_run_with_a_message_and_it_goes_on_later(
    run: Command, setup_file: Path, tmp_path: Path, room: int
) -> None:
    failed = run(setup_file, tmp_path / "out", "--checkpoint-every", "12", limit=room)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "cannot be written (File too large). What was saved before is intact" in " ".join(failed.stderr.split())
    again = run(setup_file, tmp_path / "out", "--resume")
    assert again.returncode == 0, again.stderr
    same_as_undisturbed(setup_file, tmp_path / "out", tmp_path)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounts a file system of 200 kB, which needs the right to mount: run the tests as root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_and_then_has_room_again(
    run: Command, setup_file: Path, tmp_path: Path, tiny_disk: Path
) -> None:
    output, ballast = tiny_disk / "out", tiny_disk / "ballast"
    ballast.write_bytes(bytes(170_000))
    failed = run(setup_file, output, "--checkpoint-every", "12")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "No space left on device" in failed.stderr
    ballast.unlink()
    again = run(setup_file, output, "--resume")
    # The figures need more than there is; the run itself is there.
    assert again.returncode in (0, 1)
    assert "Traceback" not in again.stderr
    same_as_undisturbed(setup_file, output, tmp_path)


def test_a_folder_on_a_read_only_disk_is_refused(run: Command, setup_file: Path, tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    refused = run(setup_file, tiny_disk / "out")
    assert refused.returncode == 2
    assert "Read-only file system" in refused.stderr
    assert "Traceback" not in refused.stderr
