"""Threads wait as the user's environment says, else they sleep soon; and it is said before torch is there to hear."""

from __future__ import annotations

import os

import pytest

from zofo.cli import waiting


def test_threads_sleep_soon_unless_the_user_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in waiting.THEIRS:
        monkeypatch.delenv(name, raising=False)
    waiting.patient()
    assert os.environ["GOMP_SPINCOUNT"] == waiting.SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    waiting.patient()
    assert os.environ["GOMP_SPINCOUNT"] == "5"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    waiting.patient()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_it_is_said_before_torch_is_loaded(process) -> None:
    """OpenMP reads its environment once, when it is loaded."""
    code = "import sys, os; from zofo.cli import main, waiting; seen = []; waiting.patient = lambda: seen.append('torch' in sys.modules); main.main(['ls', 'presets']); assert seen == [False], seen"
    done = process(code=code)
    assert done.returncode == 0, done.stderr
