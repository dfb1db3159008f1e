"""Results over draws as they are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.cli import adapt, drawn


def made(**more: Any) -> dict[str, Any]:
    """A record of two draws of a task that is measured by its loss."""
    draws = [{"draw": k, "result": {"loss": 2.5, "n": 6}} for k in (1, 2)]
    held = {"task": "a", "metric": "loss", "drawn": "4 examples", "test": {"rows": 6}, "before": {"loss": 3.25, "n": 6}}
    return held | {"notes": [], "draws": draws, "after": {"mean": 2.5, "n": 2}, "seconds": 1.0} | more


def test_a_loss_is_no_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    drawn.task({"start": "fresh", "tasks": {"a": made()}})
    out = capsys.readouterr().out
    assert "what\tloss\trows\nzero-shot\t3.25\t6\n" in out and "draw 2\t2.5\t6\n" in out and "%" not in out


def test_results_that_cannot_be_written_so_far_are_told_and_the_work_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = drawn.keeping(str(tmp_path / "gone" / "a.json"), drawn.Show(alone=False))
    assert keep is not None and drawn.keeping(None, drawn.Show(alone=False)) is None
    keep({"tasks": {}})
    assert capsys.readouterr().out.startswith("note: write ")


def test_an_adapter_that_was_not_saved_is_not_said_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    record: dict[str, Any] = {"seconds": 1.0, "drawn": "4 examples"}
    adapt.told({"tasks": {"a": record}, "bytes": None}, Path("adapters/a"))
    assert "adapters/a" not in capsys.readouterr().out


def test_of_a_mixture_too_it_is_said_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    show = drawn.Show(alone=False)
    show.task(made(notes=["test: 3 rows cut " + "x " * 200]), 1, 3)
    assert [len(row) <= 2 + drawn.NOTE for row in capsys.readouterr().out.splitlines()[1:]] == [True]
    for key, told in (("skipped", "  5 steps skipped (not finite)"), ("fewer", "  up to 3 rows with fewer demonstrat")):
        show.task(made(draws=[{key: 2}, {key: 3}]), 2, 3)
        assert told in capsys.readouterr().out
    show.task({"task": "b", "failed": "no"}, 3, 3)
    assert "failed: no" in capsys.readouterr().out
