"""The report of a directory of runs: what is read, counted, judged, drawn and said."""

import io
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from byzray import Interrupted, Setup, load_runs, load_setup, simulate
from byzray.defence import Defence
from byzray.mistakes import WrongInput
from byzray.report import Report, run_figure, write_report
from byzray.report.collect import Run, collect
from byzray.report.drawing import shortened, style_of
from byzray.report.figures import Comparison, curves_figure, overview_figure, ratios_figure
from byzray.report.panels import arrange, guarantee, identity, rate
from byzray.report.paper.claims import ALWAYS, MOSTLY, always, judge, mostly
from byzray.report.paper.statistics import statistics
from byzray.report.tables import bound_met, curves_table, pairs_table, runs_table, with_pairs
from byzray.runs.digests import digest
from byzray.runs.directory import RunDirectory
from byzray.runs.verification import verify

Plain = dict[str, Any]


@pytest.fixture
def plain(small_setup: Setup) -> Plain:
    """The small setup with the median, as plain data."""
    return small_setup.changed(aggregator="median").describe()


def changed(setup: Plain, **changes: Any) -> Plain:
    """`setup` with other fields; `placement` goes into its momentum."""
    placement = changes.pop("placement", setup["momentum"]["placement"])
    return {**setup, "momentum": {**setup["momentum"], "placement": placement}, **changes}


def unattacked(setup: Plain, **changes: Any) -> Plain:
    """The run it is measured against."""
    without: Plain = {"byzantine": 0, "tolerated": 0, "attack": None, "aggregator": {"name": "average"}}
    return changed(setup, **{"workers": setup["workers"] - setup["byzantine"], **without, **changes})


def run(name: str, setup: Plain, *accuracies: float, state: str = "finished", **known: Any) -> Run:
    """A run that had these accuracies at steps 0, 1, ..."""
    evaluations = pd.DataFrame({"step": range(len(accuracies)), "accuracy": accuracies}, dtype="float64")
    return Run(name, setup, state, evaluations=evaluations, **known)


def tables(*runs: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Their tables of runs and of pairs."""
    table = runs_table(list(runs), arrange(one.setup for one in runs))
    pairs = pairs_table(table)
    return with_pairs(table, pairs), pairs


def pairs_of(*known: tuple[float, float] | None) -> pd.DataFrame:
    """Pairs with these costs and gains; None: an undecided one."""
    rows = [
        {
            "pair": number,
            "rule": f"rule-{number}",
            "attack": "little",
            "panel": "p",
            "seed": 1,
            "dataset": "d",
            "f": 2,
            "rate": "0.1",
        }
        | {"nesterov": number % 2 == 1, "decided": one is not None}
        | dict(zip(("cost", "gain"), one or (math.nan, math.nan), strict=True))
        for number, one in enumerate(known)
    ]
    return pd.DataFrame(rows)


# Panels and references


def test_runs_that_differ_in_where_they_compute_and_in_the_seed_are_the_same_setup(plain: Plain) -> None:
    elsewhere = {**plain, "actors": None, "device": "cuda", "seed": 99}
    assert identity(elsewhere) == identity(plain)
    assert identity({**plain, "batch_size": 5}) != identity(plain)


def test_panel_holds_rules_attacks_and_placements_and_prefers_the_average_over_honest_workers(plain: Plain) -> None:
    full = unattacked(plain, workers=plain["workers"])
    honest = unattacked(plain)
    members = [
        plain,
        changed(plain, placement="update"),
        changed(plain, aggregator={"name": "phocas"}),
        changed(plain, attack={"name": "empire", "evaluations": 16, "factor": 1.1}),
    ]
    grid = arrange([full, *members, honest])
    attacked = [panel for panel in grid.panels if "f2" in panel.name]
    assert [len(panel.setups) for panel in attacked] == [4]
    assert grid.setups[attacked[0].reference] == honest
    # Without it, the one with as many workers; with neither, none.
    (panel,) = arrange([full, *members]).panels
    assert arrange([full, *members]).setups[panel.reference] == full
    assert arrange(members).panels[0].reference == ""
    assert arrange([*members, changed(honest, l2=0.1)]).panels[-1].reference == ""


def test_the_reference_is_the_average_without_pre_aggregators(plain: Plain) -> None:
    attacked = changed(plain, pre=[{"name": "nnm"}])
    pure, mixed = unattacked(plain), unattacked(plain, pre=[{"name": "nnm"}])
    for order in ([attacked, mixed, pure], [pure, mixed, attacked]):
        grid = arrange(order)
        (reference,) = {panel.reference for panel in grid.panels if panel.reference}
        assert grid.setups[reference] == pure
    # So it is whatever the identities of both sort like.
    for seed in range(8):
        pair = [unattacked(plain, batch_size=seed + 1, pre=[*pre]) for pre in ([{"name": "nnm"}], [])]
        grid = arrange([changed(attacked, batch_size=seed + 1), *pair])
        (reference,) = {panel.reference for panel in grid.panels if panel.reference}
        assert grid.setups[reference] == pair[1]


def test_tolerated_that_follows_byzantine_is_no_difference_and_one_that_does_not_is(plain: Plain) -> None:
    assert len(arrange([plain, changed(plain, tolerated=1)]).panels) == 2
    honest = unattacked(plain, tolerated=0)
    assert arrange([changed(plain, tolerated=1), honest]).panels[0].reference != ""


def test_titles_tell_apart_what_differs_and_nothing_else(plain: Plain) -> None:
    titles = [panel.title for panel in arrange([plain, changed(plain, steps=40)]).panels]
    assert titles == ["npz, n = 7, f = 2, rate 0.1, steps 12", "npz, n = 7, f = 2, rate 0.1, steps 40"]
    assert [panel.title for panel in arrange([plain]).panels] == ["npz, n = 7, f = 2, rate 0.1"]
    nesterov = {**plain, "momentum": {**plain["momentum"], "nesterov": True}}
    assert arrange([nesterov]).panels[0].title.endswith("Nesterov")


def test_rules_with_different_options_are_distinct(plain: Plain) -> None:
    krums = [{"name": "multi-krum", "squared": False, "neighbours": "n-f-1", "m": m} for m in (None, 1)]
    grid = arrange([plain, *(changed(plain, aggregator=rule) for rule in krums)])
    assert sorted(facts["rule"] for facts in grid.facts.values()) == ["median", "multi-krum", "multi-krum (m=1)"]
    namesakes = [{"name": "mine:Trimmed"}, {"name": "yours:Trimmed"}]
    grid = arrange(changed(plain, aggregator=rule) for rule in namesakes)
    assert sorted(facts["rule"] for facts in grid.facts.values()) == ["mine:Trimmed", "yours:Trimmed"]


def test_rate_of_a_schedule_is_in_order_of_its_steps(plain: Plain) -> None:
    schedule = {"16000": 0.0008, "0": 0.02, "8000": 0.004}
    assert rate({**plain, "learning_rate": {"initial": None, "schedule": schedule}}) == "0.02 → 0.004 → 0.0008"


def test_what_is_proven_of_a_setup(plain: Plain) -> None:
    assert guarantee(plain, Defence.bound) == pytest.approx(1 / math.sqrt(7 - 2))
    assert guarantee(plain, Defence.kappa) == pytest.approx(4 * (1 + 2 / 3) ** 2)
    mixed = changed(plain, pre=[{"name": "nnm"}])
    assert math.isnan(guarantee(mixed, Defence.bound))
    assert guarantee(mixed, Defence.kappa) == pytest.approx(8 * 2 / 5 * (4 * (1 + 2 / 3) ** 2 + 1))


@pytest.mark.parametrize("of", [Defence.bound, Defence.kappa])
def test_what_is_proven_of_a_class_that_cannot_be_imported_is_unknown(plain: Plain, of: Any) -> None:
    assert math.isnan(guarantee(changed(plain, aggregator={"name": "no_such_module:Trimmed", "cut": 2}), of))
    assert math.isnan(guarantee(changed(plain, pre=[{"name": "no_such_module:Mine"}]), of))


def test_a_table_shows_what_is_measured_where_workers_have_examples_of_their_own(tmp_path: Path) -> None:
    setup = Setup.model_validate({"split": "iid", "workers": 5, "steps": 4, "aggregator": "median", "actors": None})
    simulate(setup, output=tmp_path)
    simulate(setup.changed(split="shared"), output=tmp_path)
    table = load_runs(tmp_path)
    assert sorted(table["kappa"].round(6)) == [4.0, 4.0]
    for column in ("worst_worker_accuracy", "largest_kappa_hat"):
        assert table[column].notna().sum() == 1
    result = simulate(setup)
    assert table["worst_worker_accuracy"].max() == result.evaluations["worst worker accuracy"].iloc[-1]
    assert table["largest_kappa_hat"].max() == result.metrics["Kappa-hat"].max()


# Tables


def test_cost_and_gain(plain: Plain) -> None:
    runs, pairs = tables(
        run("standard", changed(plain, placement="update"), 0.1, 0.5, 0.3),
        run("worker", plain, 0.1, 0.75),
        run("reference", unattacked(plain), 0.2, 0.9),
    )
    (pair,) = pairs.to_dict("records")
    assert pair["decided"]
    assert pair["lacks"] == ""
    assert (pair["standard_run"], pair["worker_run"], pair["reference_run"]) == ("standard", "worker", "reference")
    assert pair["cost"] == pytest.approx(0.4)
    assert pair["gain"] == pytest.approx(0.25)
    by_name = runs.set_index("run")
    assert by_name.loc["standard", "last_accuracy"] == 0.3
    assert by_name.loc["worker", "reference_best"] == 0.9
    assert by_name["gain"].notna().to_dict() == {"standard": True, "worker": True, "reference": False}


@pytest.mark.parametrize("state", ["interrupted", "failed", "running", "missing", "damaged"])
@pytest.mark.parametrize("which", ["standard", "worker", "reference"])
def test_pair_is_decided_only_if_all_three_runs_are_complete(plain: Plain, which: str, state: str) -> None:
    setups = {"standard": changed(plain, placement="update"), "worker": plain, "reference": unattacked(plain)}
    _, pairs = tables(*(run(n, s, 0.5, state=state if n == which else "stopped") for n, s in setups.items()))
    (pair,) = pairs.to_dict("records")
    assert not pair["decided"]
    assert pair["lacks"] == which
    assert math.isnan(pair["cost"])


def test_pair_needs_the_same_seed_and_both_placements(plain: Plain) -> None:
    standard = changed(plain, placement="update", seed=2)
    _, pairs = tables(run("worker", plain, 0.5), run("other seed", standard, 0.5), run("no attack", unattacked(plain)))
    assert len(pairs) == 0
    _, pairs = tables(run("worker", plain, 0.5), run("server", changed(plain, placement="server"), 0.5))
    assert len(pairs) == 0


def test_curves_are_means_over_the_seeds_that_are_finite(plain: Plain) -> None:
    losses = [[2.0, 4.0, 8.0], [4.0, math.nan], [6.0, math.inf, 2.0]]
    runs = [
        Run(f"r{seed}", {**plain, "seed": seed}, "running", metrics=pd.DataFrame({"step": range(len(v)), "loss": v}))
        for seed, v in enumerate(losses)
    ]
    table = curves_table(runs, arrange(one.setup for one in runs))
    assert table["quantity"].unique().tolist() == ["loss"]
    assert table["step"].tolist() == [0, 1, 2]
    assert table["mean"].tolist() == [4.0, 4.0, 5.0]
    assert table["std"].tolist() == pytest.approx([math.sqrt(8 / 3), 0.0, 3.0])
    assert table["seeds"].tolist() == [3, 1, 2]


def test_bound_counts_only_while_the_loss_is_no_larger_than_at_first() -> None:
    metrics = pd.DataFrame({"step": range(4), "loss": [2.0, 1.0, 3.0, math.nan], "submitted": [0.26, 0.24, 0.1, 0.1]})
    assert bound_met(metrics, 0.5) == (4, 1)
    assert bound_met(metrics, math.nan) == (0, 0)
    assert bound_met(metrics.drop(columns="submitted"), 0.5) == (0, 0)


# Statistics and claims


def test_statistics_by_hand() -> None:
    known = [(0.1, 0.1), (0.2, 0.15), (0.45, 0.5), (0.9, 0.3), (0.05, -0.03), (0.3, -0.06), (0.0, -0.01), None]
    runs = pd.DataFrame(
        {
            **dict.fromkeys(("dataset", "f", "attack", "rate", "nesterov"), "other"),
            "rule": ["rule-0", "rule-0", "rule-1", "rule-2"],
            "state": ["finished", "stopped", "finished", "failed"],
            "ratio_steps": [10, 10, 0, 10],
            "bound_met_steps": [3, 0, 0, 9],
        }
    )
    table = statistics(pairs_of(*known), runs).set_index(["by", "subset"])
    assert table.loc[("all", "all")].to_dict() == {
        "pairs": 7,
        "undecided": 1,
        "effective_10": 5,
        "won_back_10": 4,
        "effective_20": 4,
        "won_back_20": 2,
        "effective_40": 2,
        "won_back_40": 1,
        "worse_0": 3,
        "worse_2": 2,
        "worse_5": 1,
        "bounded_runs": 2,
        "bound_met_runs": 1,
        "bound_met_share": 0.3,
    }
    assert table.loc[("nesterov", "Nesterov")][["pairs", "effective_10"]].tolist() == [3, 3]
    assert table.loc[("dataset and f", "d, f = 2"), "pairs"] == 7
    assert table.loc[("rule", "rule-0"), "bounded_runs"] == 2
    assert table.loc[("rule", "rule-1"), "bounded_runs"] == 0


def test_thresholds_hold_from_the_exact_value_on_whatever_the_rounding() -> None:
    cost = 0.3 - 0.1  # a hair below 0.2
    assert cost < 0.2
    row = statistics(pairs_of((cost, cost)), _no_runs()).iloc[0]
    assert (row["effective_20"], row["won_back_20"]) == (1, 1)
    assert judge(pairs_of((cost, cost)))[1].verdict == "confirmed"


def _no_runs() -> pd.DataFrame:
    columns = ["dataset", "f", "attack", "rate", "nesterov", "rule", "state", "ratio_steps", "bound_met_steps"]
    return pd.DataFrame(columns=columns)


@pytest.mark.parametrize(
    ("effective", "successes", "unknown", "verdict"),
    [
        (5, 5, 0, "confirmed"),
        (5, 5, 1, "not yet decidable"),
        (5, 4, 0, "refuted"),
        (5, 4, 1000, "refuted"),
        (0, 0, 3, "not yet decidable"),
        (0, 0, 0, "not decidable"),
    ],
)
def test_always(effective: int, successes: int, unknown: int, verdict: str) -> None:
    assert always(effective, successes, unknown) == verdict


@pytest.mark.parametrize(
    ("effective", "successes", "unknown", "verdict"),
    [
        (5, 3, 0, "refuted"),  # exactly 60 %
        (100, 61, 0, "confirmed"),
        (10, 7, 1, "confirmed"),  # 7 of 11 at worst
        (10, 7, 2, "not yet decidable"),  # 7 of 12 at worst
        (10, 5, 2, "refuted"),  # 7 of 12 at best
        (10, 5, 3, "not yet decidable"),  # 8 of 13 at best
        (0, 0, 4, "not yet decidable"),
        (0, 0, 0, "not decidable"),
        (1, 0, 0, "refuted"),
    ],
)
def test_mostly(effective: int, successes: int, unknown: int, verdict: str) -> None:
    assert mostly(effective, successes, unknown) == verdict


def test_no_gain_at_all_refutes_and_the_worst_case_is_named() -> None:
    first, second = judge(pairs_of((0.3, 0.3), (0.5, 0.0), (0.4, -0.1), (0.1, -0.5)))
    assert (first.claim, first.verdict, first.effective, first.successes) == (ALWAYS, "refuted", 3, 1)
    assert "rule-2 under little" in first.worst
    assert "cost 40.0, gain -10.0 points" in first.worst
    assert (second.claim, second.verdict, second.successes) == (MOSTLY, "refuted", 1)


def test_the_whole_sweep_is_judged_apart_if_it_has_more_pairs() -> None:
    pairs = pairs_of((0.3, 0.3), (0.3, 0.3))
    assert [one.verdict for one in judge(pairs)] == ["confirmed", "confirmed"]
    assert len(judge(pairs, whole=2)) == 2
    here, there = judge(pairs, whole=3)[:2], judge(pairs, whole=3)[2:]
    assert [one.verdict for one in here] == ["confirmed", "confirmed"]
    assert [(one.verdict, one.unknown) for one in there] == [("not yet decidable", 1), ("confirmed", 1)]


def test_without_any_pair_the_claims_are_not_decidable_ever() -> None:
    none = pairs_of((0.3, 0.3)).iloc[:0]
    assert {one.verdict + one.where for one in judge(none)} == {"not decidable: there is no pair of placements here"}
    assert [one.where for one in judge(none, whole=3)[2:]] == [" for the whole sweep of 3 pairs"] * 2
    assert [one.verdict for one in judge(none, whole=3)[2:]] == ["not yet decidable"] * 2
    # Nor are they when every pair is decided and no attack was effective.
    assert {one.verdict + one.where for one in judge(pairs_of((0.1, 0.1)))} == {"not decidable for this 1 pair"}


# Reading


def test_directory_without_runs_is_an_error_that_says_what_was_found(tmp_path: Path, small_setup: Setup) -> None:
    with pytest.raises(WrongInput, match=r"it is empty.*expected folders with a setup\.yaml"):
        write_report(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(WrongInput, match=r"notes\.txt"):
        write_report(tmp_path)
    with pytest.raises(WrongInput, match="no such folder"):
        write_report(tmp_path / "absent")
    result = simulate(small_setup, output=tmp_path)
    assert result.directory is not None
    with pytest.raises(WrongInput, match="is itself a run directory"):
        write_report(result.directory)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """Two rules with both placements, two seeds, the references; one run diverges, one failed, one is missing."""
    directory = tmp_path_factory.mktemp("sweep")
    common = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(small_data)},
            "model": {"name": "mlp", "hidden": [4]},
            "steps": 12,
            "learning_rate": 0.1,
            "workers": 7,
            "byzantine": 2,
            "attack": "little",
            "evaluation_interval": 3,
        }
    )
    setups = [
        common.changed(aggregator=rule, momentum={"placement": placement}, seed=seed)
        for rule in ("median", "trimmed-mean")
        for placement in ("update", "worker")
        for seed in (1, 2)
    ]
    setups += [
        common.changed(aggregator="average", attack=None, byzantine=0, tolerated=0, workers=5, seed=seed)
        for seed in (1, 2)
    ]
    setups.append(common.changed(aggregator="average", attack="nan"))
    for setup in setups:
        simulate(setup, output=directory / "runs")
    missing = common.changed(aggregator="phocas")
    planned = [{"run": RunDirectory.name(one), "setup": one.describe()} for one in [*setups, missing]]
    (directory / "planned.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in planned))
    return directory


@pytest.fixture
def sweep(computed: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(computed, tmp_path / "sweep"))


@pytest.fixture
def unattacked_sweep(sweep: Path) -> Path:
    """Of the sweep, only what has no attack."""
    lines = [json.loads(line) for line in (sweep / "planned.jsonl").read_text().splitlines()]
    (sweep / "planned.jsonl").write_text(
        "".join(f"{json.dumps(one)}\n" for one in lines if one["setup"]["attack"] is None)
    )
    for path in (sweep / "runs").iterdir():
        if "unattacked" not in path.name:
            shutil.rmtree(path)
    return sweep


class Written(NamedTuple):
    """A folder, and its report."""

    folder: Path
    report: Report


@pytest.fixture(scope="module")
def written(computed: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The report of the sweep as it was computed, not to be spoilt."""
    folder = shutil.copytree(computed, tmp_path_factory.mktemp("written") / "sweep")
    return Written(folder, write_report(folder))


def run_directory(sweep: Path, *words: str) -> Path:
    (found,) = [path for path in (sweep / "runs").iterdir() if all(word in path.name for word in words)]
    return found


def states(sweep: Path) -> dict[str, str]:
    return {one.name: one.state for one in collect(sweep).runs}


def test_best_accuracy_ratios_and_states_are_those_of_the_runs(written: Written) -> None:
    sweep = written.folder
    table = pd.read_csv(sweep / "report/runs.csv").set_index("run")
    path = run_directory(sweep, "median", "worker", "seed2")
    accuracies = pd.read_csv(path / "evaluations.csv")["accuracy"]
    assert table.loc[path.name, "best_accuracy"] == accuracies.max()
    assert table.loc[path.name, "last_accuracy"] == accuracies.iloc[-1]
    assert table["state"].value_counts().to_dict() == {"finished": 11, "missing": 1}
    assert table.loc[table["state"] == "missing", "rule"].tolist() == ["phocas"]
    metrics = pd.read_csv(path / "metrics.csv")
    curves = pd.read_parquet(sweep / "report/curves.parquet")
    other = pd.read_csv(run_directory(sweep, "median", "worker", "seed1") / "metrics.csv")
    mine = curves[(curves["setup"] == table.loc[path.name, "setup"]) & (curves["quantity"] == "submitted")]
    ratios = [(one["Honest gradient deviation"] / one["Honest gradient norm"]) ** 2 for one in (metrics, other)]
    np.testing.assert_allclose(mine["mean"], (ratios[0] + ratios[1]) / 2)


def change_status(path: Path, **changes: Any) -> None:
    """Change fields of a run's status.json; None takes one away."""
    status = json.loads((path / "status.json").read_text()) | changes
    (path / "status.json").write_text(json.dumps({key: value for key, value in status.items() if value is not None}))


def found(sweep: Path, path: Path) -> Run:
    """What a report makes of the run in a directory."""
    (one,) = [run for run in collect(sweep).runs if run.name == path.name]
    return one


@pytest.mark.parametrize("recorded", ["finished", "killed"])
def test_a_run_that_diverges_is_told_with_the_step_that_it_recorded(sweep: Path, recorded: str) -> None:
    path = run_directory(sweep, "average-nan")
    step = json.loads((path / "status.json").read_text())["diverged"]["step"]
    if recorded == "killed":  # before it wrote that down: the tables show it
        change_status(path, state="running", diverged=None, files=None)
    report = write_report(sweep)
    (diverged,) = [one for one in collect(sweep).runs if one.diverged_at is not None]
    assert diverged.diverged_at == step == 0
    assert f"diverged: {diverged.name}, at step 0" in report.summary
    assert diverged.name in report.page.read_text()


def test_a_run_that_divergence_ended_is_finished(tmp_path: Path, small_setup: Setup) -> None:
    growing = small_setup.changed(attack="nan", aggregator="average", divergence="stop")
    result = simulate(growing, output=tmp_path)
    assert result.directory is not None
    assert result.diverged is not None
    assert len(result.metrics) == 1
    report = write_report(tmp_path)
    assert report.states == {"finished": 1}
    assert f"diverged: {result.directory.name}, at step {result.diverged.step}" in report.summary
    # Shorter than that it is not whole.
    change_status(result.directory, diverged={"step": 5, "reason": "made up"})
    assert "expected the 6 rows of a finished run, found 1" in found(tmp_path, result.directory).reason


@pytest.mark.parametrize("harm", ["evaluations.csv", "metrics.csv", "parameters.npy", "setup.yaml", "files"])
@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_finished_run_that_was_changed_is_damaged(sweep: Path, harm: str, state: str) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    change_status(path, state=state)
    assert found(sweep, path).state == state
    assert [one.problem for one in verify(sweep)] == [""] * 11
    if harm == "files":
        change_status(path, files=None)
        if state == "stopped":  # as by an earlier version
            assert found(sweep, path).state == "stopped"
            return
        expected = "status.json has no digest of evaluations.csv, which every finished run has"
    else:
        content = (path / harm).read_bytes()
        (path / harm).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        expected = f"{harm} was changed since the run {'was ' if state == 'stopped' else ''}{state}"
    assert (found(sweep, path).state, found(sweep, path).reason) == ("damaged", expected)
    damaged = [one for one in verify(sweep) if one.problem]
    assert [(one.run, one.problem) for one in damaged] == [(f"runs/{path.name}", expected)]
    # Also by itself, and from the folder above.
    assert [one.problem for one in verify(path)] == [expected]
    assert sum(bool(one.problem) for one in verify(sweep.parent)) == 1


def test_checkpoints_are_verified(tmp_path: Path, small_setup: Setup) -> None:
    with pytest.raises(Interrupted):
        simulate(small_setup, output=tmp_path, progress=lambda update: update.step >= 3)
    assert [(one.state, one.problem) for one in verify(tmp_path)] == [("interrupted", "")]
    (saved,) = tmp_path.glob("*/checkpoints/*.safetensors")
    saved.write_bytes(saved.read_bytes()[:-1])
    (verdict,) = verify(tmp_path)
    assert verdict.problem.startswith(f"checkpoints/{saved.name}: is damaged")


def test_final_parameters_may_be_all_that_diverged(sweep: Path) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    parameters = np.load(path / "parameters.npy")
    parameters[3] = np.inf
    np.save(path / "parameters.npy", parameters)
    files = json.loads((path / "status.json").read_text())["files"]
    change_status(path, files={**files, "parameters.npy": digest(path / "parameters.npy")})
    assert found(sweep, path).diverged_at == 11  # the last step


def test_planned_for_actors_and_computed_without_is_not_missing(computed: Path) -> None:
    collection = collect(computed)
    assert [one.setup["aggregator"]["name"] for one in collection.runs if one.state == "missing"] == ["phocas"]
    assert collection.notes == []


def test_damaged_files_are_named_and_the_rest_is_reported(sweep: Path) -> None:
    damaged = {
        "metrics.csv": run_directory(sweep, "median", "update", "seed1"),
        "evaluations.csv": run_directory(sweep, "median", "update", "seed2"),
        "status.json": run_directory(sweep, "trimmed-mean", "update", "seed1"),
        "environment.json": run_directory(sweep, "trimmed-mean", "update", "seed2"),
        "parameters.npy": run_directory(sweep, "trimmed-mean", "worker", "seed2"),
    }
    for name, path in damaged.items():
        (path / name).write_bytes(b"step,x\nnonsense,\xff\n")
    unreadable = run_directory(sweep, "median", "worker", "seed1")
    (unreadable / "setup.yaml").write_text("dataset: [")
    report = write_report(sweep)
    table = pd.read_csv(sweep / "report/runs.csv").set_index("run")
    page = report.page.read_text()
    for name, path in damaged.items():
        assert table.loc[path.name, "state"] == "damaged"
        assert name in table.loc[path.name, "reason"]
        assert path.name in page
    assert any(line.startswith(f"note: {unreadable.name}: its setup.yaml is damaged") for line in report.summary)
    assert unreadable.name in page


def test_tables_that_lack_rows_or_columns_are_damaged(sweep: Path) -> None:
    short = run_directory(sweep, "median", "update", "seed1")
    lines = (short / "metrics.csv").read_text().splitlines(keepends=True)
    (short / "metrics.csv").write_text("".join(lines[:-2]))
    narrow = run_directory(sweep, "median", "update", "seed2")
    (narrow / "metrics.csv").write_text("Step number\n0\n")
    for path in (short, narrow):  # as by a program that keeps the digests up to date
        files = json.loads((path / "status.json").read_text())["files"]
        change_status(path, files={**files, "metrics.csv": digest(path / "metrics.csv")})
    reasons = {one.name: one.reason for one in collect(sweep).runs if one.state == "damaged"}
    assert "expected the 12 rows of a finished run, found 10" in reasons[short.name]
    assert "lacks the column of the loss" in reasons[narrow.name]


def test_half_a_last_line_is_no_divergence(sweep: Path) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    lines = (path / "metrics.csv").read_text().splitlines(keepends=True)
    (path / "metrics.csv").write_text("".join(lines[:6]) + lines[6][:9])
    (path / "status.json").write_text('{"state": "running", "step": 2}')
    with RunDirectory(sweep / "runs", load_setup(path / "setup.yaml")):  # as the process that computes it
        one = found(sweep, path)
    assert (one.state, one.step, one.diverged_at) == ("running", 5, None)
    one = found(sweep, path)
    assert (one.state, one.reason) == ("interrupted", "it was killed: no process is computing it")
    (path / ".lock").unlink()  # in a copy
    assert found(sweep, path).state == "interrupted"
    # A copy of a storage elsewhere has no locks that would show it.
    (one,) = [run for run in collect(sweep, "s3://bucket/mine").runs if run.name == path.name]
    assert one.state == "running"


def test_stopped_run_counts_up_to_its_step(sweep: Path) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    (path / "status.json").write_text('{"state": "stopped", "step": 6}')
    (path / "evaluations.csv").write_text("step,accuracy\n0,0.1\n3,0.2\n6,0.3\n9,0.9\n")
    runs, pairs = tables(*collect(sweep).runs)
    assert runs.set_index("run").loc[path.name, ["state", "step", "best_accuracy"]].tolist() == ["stopped", 6, 0.3]
    assert pairs.set_index("worker_run").loc[path.name, "decided"]


def test_failed_run_is_told_with_its_reason_and_log_which_are_escaped(unattacked_sweep: Path) -> None:
    sweep = unattacked_sweep
    path = run_directory(sweep, "seed1")
    (path / "status.json").write_text('{"state": "failed", "step": 3, "reason": "Oops: <script>alert(1)</script>"}')
    (path / "error.txt").write_text("".join(f"line {number} <b>\n" for number in range(100)))
    report = write_report(sweep)
    page = report.page.read_text()
    assert f"failed: {path.name}: Oops: <script>alert(1)</script>" in report.summary
    assert report.states == {"finished": 1, "failed": 1}
    assert "<script" not in page
    assert "Oops: &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "line 99 &lt;b&gt;" in page
    assert "line 50 " not in page


def test_same_run_twice_counts_once(sweep: Path) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    copy = sweep / "copied"
    shutil.copytree(path, copy)
    (copy / "status.json").write_text('{"state": "interrupted", "step": 4}')
    collection = collect(sweep)
    assert [one.name for one in collection.runs if one.state == "interrupted"] == []
    assert collection.notes == [f"copied: simulates the same as {path.name}, only elsewhere; it is not counted"]


def test_folders_of_tune_and_of_earlier_reports_hold_no_runs(sweep: Path) -> None:
    path = run_directory(sweep, "median", "worker", "seed1")
    for name in ("report", "tune", "replaced", ".hidden"):
        shutil.copytree(path, sweep / name)
    assert collect(sweep).notes == []


def test_worker_only_sweep_is_not_decidable(sweep: Path) -> None:
    lines = [json.loads(line) for line in (sweep / "planned.jsonl").read_text().splitlines()]
    lines = [one for one in lines if one["setup"]["momentum"]["placement"] == "worker"]
    (sweep / "planned.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    for path in (sweep / "runs").glob("*-at-update-*"):
        shutil.rmtree(path)
    # What the sweep counts as pairs are attacked runs at the workers: with every run planned, it is not asked.
    whole = {"runs": len(lines), "pairs": 6}
    (sweep / "sweep.json").write_text(json.dumps({"sweep": "mine", "runs": len(lines), "whole": whole}))
    report = write_report(sweep)
    assert {one.verdict for one in report.judgements} == {"not decidable"}
    assert report.summary.count("    not decidable: there is no pair of placements here") == 2
    assert "</span>: there is no pair of placements here</p>" in report.page.read_text()


def test_runs_that_are_not_planned_are_told_and_left_out_of_the_claims(sweep: Path) -> None:
    text = (sweep / "planned.jsonl").read_text()
    edited = [line for line in text.splitlines(keepends=True) if '"trimmed-mean"' not in line]
    (sweep / "planned.jsonl").write_text("".join(edited))
    (sweep / "sweep.json").write_text(json.dumps({"sweep": "mine", "whole": {"runs": 20, "pairs": 4}}))
    report = write_report(sweep)
    decided = {one.scope: one.unknown for one in report.judgements}
    assert decided == {"these 2 pairs": 0, "the whole sweep of 4 pairs": 2}
    assert "12 runs of 7 setups, among them 4 runs that are not of this sweep: 11 finished" in report.summary[0]
    assert report.summary[1] == "pairs of placements (per seed): 2 of 2 decided"
    page = report.page.read_text()
    assert "4 of these runs are not of this sweep" in page
    foreign = [path.name for path in (sweep / "runs").glob("*trimmed-mean*")]
    assert len(foreign) == 4
    listed = page[page.index("4 not of this sweep") :]
    assert all(f"<li><code>{name}</code></li>" in listed for name in foreign)
    # Tables have them all the same.
    assert set(foreign) <= set(pd.read_csv(sweep / "report/runs.csv")["run"])
    assert len(pd.read_csv(sweep / "report/pairs.csv")) == 4
    # Without a plan nothing is foreign.
    (sweep / "planned.jsonl").unlink()
    (sweep / "sweep.json").unlink()
    assert collect(sweep).foreign == frozenset()


def test_run_computed_elsewhere_than_planned_is_not_foreign(sweep: Path) -> None:
    lines = [json.loads(line) for line in (sweep / "planned.jsonl").read_text().splitlines()]
    for one in lines:
        one.update(run=f"{one['run']}-on-cuda", setup={**one["setup"], "device": "cuda"})
    (sweep / "planned.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    assert collect(sweep).foreign == frozenset()
    assert collect(sweep).planned == len(lines)


def test_damaged_plan_and_sweep_are_told(sweep: Path) -> None:
    with (sweep / "planned.jsonl").open("a") as file:
        file.write('{"run": "x"\n{"run": "y", "setup": {"steps": 3}}\n')
    (sweep / "sweep.json").write_text("[]")
    notes = collect(sweep).notes
    assert [note.split(":")[0] for note in notes] == ["planned.jsonl", "planned.jsonl", "sweep.json"]
    assert "line 13 is damaged" in notes[0]
    assert "'dataset'" in notes[1]


def test_without_a_plan_and_of_a_users_own_rule_that_is_not_there(sweep: Path) -> None:
    (sweep / "planned.jsonl").unlink()
    for path in (sweep / "runs").iterdir():
        text = (path / "setup.yaml").read_text()
        (path / "setup.yaml").write_text(text.replace("trimmed-mean", "no_such_module:Trimmed"))
    table, _ = tables(*collect(sweep).runs)
    assert len(table) == 11
    assert table.loc[table["rule"] == "Trimmed", "bound"].isna().tolist() == [True] * 4


def test_plan_alone_is_reported(computed: Path, tmp_path: Path) -> None:
    shutil.copy(computed / "planned.jsonl", tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "paper", "whole": {"pairs": 1760}}))
    report = write_report(tmp_path)
    assert report.states == {"missing": 12}
    assert {one.verdict for one in report.judgements} == {"not yet decidable"}
    assert [one.unknown for one in report.judgements] == [4, 4, 1760, 1760]
    page = report.page.read_text()
    assert "12 planned and not begun" in page
    assert "They are tested here on other setups" not in page
    assert "<h1>paper</h1>" in page


def test_runs_without_study_or_test_accuracy(tmp_path: Path, small_setup: Setup) -> None:
    for placement in ("update", "worker"):
        simulate(small_setup.changed(momentum={"placement": placement}, study=None), output=tmp_path)
    report = write_report(tmp_path)
    figures = {path.stem.split("-")[0] for path in (tmp_path / "report/figures").iterdir()}
    assert figures == {"curves", "overview"}
    for path in tmp_path.glob("*/evaluations.csv"):
        path.write_text("step,accuracy\n0,nan\n12,nan\n")
    report = write_report(tmp_path)
    assert "0 of 1 decided" in report.summary[1]


# Page and figures


def test_page_needs_nothing_but_itself(written: Written) -> None:
    page = written.report.page.read_text()
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    assert all(one.startswith(("#", "data:image/svg+xml,")) for one in loaded)
    assert "@import" not in page
    assert "url(" not in re.sub(r'src="[^"]*"', "", page)
    targets = set(re.findall(r'id="([^"]*)"', page))
    assert {one[1:] for one in loaded if one.startswith("#")} <= targets


def test_page_of_a_sweep_without_any_attack(unattacked_sweep: Path) -> None:
    report = write_report(unattacked_sweep)
    page = report.page.read_text()
    assert report.states == {"finished": 2}
    assert '<th class="attack" colspan="1">no attack</th>' in page
    assert "<th>gain</th>" not in page
    assert "not decidable: there is no pair" in "".join(report.summary)


def test_page_of_attacked_and_unattacked_panels_with_failed_and_missing_runs(sweep: Path, small_setup: Setup) -> None:
    alone = small_setup.changed(attack=None, byzantine=0, tolerated=0, l2=0.01)
    simulate(alone, output=sweep / "runs")
    failed = small_setup.changed(attack=None, byzantine=0, tolerated=0, l2=0.01, aggregator="median")
    path = simulate(failed, output=sweep / "runs").directory
    assert path is not None
    (path / "status.json").write_text('{"state": "failed", "step": 3, "reason": "Oops"}')
    (sweep / "planned.jsonl").write_text(
        (sweep / "planned.jsonl").read_text()
        + "".join(
            f"{json.dumps({'run': RunDirectory.name(one), 'setup': one.describe()})}\n"
            for one in (alone, failed, failed.changed(seed=7))
        )
    )
    report = write_report(sweep)
    page = report.page.read_text()
    assert report.states == {"finished": 12, "failed": 1, "missing": 2}
    assert '<th class="attack" colspan="1">no attack</th>' in page
    assert '<th class="attack" colspan="3">little</th>' in page
    assert f"<code>{path.name}</code> at step 12 of 12: Oops" in page
    assert RunDirectory.name(failed.changed(seed=7)) in page


def test_directory_is_told_by_the_name_it_is_given(unattacked_sweep: Path, written: Written, tmp_path: Path) -> None:
    sweep = unattacked_sweep
    report = write_report(sweep, "s3://bucket/mine/")
    shown = "".join([*report.summary, report.page.read_text()])
    assert str(tmp_path) not in shown
    assert report.summary[0].startswith("s3://bucket/mine: 2 runs")
    assert report.summary[-1] == "page: s3://bucket/mine/report/index.html"
    assert report.page == sweep / "report/index.html"
    assert "<h1>mine</h1>" in shown
    assert "Report of <code>s3://bucket/mine</code>" in shown
    assert written.report.summary[-1] == f"page: {written.folder}/report/index.html"
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(WrongInput, match=r"^s3://bucket/x: ") as error:
            write_report(tmp_path / folder, "s3://bucket/x")
        assert str(tmp_path) not in str(error.value)


def robustness(page: str) -> list[list[str]]:
    """The cells of the page's table on the robustness of the defences, row by row."""
    _, there, rest = page.partition('<h2 id="robustness">')
    if not there:
        return []
    rows = re.findall(r"<tr.*?</tr>", rest[: rest.index("</table>")], re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_page_shows_what_is_proven_of_defences_next_to_what_was_measured(tmp_path: Path, small_setup: Setup) -> None:
    setup = small_setup.changed(split="iid", aggregator="median", workers=9)
    setups = [setup, setup.changed(attack="sign-flipping"), setup.changed(seed=2), setup.changed(tolerated=3)]
    results = [simulate(one, output=tmp_path) for one in (*setups, setup.changed(pre="nnm", study=None))]
    kappas = [one.metrics["Kappa-hat"].max() for one in results[:3]]
    worst = [one.evaluations["worst worker accuracy"].iloc[-1] for one in results]
    largest, smallest = kappas.index(max(kappas)), worst.index(min(worst[:3]))
    header, *rows = robustness(write_report(tmp_path).page.read_text())
    assert header == ["defence", "n", "f", "bound", "κ", "largest κ-hat", "worst worker"]
    labels = ["little", "sign-flipping", "little"]
    (nnm,) = [row for row in rows if row[0] == "nnm+median"]
    (median,) = [row for row in rows if row[:3] == ["median", "9", "2"]]
    (tolerant,) = [row for row in rows if row[:3] == ["median", "9", "2 (3 tolerated)"]]
    assert median[3:5] == [f"{1 / math.sqrt(7):.3g}", f"{4 * (1 + 2 / 5) ** 2:.3g}"]
    assert median[5:7] == [f"{kappas[largest]:.3g}", labels[largest]]
    assert median[7:] == [f"{100 * worst[smallest]:.1f}", labels[smallest]]
    assert tolerant[4] == f"{4 * (1 + 3 / 3) ** 2:.3g}"
    assert nnm[5:] == ["–", "", f"{100 * worst[-1]:.1f}", "little"]
    # Of each split for itself; runs that are not complete do not count.
    simulate(setup.changed(split={"name": "dirichlet", "minimum": 5}), output=tmp_path)
    assert results[1].directory is not None
    change_status(results[1].directory, state="interrupted", files=None)
    rows = robustness(write_report(tmp_path).page.read_text())
    groups = [number for number, row in enumerate(rows) if len(row) == 1]
    assert [rows[number] for number in groups] == [["split dirichlet"], ["split iid"]]
    assert groups == [1, 3]
    (median,) = [row for row in rows[4:] if row[:3] == ["median", "9", "2"]]
    assert median[5:7] == [f"{max(kappas[0], kappas[2]):.3g}", "little"]


def test_page_shows_a_robustness_coefficient_that_nothing_was_measured_of(written: Written, tmp_path: Path) -> None:
    rows = robustness(written.report.page.read_text())
    assert [row[:3] for row in rows[1:]] == [["median", "7", "2"], ["trimmed-mean", "7", "2"]]
    assert rows[0][3:] == ["bound", "κ"]
    # There is none of the average.
    shutil.copytree(run_directory(written.folder, "average-nan"), tmp_path / "alone")
    page = write_report(tmp_path).page.read_text()
    assert robustness(page) == []
    assert "#robustness" not in page


def test_page_says_that_the_setups_are_not_the_papers(written: Written) -> None:
    page = written.report.page.read_text()
    assert "They are tested here on other setups" in page
    assert {one.scope for one in written.report.judgements} == {"these 4 pairs"}
    assert "not of this sweep" not in page + written.report.summary[0]


def test_same_data_same_figures_and_an_earlier_report_is_replaced(written: Written, tmp_path: Path) -> None:
    def figures(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "report/figures").iterdir()}

    before = figures(written.folder)
    assert {path.suffix for path in map(Path, before)} == {".png", ".svg"}
    assert {name.split("-")[0] for name in before} == {"curves", "ratios", "overview.png", "overview.svg"}
    sweep = shutil.copytree(written.folder, tmp_path / "sweep")
    (sweep / "report/figures/left-over.svg").touch()
    report = write_report(sweep)
    assert figures(sweep) == before
    assert report.page == sweep / "report/index.html"
    assert sorted(path.name for path in sweep.iterdir()) == ["planned.jsonl", "report", "runs"]


def test_a_folder_of_sweeps_is_not_reported_as_one(sweep: Path, small_setup: Setup) -> None:
    simulate(small_setup, output=sweep.parent)
    with pytest.raises(WrongInput, match=r"holds sweeps \(sweep\) and 1 single run.*byzray report .*/sweep$"):
        write_report(sweep.parent)
    assert not (sweep.parent / "report").exists()


def test_folder_that_is_no_report_is_not_replaced(sweep: Path) -> None:
    (sweep / "report").mkdir()
    (sweep / "report/mine.txt").write_text("precious")
    with pytest.raises(WrongInput, match="move it away"):
        write_report(sweep)
    assert (sweep / "report/mine.txt").read_text() == "precious"


def test_tables_are_the_same_as_csv_and_as_parquet(written: Written) -> None:
    sweep = written.folder
    for name in ("runs", "pairs", "statistics", "curves"):
        text = pd.read_csv(sweep / f"report/{name}.csv", keep_default_na=False)
        table = pd.read_parquet(sweep / f"report/{name}.parquet")
        assert list(text.columns) == list(table.columns)
        assert len(text) == len(table) > 0


def curve(*means: float) -> pd.DataFrame:
    return pd.DataFrame({"step": range(len(means)), "mean": means, "std": 0.0, "seeds": 2})


@pytest.mark.parametrize(
    "losses",
    [
        (2.0, 1e30, math.nan),
        (math.nan, math.nan, math.nan),
        (0.0, 0.0, 0.0),
        (2.0, 1e-300, 1e300),
    ],
)
def test_loss_axis_stays_readable_whatever_the_losses(losses: tuple[float, ...]) -> None:
    lost = {("update", "median"): [2]}
    curves = {("update", "median", "loss"): curve(*losses), ("update", "median", "accuracy"): curve(0.1, 0.2, 0.3)}
    drawn = curves_figure(Comparison("x", "x", curves, {}, {}, ["median"], lost))
    low, high = drawn.axes[1].get_ylim()
    assert 0 < low < high <= 30 * 2.0
    drawn.savefig(io.BytesIO())


def test_ratio_figure_has_a_bound_only_where_one_is_known() -> None:
    curves = {("worker", rule, "submitted"): curve(1.0, 2.0) for rule in ("median", "phocas")}
    drawn = ratios_figure(Comparison("x", "x", curves, {}, {"median": 0.5, "phocas": math.nan}, ["median", "phocas"]))
    dashed = [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] for axes in drawn.axes]
    assert dashed == [[0.25], []]


def best_accuracies(plain: Plain, rates: tuple[float, ...], nesterov: tuple[bool, ...]) -> pd.DataFrame:
    """A table of runs of two sizes; each rate, with and without Nesterov, has an unattacked accuracy of its own."""
    runs = []
    for rate_, with_nesterov, f in itertools.product(rates, nesterov, (1, 2)):
        momentum = {**plain["momentum"], "nesterov": with_nesterov}
        attacked = changed(plain, momentum=momentum, byzantine=f, tolerated=f)
        attacked["learning_rate"] = {"initial": rate_, "schedule": None}
        best = 0.5 + rate_ / 1000 + 0.2 * with_nesterov + 0.01 * f
        for number, one in enumerate((attacked, changed(attacked, placement="update"), unattacked(attacked))):
            runs.append(run(f"{rate_}-{with_nesterov}-{f}-{number}", one, 0.1 if number < 2 else best))
    return tables(*runs)[0]


def overview_lines(runs: pd.DataFrame) -> list[tuple[str, list[float]]]:
    """Of every axes that is seen, in order: its title and the heights of its lines of unattacked medians."""
    figure = overview_figure(runs)
    assert figure is not None
    figure.savefig(io.BytesIO())
    return [
        (axes.get_title(), [round(line.get_ydata()[0], 4) for line in axes.lines if line.get_linestyle() == ":"])
        for axes in figure.axes
        if axes.get_visible()
    ]


def test_overview_of_one_rate_has_an_axes_for_each_size(plain: Plain) -> None:
    assert overview_lines(best_accuracies(plain, (0.1,), (False,))) == [
        ("npz, n = 7, f = 1", [0.5101]),
        ("npz, n = 7, f = 2", [0.5201]),
    ]


def test_overview_measures_every_rate_against_its_own_references(plain: Plain) -> None:
    lines = overview_lines(best_accuracies(plain, (10.0, 2.0, 1e-5), (False, True)))
    assert lines[:6] == [
        ("npz, n = 7, f = 1\nrate 1e-05", [0.51]),
        ("npz, n = 7, f = 1\nrate 1e-05, Nesterov", [0.71]),
        ("npz, n = 7, f = 1\nrate 2", [0.512]),
        ("npz, n = 7, f = 1\nrate 2, Nesterov", [0.712]),
        ("npz, n = 7, f = 1\nrate 10", [0.52]),
        ("npz, n = 7, f = 1\nrate 10, Nesterov", [0.72]),
    ]
    assert len(lines) == 12
    assert lines[6] == ("npz, n = 7, f = 2\nrate 1e-05", [0.52])


def test_overview_of_too_many_rates_merges_them_without_a_median_of_several_references(plain: Plain) -> None:
    lines = overview_lines(best_accuracies(plain, tuple(map(float, range(1, 26))), (False,)))
    assert lines == [("npz, n = 7, f = 1", []), ("npz, n = 7, f = 2", [])]


def texts(figure: Figure) -> list[Bbox]:
    """Where titles, names of attacks and legends lie in a figure that was drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    shown = [one for axes in figure.axes if axes.get_visible() for one in (axes.title, *axes.texts)]
    suptitle = [figure._suptitle] if figure._suptitle is not None else []
    return [one.get_window_extent(renderer) for one in [*shown, *figure.legends, *suptitle] if one.get_visible()]


RULES = [
    "average",
    "geometric-median",
    "multi-krum (m=1, squared=yes)",
    "minimum-diameter",
    "_Mine",
    "$\\foo{$",
    "x" * 90,
]
TITLE = (
    "fashion-mnist, n = 51, f = 24, rate 0.123457, batch size 17, l2 0.000123, Nesterov, attack: little (factor=1.5)"
)


@pytest.mark.parametrize("placements", [("worker",), ("update", "server", "worker")], ids=len)
@pytest.mark.parametrize("rules", [1, 7])
def test_titles_and_legends_lie_inside_the_figure(placements: tuple[str, ...], rules: int) -> None:
    known = {
        (placement, rule, quantity): curve(1.0, 2.0)
        for placement in placements
        for rule in RULES[:rules]
        for quantity in ("accuracy", "loss", "sampled", "submitted")
    }
    comparison = Comparison("x", TITLE, known, {"loss": curve(1.0, 1.0)}, dict.fromkeys(RULES, 0.5), RULES[:rules])
    for draw in (curves_figure, ratios_figure):
        figure = draw(comparison)
        for box in texts(figure):
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width
        assert len(figure.legends[0].get_texts()) >= rules * (draw is curves_figure)


def test_titles_of_an_overview_do_not_overlap(plain: Plain) -> None:
    runs = []
    for number, rate_ in enumerate((0.0123456, 0.0234567, 0.0345678, 0.0456789)):
        attacks = [{"name": "empire", "factor": 1 + number / 7}, {"name": "little", "factor": "searched", "a": number}]
        for attack in attacks:
            attacked = changed(plain, attack=attack, dataset={"name": "my_data:StandardisedDigitsOfAllKinds"})
            attacked["learning_rate"] = {"initial": rate_, "schedule": None}
            runs.append(run(f"{number}-{attack['name']}", attacked, 0.5))
    figure = overview_figure(tables(*runs)[0])
    assert figure is not None
    boxes = texts(figure)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_the_legend_of_a_run_hides_no_line(small_setup: Setup) -> None:
    figure = run_figure(simulate(small_setup.changed(aggregator="median")))
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sampled", "submitted", "bound of median"]
    for axes in figure.axes:
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        assert axes.get_legend() is None


def test_lines_of_a_figure_can_be_told_apart() -> None:
    assert len({str(style_of(index)) for index in range(36)}) == 36


def test_shortened_figure_keeps_one_decimal_in_paths_only() -> None:
    assert (
        shortened('<p d="M 1.2345 -6.78 \nL 9 0.05"/> scale(0.015625)') == '<p d="M 1.2 -6.7 L 9 0.0"/> scale(0.015625)'
    )
