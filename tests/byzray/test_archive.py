"""Archives of runs, and the intervals of the paper's claims."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

import byzray
from byzray import Setup, commands
from byzray.mistakes import WrongInput
from byzray.report.archive import OPTIONAL, SCHEMA, TEXTS, add_to_archive, names_in, read_archive
from byzray.report.collect import collect
from byzray.report.paper.intervals import share_interval
from byzray.runs.directory import RunDirectory
from sweeps.definition import load_sweep
from sweeps.grid import SweepError
from sweeps.plan import make_plan
from sweeps.storage import Storage


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """Both placements and the reference, one seed; and a run that was interrupted."""
    folder = tmp_path_factory.mktemp("archived")
    common: dict[str, Any] = {
        "dataset": {"name": "npz", "path": str(small_data)},
        "model": {"name": "mlp", "hidden": [4]},
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 0.1,
        "evaluation_interval": 3,
        "study": {"past": 3},
    }
    attacked = {"workers": 7, "byzantine": 2, "attack": "little", "aggregator": "median"}
    setups = [{"workers": 5, "byzantine": 0, "aggregator": "average"}]
    setups += [{**attacked, "momentum": {"placement": placement}} for placement in ("update", "worker")]
    for content in setups:
        byzray.simulate(Setup.model_validate(common | content), seed=1, output=folder / "runs")
    setup = Setup.model_validate(common | attacked | {"attack": "empire"})
    with pytest.raises(byzray.Interrupted):
        byzray.simulate(setup, seed=1, output=folder / "runs", progress=lambda _: True)
    return folder


def opened(path: Path) -> pd.DataFrame:
    """The rows of an archive, to be changed."""
    return pyarrow.parquet.read_table(path).to_pandas().astype(dict.fromkeys(TEXTS, object))


def command(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["byzray", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.main()
    return int(ended.value.code or 0)


@pytest.fixture
def archive(results: Path, tmp_path: Path) -> Path:
    path = tmp_path / "kept.parquet"
    assert add_to_archive(path, collect(results).runs) == (3, 3)
    return path


def test_an_archive_holds_what_a_report_needs_of_complete_runs(results: Path, archive: Path) -> None:
    of_folder, of_archive = byzray.load_runs(results), byzray.load_runs(archive)
    of_folder = of_folder[of_folder["state"] == "finished"].sort_values("run", ignore_index=True)
    assert len(of_archive) == 3
    own = ["ratio_steps", "bound_met_steps"]  # counted where runs were evaluated, at 4 of 12 steps
    pd.testing.assert_frame_equal(of_archive.drop(columns=own), of_folder.drop(columns=own))
    assert set(of_archive["ratio_steps"]) == {0, 4}
    assert set(of_folder["ratio_steps"]) == {0, 12}
    table = pyarrow.parquet.read_table(archive)
    assert (table.num_rows, table.schema.names) == (3 * 5, SCHEMA.names)
    for run in read_archive(archive, "").runs:
        assert (
            run.digests["parameters.npy"]
            == json.loads((results / "runs" / run.name / "status.json").read_text())["files"]["parameters.npy"]
        )
        assert run.environment["packages"]["byzray"] == byzray.__version__


def test_what_is_in_an_archive_stays_as_it_is(results: Path, archive: Path) -> None:
    before = archive.read_bytes()
    assert add_to_archive(archive, collect(results).runs) == (0, 3)
    assert archive.read_bytes() == before
    whole = collect(results).runs
    path = archive.with_name("in-portions.parquet")
    assert [add_to_archive(path, whole[:2]), add_to_archive(path, whole)] == [(1, 1), (2, 3)]
    pd.testing.assert_frame_equal(byzray.load_runs(path), byzray.load_runs(archive))


def test_the_report_of_an_archive_is_that_of_its_runs(
    results: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("report", str(archive)) == 0
    of_archive = capsys.readouterr().out.splitlines()
    assert of_archive[-1] == f"page: {archive.with_suffix('')}-report/index.html"
    assert "3 runs of 3 setups: 3 finished" in of_archive[0]
    page = Path(of_archive[-1].removeprefix("page: ")).read_text()
    assert "95 % interval" in page or "In no decided pair" in page
    other = archive.with_name("other.parquet")
    assert command("report", str(results), "--archive", str(other)) == 0
    of_folder = capsys.readouterr().out.splitlines()
    assert of_folder[-1] == f"{other}: 3 runs added, 3 in it"
    claims = slice(1, of_archive.index(next(line for line in of_archive if line.startswith("page"))))
    assert of_archive[claims] == of_folder[claims]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.parquet"], "missing.parquet: there is no such file, expected an archive of runs"),
        (["text.parquet"], "text.parquet: is no archive of runs"),
        (["other.parquet"], "other.parquet: is no archive of runs"),
        (["kept.parquet", "--archive", "x.parquet"], "--archive: kept.parquet is an archive itself, expected a folder"),
        (["results", "--archive", "x.csv"], "--archive: got 'x.csv', expected a name that ends in .parquet"),
    ],
)
def test_wrong_input(
    arguments: list[str],
    message: str,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(archive.parent)
    Path("text.parquet").write_text("run,step\n")
    pyarrow.parquet.write_table(pyarrow.table({"run": ["a"]}), "other.parquet")
    assert command("report", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("setup", "{", "damaged"),
        ("setup", "{}", "is no resolved setup"),
        ("state", "failed", "expected the state finished or stopped"),
        ("accuracy", 1.5, "expected accuracies from 0 to 1"),
        ("step", 0, "expected steps that grow from row to row"),
        ("environment", "[" * 10**5, "damaged"),
        ("parameters", "x", "expected the SHA-256 of its parameters"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(column: str, value: object, reason: str, archive: Path) -> None:
    frame = opened(archive)
    first = frame["run"].iloc[0]
    frame.loc[frame["run"] == first, column] = value
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, SCHEMA), archive)
    found = read_archive(archive, "kept")
    assert len(found.runs) == 2
    (note,) = found.notes
    assert note.startswith(f"{first}: is damaged (")
    assert reason in note


def test_without_a_run_that_can_be_read(archive: Path) -> None:
    frame = opened(archive).assign(setup="")
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, SCHEMA), archive)
    with pytest.raises(WrongInput, match=r"^kept: holds no run that can be read; .*is damaged"):
        read_archive(archive, "kept")


def test_a_sweep_leaves_out_the_runs_of_an_archive(small_setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(small_setup.changed(actors=None).yaml())
    (tmp_path / "s.yaml").write_text("{base: base.yaml, axes: {aggregator: [median, multi-krum]}, seeds: 1-2}")
    sweep = load_sweep(str(tmp_path / "s.yaml"))
    with Storage(str(tmp_path / "output")) as storage:
        whole = make_plan(sweep, storage, tmp_path)
        byzray.simulate(whole.runs[0].setup, output=tmp_path / "computed")
        add_to_archive(tmp_path / "kept.parquet", collect(tmp_path / "computed").runs)
        known = names_in(tmp_path / "kept.parquet")
        assert known == {RunDirectory.name(whole.runs[0].setup)}
        rest = make_plan(sweep, storage, tmp_path, known=known)
        assert [run.name for run in rest.runs] == [run.name for run in whole.runs[1:]]
        with pytest.raises(SweepError, match="has no run left: all are known"):
            make_plan(sweep, storage, tmp_path, known={run.name for run in whole.runs})


def test_runs_of_an_archive_are_computed_again(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(archive), "--recompute", "2") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "2 runs: 2 the same, 0 different"
    assert {line.removeprefix("the same: ") for line in lines} < names_in(archive)
    frame = opened(archive)
    first, second, _ = frame["run"].unique()
    frame.loc[frame["run"] == first, "parameters"] = "0" * 64
    accuracies = frame.loc[frame["run"] == second, "accuracy"]
    frame.loc[frame["run"] == second, "accuracy"] = (accuracies + 0.25).where(accuracies < 0.7, accuracies - 0.25)
    frame["environment"] = [json.dumps(json.loads(one) | {"device": "another"}) for one in frame["environment"]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, SCHEMA), archive)
    assert command("verify", str(archive), "--recompute", "10") == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"differs: {first}: the final parameters" in lines
    assert f"differs: {second}: accuracies, by up to 0.25" in lines
    assert "3 runs: 1 the same, 2 different" in lines
    assert lines[-1].startswith("computed elsewhere: device ")
    assert lines[-1].endswith(", in the archive another")


def test_no_class_of_a_stranger_is_imported_to_compute_a_run_again(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = opened(archive)
    frame["setup"] = [json.dumps(json.loads(one) | {"model": {"name": "strange:Model"}}) for one in frame["setup"]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, SCHEMA), archive)
    assert command("verify", str(archive), "--recompute", "1") == 2
    assert "its setup cannot be computed here" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--recompute", "1"]])
def test_what_can_be_verified_how(
    options: list[str], results: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", str(results if options else archive), *options) == 2
    expected = "expected an archive, NAME.parquet" if options else "expected --recompute N for it"
    assert expected in " ".join(capsys.readouterr().err.split())


def pairs(successes: list[list[bool]]) -> tuple[pd.DataFrame, pd.Series]:
    """Pairs with their seeds, and in which of these a claim holds."""
    rows = [(pair, holds) for pair, seeds in enumerate(successes) for holds in seeds]
    frame = pd.DataFrame(rows, columns=["pair", "holds"])
    return frame, frame["holds"]


@pytest.mark.parametrize(("holds", "expected"), [(True, (1.0, 1.0)), (False, (0.0, 0.0))])
def test_an_interval_where_all_are_alike(holds: bool, expected: tuple[float, float]) -> None:
    frame, succeeds = pairs([[holds]] * 7)
    assert share_interval(frame, frame["pair"] >= 0, succeeds) == expected
    assert share_interval(frame, frame["pair"] < 0, succeeds) is None


def test_an_interval_is_that_of_a_binomial_share_where_pairs_have_one_seed() -> None:
    frame, succeeds = pairs([[i % 4 != 0] for i in range(400)])
    low, high = share_interval(frame, frame["pair"] >= 0, succeeds) or (0, 0)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)


@pytest.mark.parametrize(
    ("seeds", "variance"),
    [
        ([[True] * 5, [False] * 5], 0.25),  # seeds that agree add nothing
        ([[True, True, True, False, False]] * 2, 0.0),  # pairs that agree leave no doubt
    ],
)
def test_seeds_of_a_pair_are_drawn_together_with_it(seeds: list[list[bool]], variance: float) -> None:
    frame, succeeds = pairs(seeds * 100)
    low, high = share_interval(frame, frame["pair"] >= 0, succeeds) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance / 200), rel=0.1, abs=1e-12)


def test_an_archive_keeps_what_only_some_runs_measure(small_data: Path, tmp_path: Path) -> None:
    setup = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(small_data)},
            "model": {"name": "mlp", "hidden": [4]},
            "steps": 4,
            "workers": 5,
            "aggregator": "median",
            "split": "iid",
            "evaluation_interval": 1,
            "actors": None,
        }
    )
    for one in (setup, setup.changed(split="shared", study="off")):
        byzray.simulate(one, output=tmp_path / "runs")
    path = tmp_path / "kept.parquet"
    add_to_archive(path, collect(tmp_path / "runs").runs)
    of_folder, of_archive = (
        byzray.load_runs(where).sort_values("run", ignore_index=True) for where in (tmp_path / "runs", path)
    )
    columns = ["run", "split", "worst_worker_accuracy", "largest_kappa_hat"]
    pd.testing.assert_frame_equal(of_archive[columns], of_folder[columns])
    assert of_archive["largest_kappa_hat"].notna().sum() == 1


def test_an_archive_of_an_earlier_version_is_read(archive: Path) -> None:
    before = byzray.load_runs(archive)
    table = pyarrow.parquet.read_table(archive)
    pyarrow.parquet.write_table(table.drop_columns(list(OPTIONAL)), archive)
    pd.testing.assert_frame_equal(byzray.load_runs(archive), before)
