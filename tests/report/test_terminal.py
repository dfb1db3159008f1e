"""Plain lines when piped, a moving line on a terminal, silence in a library."""

from __future__ import annotations

import io
from typing import Any

import pytest

from zofo.report.terminal import Quiet, Reporter, coming, told


def play(show: Reporter | Quiet, rows: list[dict[str, Any]], of: int) -> None:
    for row in rows:
        if row["kind"] == "step":
            show.step(row, of)
        else:
            show.validation(row)


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(rows: list[dict[str, Any]], of: int, **options: Any) -> list[str]:
    out = io.StringIO()
    with Reporter(out, clock=Clock(), **options) as show:
        play(show, rows, of)
    text = out.getvalue()
    assert "\x1b" not in text and "\r" not in text
    return text.splitlines()


def test_plain_lines_come_a_tenth_of_the_run_apart(metrics) -> None:
    lines = plain(metrics(steps=200, every=100), 200)
    steps = [line for line in lines if "validation" not in line]
    assert len(steps) == 11  # the first, and one each tenth
    assert len(lines) == 13


def test_a_slow_run_says_something_every_half_minute(metrics) -> None:
    out, clock = io.StringIO(), Clock()
    show = Reporter(out, clock=clock)
    for row in metrics(steps=9, every=100):
        show.step(row, 1000)
        clock.now += 11.0
    assert len(out.getvalue().splitlines()) == 3


def test_a_step_tells_loss_gap_rate_memory_and_time_left(metrics) -> None:
    line = plain(metrics(steps=1), 30)[0]
    assert line == "step 1 of 30  loss 0.7  gap 0.066  3 s/step  1.45 GB  1 min 27 s left"


def test_what_a_method_has_not_is_left_out(metrics) -> None:
    row = metrics("mezo", steps=1)[0]
    assert told(row, 5, None, None) == "step 1 of 5  loss 0.798  1.45 GB"
    assert "3 skipped" in told({**row, "bad": 3}, 5, None, None)


def test_time_left_heeds_the_budget(metrics) -> None:
    assert plain(metrics(steps=1), 30, seconds=10.0)[0].endswith("7.0 s left")
    assert plain(metrics(steps=1), 30, seconds=1.0)[0].endswith("0.0 s left")


def test_a_resumed_run_reckons_its_rate_from_where_it_resumed(metrics) -> None:
    out = io.StringIO()
    show = Reporter(out, clock=Clock())
    for k, trained in ((11, 500.0), (12, 502.0), (20, 518.0)):
        show.step({"step": k, "A": 1.0, "time": {"train": trained}}, 20)
    assert "s/step" not in out.getvalue().splitlines()[0]
    assert "2 s/step" in out.getvalue().splitlines()[-1]


def test_a_validation_is_told(metrics) -> None:
    rows = [row for row in metrics() if row["kind"] == "validation"]
    assert "p 74.0 % +- 1.5 (loss 0.5273)  s 74.0 % +- 1.5 (loss 0.5173)  best so far" in plain(rows, 30)[0]
    choice = [{**row, "by": "choice_loss"} for row in rows]
    assert "p 74.0 % +- 1.5 (choice loss 0.2586)  s" in plain(choice, 30)[0], "the loss that decides is told"


def test_the_end(summary) -> None:
    out = io.StringIO()
    with Reporter(out) as show:
        show.phase("loading")
        show.note("a [b] c")
        show.done(summary)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["loading", "note: a [b] c"]
    assert "test rows of sst2, best checkpoint (step 20)" in lines
    assert next(line for line in lines if line.endswith("<- used")).split()[:4] == ["p", "87.1", "%", "+-"]
    assert "30 steps, 1 min 30 s of training; everything is in runs/x (README.md, curves.png, eval.json)" in lines
    assert lines[-4:] == ["next:", "  zofo show x", "  zofo export x --out FOLDER", "  zofo compare"]


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (
            {"prompt": "It's cold. It was", "choices": True},
            ["zofo predict x FILE", "zofo generate x 'It'\"'\"'s cold. It was'"],
        ),
        ({"prompt": "Why?", "choices": False}, ["zofo generate x 'Why?'"]),
        ({"prompt": "It's a\\b\nA:", "choices": False}, ["zofo generate x $'It\\'s a\\\\b\\nA:'"]),
        ({"prompt": "", "choices": True}, ["zofo predict x FILE"]),
    ],
)
def test_what_comes_next_is_of_the_runs_own(summary, example, told: list[str]) -> None:
    """A prompt of its own rows, quoted for a shell; labels for new rows where it has labels."""
    assert coming({**summary, "example": example})[1:-2] == told
    many = {**summary, "example": example, "mixture": "class-to-class"}
    assert coming(many)[1:-2] == ["zofo adapt x --mixture class-to-class", *told]


@pytest.mark.parametrize(("place", "word"), [("runs/x", "x"), ("runs/my run", "'my run'"), ("else/x", "else/x")])
def test_what_comes_next_can_be_typed(summary, place: str, word: str) -> None:
    out = io.StringIO()
    Reporter(out).done({**summary, "run": place})
    assert f"  zofo show {word}\n" in out.getvalue()


@pytest.mark.parametrize(
    ("more", "why"),
    [({}, "--run.test false"), ({"untested": "the mixture has no unseen tasks"}, "the mixture has no unseen tasks")],
)
def test_why_nothing_was_scored_is_said(summary, more: dict[str, str], why: str) -> None:
    out = io.StringIO()
    Reporter(out).done({**summary, "results": {}, **more})
    assert f"test rows of sst2: not scored ({why})\n" in out.getvalue()


def test_on_a_terminal(metrics, summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Reporter(out) as show:
        play(show, metrics(), 30)
        show.note("a [b] c")
        show.done(summary)
        show.close()
    text = out.getvalue()
    assert "step 30 of 30" in text and "a [b] c" in text and "87.1 %" in text
    assert text.count("validation") == 3 and text.rstrip().endswith("zofo compare")


def test_the_terminal_is_put_right_when_training_fails(metrics) -> None:
    show = Reporter(io.StringIO(), live=True)
    with pytest.raises(KeyboardInterrupt), show:
        show.step(metrics()[0], 30)
        raise KeyboardInterrupt
    assert show.bar is not None and not show.bar.open and not show.bar.progress.live.is_started


def test_quiet_says_nothing(capsys, metrics, summary) -> None:
    show = Quiet()
    show.note("x")
    show.phase("x")
    play(show, metrics(), 30)
    show.done(summary)
    assert capsys.readouterr() == ("", "")
