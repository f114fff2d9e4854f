"""The Triton kernels without a GPU, by Triton's own interpreter, which has to be chosen before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_kernels_compute_what_pytorch_does() -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA on Linux")
    script = Path(__file__).with_name("gpu_kernels_interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
