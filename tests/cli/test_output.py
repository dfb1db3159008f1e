"""Tables are plain when piped, drawn on a terminal."""

from __future__ import annotations

import sys

import pytest

from zofo.cli.output import plain, table


def test_plain_is_one_line() -> None:
    assert plain(" a\n\tb \x1b[1m\x00") == "a b ?[1m?"


def test_piped(capsys) -> None:
    table(("a", "b"), [("x\ty", 1)])
    assert capsys.readouterr().out == "a\tb\nx y\t1\n"
    table(("a", "b"), [("x", 1)], header=False)
    assert capsys.readouterr().out == "x\t1\n"


def test_on_a_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table(("a", "b"), [("[red]x", 1)])
    out = capsys.readouterr().out
    assert "[red]x" in out and "\u2500" in out and "\t" not in out
