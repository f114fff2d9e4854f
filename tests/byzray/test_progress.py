"""What `byzray run` shows while it runs."""

import io
import logging
import math
import re

import pytest
from rich.console import Console

from byzray.recording.progress import View, actor_log_shown
from byzray.recording.update import Update
from byzray.setups import Setup

SETUP = Setup.model_validate({"steps": 300, "byzantine": 4, "attack": "empire"})


def update(step: int, loss: float = 0.25, accuracy: float = 0.5) -> Update:
    """As a run reports it: before the first step there are no figures of one."""
    row = {"Average loss": loss} if step else {}
    loss = loss if step else math.nan
    return Update(SETUP, step, loss, accuracy, accuracy, step == 300, False, (), row, 1.0, {}, ())


def frame(view: View, width: int) -> list[str]:
    """What a terminal of some width would show at this moment."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(view.picture.lines())
    return [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", shown.get()).splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is there at 80 columns."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    view = View(SETUP, Console(file=io.StringIO(), width=width, force_terminal=True))
    bar = "━" * 60
    assert frame(view, width) == ["multi-krum/empire seed 1: step 0/300", bar, "starting"]
    view.say("starting 8 actors")
    assert frame(view, width)[-1] == "starting 8 actors"
    now += 20
    view.show(update(0, accuracy=math.nan))
    assert frame(view, width)[2:] == [""]
    view.show(update(0))
    assert frame(view, width)[2:] == ["accuracy 0.5000"]
    now += 10
    view.show(update(100))
    assert frame(view, width)[0] == "multi-krum/empire seed 1: step 100/300"
    expected = "loss 0.2500, accuracy 0.5000, 10 steps/s, 0:00:30 elapsed, 0:00:20 left"
    assert frame(view, width)[2] == expected
    view.show(update(200, loss=1.23e30))  # as before it diverges
    assert frame(view, width)[2] == "loss 1.230e+30, accuracy 0.5000, 20 steps/s, 0:00:30 elapsed, 0:00:05 left"
    view.show(update(200, loss=math.nan))
    assert frame(view, width)[2].startswith("loss nan, accuracy 0.5000")
    view.show(update(300))
    assert frame(view, width)[2] == "saving the result and its figure"


def test_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in five seconds, none without figures, and one for whatever else takes its time."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    said = io.StringIO()
    with View(SETUP, Console(file=said, width=80, soft_wrap=True)) as view:
        view.say("starting Ray")
        for seconds, step in [(0, 0), (1, 10), (2, 20), (5, 60), (7, 80), (9, 300)]:
            now = 1000.0 + seconds
            view.show(update(step))
    figures = "loss 0.2500, accuracy 0.5000"
    assert said.getvalue().splitlines() == [
        "byzray: starting Ray",
        f"multi-krum/empire seed 1: step 10/300, {figures}, 10 steps/s, 0:00:01 elapsed, 0:00:29 left",
        f"multi-krum/empire seed 1: step 80/300, {figures}, 11 steps/s, 0:00:07 elapsed, 0:00:19 left",
        f"multi-krum/empire seed 1: step 300/300, {figures}, 33 steps/s, 0:00:09 elapsed, 0:00:00 left",
        "byzray: saving the result and its figure",
    ]


def test_what_actors_say_is_shown_and_no_more_after_it() -> None:
    said: list[str] = []
    with actor_log_shown(said.append):
        logging.getLogger("actors.cluster").info("starting Ray")
    logging.getLogger("actors.cluster").info("starting Ray again")
    assert said == ["starting Ray"]
