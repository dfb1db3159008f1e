"""A run's eval.json takes up new scores of its best checkpoint, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zofo.evaluating import record
from zofo.run.folder import RunFolder


def test_scores_of_a_checkpoint_that_was_overtaken_are_not_recorded(
    run: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = RunFolder(place / "runs" / run), list[str]()
    before = folder.eval.read_bytes()
    monkeypatch.setattr(record, "unchanged", lambda found: False)
    held: Any = SimpleNamespace(found=object(), step=1)
    found: Any = None
    record.keep(folder, held, found, said.append)
    assert len(said) == 1 and "a better checkpoint meanwhile" in said[0]
    assert folder.eval.read_bytes() == before


def test_results_of_another_step_make_room_and_the_start_stays() -> None:
    before = {"step": 3, "results": {"zero-shot": 0, "p": 1, "s": 2}}
    assert record.kept(before, 3) == {"zero-shot": 0, "p": 1, "s": 2}
    assert record.kept(before, 4) == {"zero-shot": 0} and record.kept({}, 4) == {}
