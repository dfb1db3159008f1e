"""The memory of a run's summary: peaks from its metrics, estimates beside them, and no failure by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.config import build
from zofo.job import Prepared, prepare
from zofo.memory import taken
from zofo.memory.resident import Sampled
from zofo.memory.sizes import KINDS, PASS

SMALL: dict[str, Any] = {
    "data.task": "reviews", "data.train_rows": 12, "data.validation_rows": 4, "data.test_rows": 4, "data.batch": 2,
    "data.max_length": 48, "method.T": 1,
}  # fmt: skip
ROWS = [
    {"kind": "step", "step": 1, "memory": {"rss_mb": 120.0}},
    {"kind": "validation", "step": 1, "memory": {"rss_mb": 150.0}},
    {"kind": "step", "step": 2, "memory": {"rss_mb": 130.0}},
    {"kind": "step", "step": 3, "memory": {"cuda_mb": 999.0}},
]


@pytest.fixture
def ready(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Prepared]:
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    config = build(SMALL | {"model.name": folder})
    return config, prepare(config)


def test_peaks_are_those_of_the_metrics_by_what_was_done(ready: tuple[Any, Prepared]) -> None:
    found = taken.summary(*ready, ROWS, Sampled(), 100_000_000)
    assert (found["standing_mb"], found["peak_mb"], found["validation_peak_mb"]) == (100.0, 130.0, 150.0)
    assert found["measured_by"] == Sampled.by
    assert 0 < found["estimated_above_mb"] < found["estimated_mb"]
    kinds = {kind: found[f"estimated_{kind}_mb"] for kind in (*KINDS, PASS)}
    assert sum(kinds.values()) == pytest.approx(found["estimated_mb"]) and min(kinds.values()) > 0


def test_a_run_without_validations_or_estimates_says_less(
    ready: tuple[Any, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("cannot be had")

    monkeypatch.setattr(taken, "estimate", broken)
    found = taken.summary(*ready, ROWS[:1], Sampled(), 0)
    assert set(found) == {"standing_mb", "peak_mb", "measured_by"}
