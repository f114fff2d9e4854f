"""A remote storage, here a folder that is spoken to through pyarrow."""

from pathlib import Path

import pytest

from sweeps.storage import Storage


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    (folder / "runs" / "one" / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/7-a.safetensors", "metrics.csv", "status.json"):
        (folder / "runs" / "one" / name).write_text(f"old {name}")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_lost_by_sending_a_part(there: Path) -> None:
    before = files(there)
    with Storage(there.as_uri()) as storage:
        storage.pull("runs/one/status.json")
        assert files(storage.folder) == {"runs/one/status.json": "old status.json"}
        (storage.runs / "one" / "status.json").write_text("new")
        storage.push("runs/one")
    assert files(there) == {**before, "runs/one/status.json": "new"}


def test_only_what_is_named_and_gone_here_is_removed(there: Path) -> None:
    with Storage(there.as_uri()) as storage:
        storage.pull("runs/one")
        (storage.runs / "one" / "checkpoints" / "7-a.safetensors").unlink()
        storage.remove("runs/one/checkpoints", "runs/one/metrics.csv")
    assert set(files(there)) == {"runs/one/metrics.csv", "runs/one/status.json"}


def test_the_status_is_sent_last_and_the_checkpoint_before_it(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    with Storage(there.as_uri()) as storage:
        storage.pull("runs/one")
        monkeypatch.setattr(storage, "_send", lambda file: sent.append(file.name))
        storage.push("runs/one")
    assert sent == ["metrics.csv", "7-a.safetensors", "status.json"]


def test_a_file_that_could_not_be_fetched_leaves_no_half(there: Path) -> None:
    with Storage(there.as_uri()) as storage:
        broken = there / "runs" / "one" / "nothing"
        broken.symlink_to(there / "nowhere")
        with pytest.raises(OSError, match=r"nowhere|nothing"):
            storage._fetch(str(broken))
        assert list(storage.folder.rglob("*nothing*")) == []


def test_put_aside_keeps_everything(there: Path) -> None:
    before = files(there / "runs" / "one")
    with Storage(there.as_uri()) as storage:
        storage.pull("runs")
        storage.put_aside("one")
        assert not (storage.runs / "one").exists()
    (replaced,) = (there / "replaced").iterdir()
    assert files(replaced) == before
    assert files(there / "runs") == {}


@pytest.mark.parametrize("remote", [False, True])
def test_actors_are_asked_to_stop(tmp_path: Path, remote: bool) -> None:
    (tmp_path / "place").mkdir()
    where = (tmp_path / "place").as_uri() if remote else str(tmp_path / "place")
    with Storage(where) as driver, Storage(where) as actor:
        assert not actor.stop_asked()
        driver.ask_to_stop()
        assert actor.stop_asked()
        driver.ask_to_stop(False)
        assert not actor.stop_asked()
        driver.ask_to_stop(False)  # nothing to take back


def test_what_is_no_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="this is a file"):
        Storage(str(tmp_path / "file"))
    with pytest.raises(ValueError, match="expected a folder, or a URI that pyarrow understands"):
        Storage("nowhere://bucket/prefix")


def test_messages_show_no_options_of_a_uri(tmp_path: Path) -> None:
    with Storage("s3://key:secret@bucket/prefix?endpoint_override=127.0.0.1:1&scheme=http") as storage:
        assert "endpoint" not in storage.shown
        assert "secret" not in storage.shown
        assert storage.filesystem is not None
        assert storage.path == "bucket/prefix"
