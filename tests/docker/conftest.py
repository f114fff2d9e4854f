"""The image, built with a real engine. It keeps its tag, so that the next session finds its layers."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "byzray:test"


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips where no Docker engine can be reached."""
    if shutil.which("docker") is None:
        pytest.skip("needs a Docker engine, and the command `docker` to reach it")
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(
            f"needs a Docker engine that runs: {(asked.stderr.strip() or asked.stdout.strip()).splitlines()[-1]}"
        )


@pytest.fixture(scope="session")
def base(engine: None) -> str:
    """The base image that the Dockerfile names."""
    name = re.search(r"^ARG BASE=(\S+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert name is not None
    known = subprocess.run(["docker", "image", "inspect", name[1]], capture_output=True)
    if known.returncode and subprocess.run(["docker", "pull", "--quiet", name[1]], capture_output=True).returncode:
        pytest.skip(f"needs the base image {name[1]}, which is not here and cannot be pulled")
    return name[1]


@pytest.fixture(scope="session")
def torch(base: str) -> dict[str, str]:
    """Which PyTorch is built in: as the Dockerfile says, unless the base image brings a wheel of it along."""
    listing = ["docker", "run", "--rm", base, "sh", "-c", 'ls "${PIP_FIND_LINKS:-/nowhere}" 2>/dev/null || true']
    wheel = re.search(r"^torch-([\d.]+)", subprocess.check_output(listing, text=True), re.MULTILINE)
    return {"TORCH_BACKEND": "", "TORCH": f"torch=={wheel[1]} torchvision"} if wheel else {}


@pytest.fixture(scope="session")
def build(torch: dict[str, str]) -> Callable[[Path, str], None]:
    """A function that builds a context, under a tag."""

    def build(context: Path, tag: str) -> None:
        arguments = [word for name, value in torch.items() for word in ("--build-arg", f"{name}={value}")]
        command = ["docker", "build", "--file", f"{context}/docker/Dockerfile", "--tag", tag, *arguments, str(context)]
        built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert built.returncode == 0, built.stdout[-5000:]

    return build


@pytest.fixture(scope="session")
def image(build: Callable[[Path, str], None]) -> str:
    """Built from the working tree."""
    build(ROOT, IMAGE)
    return IMAGE
