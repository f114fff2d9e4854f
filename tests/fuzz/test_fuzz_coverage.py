"""A short run of atheris on the setup loader; see fuzz_setup.py for longer ones."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_harness import scaled

SCRIPT = Path(__file__).with_name("fuzz_setup.py")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install -e '.[fuzz]'")
def test_atheris(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), f"-runs={scaled(300, 20_000)}", "-seed=1", "-timeout=5", "-verbosity=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
