"""The files of docker/ agree with each other, with pyproject.toml and with the guide; no engine is needed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
GUIDE = (ROOT / "docs/docker.md").read_text()
COMPOSE = (DOCKER / "compose.yaml").read_text()


def locked() -> dict[str, Requirement]:
    lines = [line for line in (DOCKER / "lock.txt").read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    return {requirement.name: requirement for requirement in requirements}


def services() -> dict[str, Any]:
    return YAML(typ="safe").load(COMPOSE)["services"]


def test_the_lock_pins_all_that_byzray_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["optuna"]]:
        asked = Requirement(text)
        (pin,) = locked()[asked.name.replace(".", "-")].specifier
        assert pin.operator == "=="
        assert asked.specifier.contains(pin.version), f"{text}: `make lock` writes docker/lock.txt anew"


def test_the_lock_names_versions_alone() -> None:
    text = (DOCKER / "lock.txt").read_text()
    assert not re.search(r"://|--|@", text), "no place to get a package from belongs into it"
    for name, requirement in locked().items():
        assert [pin.operator for pin in requirement.specifier] == ["=="], name


def test_the_version_of_ray_is_the_same_everywhere() -> None:
    (said,) = re.findall(r"rayVersion: (\S+)", (DOCKER / "kuberay.yaml").read_text())
    assert str(locked()["ray"].specifier) == f"=={said}"


def test_a_cluster_needs_no_image_but_ours() -> None:
    started = {name: service for name, service in services().items() if "profiles" not in service}
    assert sorted(started) == ["head", "init", "worker"]
    assert len({service["image"] for service in started.values()}) == 1
    for name, service in started.items():
        assert set(service.get("depends_on", ())) <= set(started), name
    assert [name for name, service in services().items() if service.get("profiles") == ["monitoring"]] == [
        "prometheus",
        "grafana",
    ]


def test_the_guide_has_every_variable_with_its_default() -> None:
    rows = re.findall(r"^\| (`BYZRAY_[^|]*) \| ([^|]*) \|", GUIDE, re.MULTILINE)
    known: dict[str, str] = {}
    for names, defaults in rows:
        variables, values = re.findall(r"BYZRAY_\w+", names), re.findall(r"`([^`]*)`", defaults)
        known |= dict(zip(variables, values * len(variables) if len(values) == 1 else values or [""] * 9, strict=False))
    used = dict(re.findall(r"\$\{(BYZRAY_\w+):?-([^}]*)\}", COMPOSE))
    assert sorted(known) == sorted(used)
    in_words = {"BYZRAY_DATA", "BYZRAY_TOKEN_FILE", "BYZRAY_TORCH", "BYZRAY_PROMETHEUS_IMAGE", "BYZRAY_GRAFANA_IMAGE"}
    assert {name: known[name] for name in used.keys() - in_words} == {
        name: default for name, default in used.items() if name not in in_words
    }


@pytest.mark.parametrize("name", ["compose.yaml", "cluster.yaml", "kuberay.yaml"])
def test_stack_traces_and_slow_stops_are_enabled_on_every_head(name: str) -> None:
    text = (DOCKER / name).read_text()
    for variable in ("RAY_DASHBOARD_ENABLE_PROFILING", "RAY_JOB_STOP_WAIT_TIME_S"):
        assert variable in text
