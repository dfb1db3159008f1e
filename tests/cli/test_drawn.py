"""Results over draws as they are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.cli import adapt, drawn


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
