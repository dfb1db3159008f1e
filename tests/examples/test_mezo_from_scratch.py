"""The page a newcomer reads gives the bits of `zofo train`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from zofo import begin, theta0
from zofo.layers import resolve
from zofo.report.terminal import Quiet
from zofo.run.folder import RunFolder
from zofo.saved import open_run

PAGE = Path(__file__).parents[2] / "examples" / "mezo_from_scratch.py"


def test_the_example_is_bit_equal_to_zofo_train(
    bare: None, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("page", PAGE)
    assert spec is not None and spec.loader is not None
    page: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    words = [
        "--model",
        folder,
        "--steps",
        "5",
        "--lr",
        "1e-3",
        "--batch",
        "2",
        "--max_length",
        "48",
        "--train_rows",
        "20",
    ]
    mine = page.main(words)
    flags = {
        "model.name": folder, "data.task": "reviews", "run.dir": str(tmp_path), "run.name": "mezo", "run.steps": 5,
        "method.lr_theta": 1e-3, "data.batch": 2, "data.max_length": 48, "data.train_rows": 20, "data.test_rows": 4,
        "data.validation_rows": 4, "run.eval_every": 0,
    }  # fmt: skip
    begin.start(*resolve(flags, "mezo"), Quiet())
    saved = open_run(RunFolder(tmp_path / "mezo"), "last", say=print)
    assert theta0.fingerprint(saved.held.leaves) == mine
    assert len(PAGE.read_text().splitlines()) <= 110
