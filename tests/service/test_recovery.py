"""Processes of a service are killed while it computes; `tests/chaos/service_kills.py` does so at random moments."""

from pathlib import Path

import pytest
from killing import digests, finished, kill, undisturbed
from running_service import SWEEP, Running

YAML = SWEEP % (700, 1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(YAML, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "targets", [("driver", "replica"), pytest.param(("everything",), marks=pytest.mark.chaos)], ids="-".join
)
def test_what_was_acknowledged_ends_as_if_nothing_had_happened(
    service: Running, expected: dict[str, bytes], targets: tuple[str, ...], tmp_path: Path
) -> None:
    sweep = service.client().submit(yaml=YAML, name=f"killed-{targets[0]}")
    service.wait_for(sweep.id, lambda found: found.runs.running > 0)
    late = service.client().submit(yaml=YAML, name=f"late-{targets[0]}")
    before = finished(service, sweep.id)
    for target in targets:
        assert kill(service, target)
    for one in (sweep, late):
        assert service.wait_for(one.id, lambda found: found.state in ("finished", "failed")).state == "finished"
        assert digests(service.storage / "sweeps" / one.id / "runs") == expected
    after = finished(service, sweep.id)
    assert {run: after[run] for run in before} == before  # none was computed again
