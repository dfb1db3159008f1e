"""A tiny model, and one tiny run on reviews, made once a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zofo

FEW: dict[str, Any] = {
    "batch": 2, "data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 6, "data__max_length": 64,
    "run__threads": 1, "run__eval_every": 1, "method__T": 1, "method__lam_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _at_home(there: None) -> None:
    """All of it happens in a module's own folder."""


@pytest.fixture
def run(folder: str, place: Path) -> str:
    """The name of a run of two steps."""
    if not (place / "runs" / "two").exists():
        zofo.train(folder, "reviews", "bilevel-lora", steps=2, run="two", **FEW)
    return "two"
