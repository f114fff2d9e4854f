"""Records, tokens and states, without a service."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from byzray.client.models import Counts, Submission
from byzray.mistakes import WrongInput
from sweeps.service.answers import SILENT_SECONDS, state_of
from sweeps.service.progress import Ended, Report
from sweeps.service.records import Record, Records
from sweeps.service.tokens import Tokens


def record(**changes: object) -> Record:
    content = {"id": "x-0123456789", "owner": "alice", "submission": Submission(sweep="demo"), "name": "x", "runs": 4}
    return Record.model_validate({**content, "submitted": datetime.now(UTC), **changes})


def report(**changes: object) -> Report:
    return Report.model_validate({"round": 0, "updated": time.time(), "runs": Counts(total=4, waiting=4), **changes})


@pytest.mark.parametrize(
    ("changes", "last", "driven", "expected"),
    [
        ({}, None, False, "starting"),
        ({}, None, True, "starting"),
        ({}, {}, True, "waiting"),
        ({}, {"runs": Counts(total=4, running=1, waiting=3)}, True, "running"),
        ({}, {"runs": Counts(total=4, running=1, waiting=3)}, False, "starting"),  # its driver was killed
        ({}, {"stuck": True, "why": "no room"}, True, "stuck"),
        ({}, {"updated": time.time() - SILENT_SECONDS - 1}, True, "stuck"),
        ({}, {"ended": Ended(complete=True)}, False, "finished"),
        ({}, {"ended": Ended(complete=False, why="broken")}, False, "failed"),
        ({}, {"ended": Ended(complete=False, again=True)}, False, "starting"),
        ({"round": 1}, {"ended": Ended(complete=False)}, False, "starting"),  # it was resumed since
        ({"asked": "pause"}, {}, True, "stopping"),
        ({"asked": "pause"}, {}, False, "paused"),
        ({"asked": "cancel"}, {"ended": Ended(complete=False, again=True)}, False, "cancelled"),
        ({"asked": "cancel"}, {"ended": Ended(complete=True)}, False, "finished"),  # it ended before
        ({"asked": "cancel"}, {"ended": Ended(complete=False, why="broken")}, False, "cancelled"),
    ],
)
def test_states(changes: dict[str, object], last: dict[str, object] | None, driven: bool, expected: str) -> None:
    assert state_of(record(**changes), None if last is None else report(**last), driven)[0] == expected


def test_records(tmp_path: Path) -> None:
    records = Records(tmp_path / "sweeps")
    assert records.all() == []
    first = records.add(record())
    assert records.add(record(owner="bob")) == first  # the first one stays
    second = records.add(record(id="y-0123456789", submitted=datetime(2020, 1, 1, tzinfo=UTC)))
    assert [one.id for one in Records(tmp_path / "sweeps").all()] == [first.id, second.id]
    assert records.change(first.id, asked="cancel", round=2) == records.get(first.id)
    assert records.change("z-0123456789", asked="cancel") is None
    for name in ("../x-0123456789", "x", "", ".", "x-0123456789/..", "X-0123456789", "x-0123456789\n"):
        assert records.get(name) is None
    (tmp_path / "sweeps" / second.id / "service.json").write_text("{")
    assert [one.id for one in records.all()] == [first.id]
    records.delete(first.id)
    assert not (tmp_path / "sweeps" / first.id).exists()
    (tmp_path / "sweeps" / ".w-0123456789.deleted").mkdir()
    records.tidy()
    assert [path.name for path in (tmp_path / "sweeps").iterdir() if path.name.endswith(".deleted")] == []


def test_tokens(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    alice, root = tokens.add("alice"), tokens.add("root", admin=True)
    assert len({alice, root}) == 2
    other = Tokens(tmp_path)
    assert other.caller(alice) is not None
    assert [found.admin for text in (alice, root) if (found := other.caller(text))] == [False, True]
    assert other.caller("") is None
    assert other.caller(alice + "x") is None
    with pytest.raises(WrongInput, match="alice has a token"):
        tokens.add("alice")
    with pytest.raises(WrongInput, match="expected up to 64 letters"):
        tokens.add("a b")
    tokens.remove("alice")
    assert other.caller(alice) is None  # the file is read again
    with pytest.raises(WrongInput, match="expected one of root"):
        tokens.remove("alice")
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(WrongInput, match="nobody is let in"):
        other.all()
