"""The guessing game: played as a program through a terminal of its own, and its simulation against what is known."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import pytest
import torch
from rich.console import Console

pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which Windows has not")

SCRIPT = Path(__file__).parents[2] / "examples" / "guessing_game.py"
spec = importlib.util.spec_from_file_location("guessing_game", SCRIPT)
assert spec is not None
assert spec.loader is not None
game = importlib.util.module_from_spec(spec)
spec.loader.exec_module(game)

SEED, GAMES = 3, 20_000
TRUTH = ["y" if game.deal(number, SEED)[2] else "n" for number in range(len(game.ROUNDS))]
END_OF_FILE = "\x04"
# The names say what the player does. `whole`: bad answers to the first question, a wrong answer to the last one.
SCRIPTS = {
    "whole": ["maybe", "", *TRUTH[:-1], "n" if TRUTH[-1] == "y" else "y"],
    "stops": [*TRUTH[:2], END_OF_FILE],
    "no terminal": None,
}
OPTIONS = ["--seed", str(SEED), "--games", "400"]


class Ended(NamedTuple):
    output: str
    figure: Path


def start(name: str, figure: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """The program, its answers waiting in a pseudo-terminal, and the terminal's file descriptors."""
    command = [sys.executable, str(SCRIPT), *OPTIONS, "--output", str(figure)]
    answers = SCRIPTS[name]
    terminal = list(pty.openpty()) if answers is not None else []
    if answers is not None:
        os.write(
            terminal[0], "".join(f"{answer}\n" if answer != END_OF_FILE else answer for answer in answers).encode()
        )
    stdin = terminal[1] if terminal else subprocess.DEVNULL
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return process, terminal


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """What became of every script; they run side by side."""
    folder = tmp_path_factory.mktemp("game")
    started = {name: start(name, folder / f"{name}.png") for name in SCRIPTS}
    outcome = {}
    for name, (process, terminal) in started.items():
        output = process.communicate(timeout=120)[0]
        for descriptor in terminal:
            os.close(descriptor)
        assert process.returncode == 0, output
        # The name of the figure is all that may differ between runs of one seed.
        outcome[name] = Ended(output.replace(str(folder / name), "figure"), folder / f"{name}.png")
    return outcome


def test_a_whole_game_is_scored(ended: dict[str, Ended]) -> None:
    output = ended["whole"].output
    assert [output.count(f"Round {number} of 11 ") for number in range(1, 12)] == [1] * 11
    assert output.count("Right: mu is") == 10
    assert output.count("Wrong: mu is") == 1
    for row in ("all honest +│ +5 │ +5", "2 of 8 the adversary's │ +3 │ +3", "3 of 8 the adversary's │ +3 │ +2"):
        assert re.search(f"{row} │", output)


def test_bad_answers_are_asked_again(ended: dict[str, Ended]) -> None:
    output = ended["whole"].output
    assert output.count("Please answer y (or +) for positive, n (or -) for negative") == 2
    assert output.count("Is mu positive? [y/n]") == 13


def test_the_numbers_are_shuffled_and_then_separated(ended: dict[str, Ended]) -> None:
    def numbers(line: str) -> list[str]:
        return re.findall(r"[+-]\d\.\d\d", line)

    lines = ended["whole"].output.splitlines()
    shown = [numbers(lines[index + 1]) for index, line in enumerate(lines) if line.startswith("Round")]
    honest = [numbers(line) for line in lines if "Honest:" in line]
    hidden = [numbers(line) for line in lines if "Adversary's:" in line]
    assert [len(one) for one in hidden] == [2, 2, 2, 3, 3, 3]
    for before, truthful, false in zip(shown[5:], honest, hidden, strict=True):
        assert sorted(before) == sorted(truthful + false)
        assert before != truthful + false


def test_end_of_file_ends_the_game_with_score_and_plot(ended: dict[str, Ended]) -> None:
    output = ended["stops"].output
    assert "Stopped after 2 of 11 rounds." in output
    assert re.search(r"all honest +│ +2 │ +2 │", output)
    assert ended["stops"].figure.stat().st_size > 10_000
    assert "Traceback" not in output


def test_a_seed_fixes_the_game(ended: dict[str, Ended]) -> None:
    asked_again = re.compile(r"( +Please answer.*\n)|( +Is mu positive\? \[y/n\])")
    whole, stops = (asked_again.sub("", ended[name].output) for name in ("whole", "stops"))
    third = whole.index("Round 3 of")
    assert stops[:third] == whole[:third]
    assert game.deal(0, SEED)[0].tolist() != game.deal(0, SEED + 1)[0].tolist()


def test_without_a_game_a_seed_fixes_output_and_figure(
    ended: dict[str, Ended], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["guessing_game.py", *OPTIONS, "--plot-only", "--output", str(tmp_path / "a.png")])
    monkeypatch.setenv("COLUMNS", "120")
    game.main()
    output = capsys.readouterr().out.replace(str(tmp_path / "a"), "figure")
    assert "Round" not in output
    # Another process, which found no terminal by itself.
    assert ended["no terminal"].output == "Standard input is no terminal: no game, only the plot.\n" + output
    for suffix in (".png", ".svg"):
        figure = (tmp_path / "a").with_suffix(suffix).read_bytes()
        assert figure == ended["no terminal"].figure.with_suffix(suffix).read_bytes()
        assert figure != ended["whole"].figure.with_suffix(suffix).read_bytes(), "the player's answers are not drawn"


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_end_in_the_middle_keeps_the_rounds_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    answers = iter(["+", "-", "no", "yes"])

    def answer(*_: object) -> str:
        for given in answers:
            return given
        raise error

    monkeypatch.setattr("builtins.input", answer)
    played = game.play(Console(), SEED)
    assert [one.player for one in played] == [a == b for a, b in zip("ynny", TRUTH[:4], strict=True)]
    assert "Stopped after 4 of 11 rounds." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--games", "0"], "--games: needs at least 1, got 0"),
        (["--output", "figure.jpg"], "needs a name that ends in .png, got figure.jpg"),
        (["--output", "no/such/folder.png"], "no/such is no folder that can be written to"),
    ],
)
def test_a_wrong_command_line_is_refused_before_the_game(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["guessing_game.py", *options])
    with pytest.raises(SystemExit):
        game.main()
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def single() -> dict[tuple[str, int], torch.Tensor]:
    return game.single_votes(GAMES, SEED)


def test_the_honest_mean_errs_as_often_as_the_closed_form_says(single: dict[tuple[str, int], torch.Tensor]) -> None:
    rates = game.error_rate(single["mean", 0], game.TABLE_RATIOS_P).tolist()
    for ratio, rate in zip(game.TABLE_RATIOS_P.tolist(), rates, strict=True):
        expected = NormalDist().cdf(-math.sqrt(8) * ratio)
        assert rate == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / GAMES) + 1e-9)


def test_more_adversaries_never_help(single: dict[tuple[str, int], torch.Tensor]) -> None:
    for rule in ("mean", "median"):
        rates = torch.stack([game.error_rate(single[rule, f], game.RATIOS_P) for f in range(4)])
        assert (rates.diff(dim=0) >= 0).all()
        assert (rates.diff(dim=0)[:, game.RATIOS_P < 1] > 0.01).all()


def test_neither_sign_is_favoured() -> None:
    numbers = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    for rule in (game.MEAN, game.MEDIAN):
        assert torch.equal(game.vote(rule, -numbers, 3), -game.vote(rule, numbers, 3))
    middle = numbers.sort(dim=0).values[3:5].mean(dim=0)
    torch.testing.assert_close(game.vote(game.MEDIAN, numbers, 3), middle)


@pytest.mark.parametrize("f", [0, 3])
def test_one_set_of_games_serves_every_ratio(single: dict[tuple[str, int], torch.Tensor], f: int) -> None:
    honest = game.noise(SEED, "single votes", GAMES)[: 8 - f]
    for ratio in (0.2, 1.0):
        wrong = (game.vote(game.MEDIAN, game.attacked(ratio + honest, f), f) <= 0).double().mean()
        assert wrong == pytest.approx(game.error_rate(single["median", f], torch.tensor([ratio])).item(), abs=1e-4)


def test_averaging_before_the_vote_beats_averaging_after_it() -> None:
    votes = game.averaged_votes(4_000, SEED)
    at_half = {place: game.error_rate(vote, torch.tensor([0.5])).item() for place, vote in votes.items()}
    assert at_half["average, then vote"] < 0.05
    assert at_half["vote, then average"] > 0.95
    assert at_half["vote, then average"] > at_half["one vote"] > at_half["average, then vote"]
    # What is averaged at the voters has the law of a single vote, with the noise divided.
    spread = votes["one vote"].std() / votes["average, then vote"].std()
    assert spread.item() == pytest.approx(math.sqrt(19), rel=0.05)


def test_the_bound_is_where_errors_have_become_rare(single: dict[tuple[str, int], torch.Tensor]) -> None:
    assert pytest.approx(math.sqrt(5)) == game.PROVEN
    assert game.error_rate(single["median", 3], torch.tensor([game.PROVEN])).item() < 0.01
