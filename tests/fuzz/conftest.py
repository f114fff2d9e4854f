"""What the tests on hostile input share: their helpers can be imported, and a table of all cases ends the session."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_harness


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not fuzz_harness.COUNTS:
        return
    terminalreporter.section(f"hostile input (seed {fuzz_harness.SEED}; BYZRAY_CHAOS=1 for all)")
    terminalreporter.write_line(f"{'kind':<36}{'cases':>8}{'accepted':>10}{'refused':>9}{'slowest':>10}")
    for kind, one in fuzz_harness.COUNTS.items():
        line = f"{kind:<36}{one.cases:>8}{one.accepted:>10}{one.refused:>9}{one.slowest:>8.2f} s"
        terminalreporter.write_line(line)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a small `small.npz`, where no data sets are known."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 3, 30)
    np.savez(tmp_path / "small.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYZRAY_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path
