"""What a record keeps of a test: every row by every metric, and the loss where there is none."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from zofo.experiment import lines, record


def told(result: dict[str, Any]) -> dict[str, Any]:
    ready: Any = SimpleNamespace(splits=SimpleNamespace(record={"parts": {"test": {"sha256": "ab"}}}))
    return record.told({"s": result}, "s", ready)


def test_rows_are_kept_by_every_metric() -> None:
    by_row = {"macro_f1": [0.25, 1.0], "accuracy": [0.0, 1.0]}
    held = told({"n": 2, "macro_f1": 0.625, "accuracy": 0.5, "losses": [1.0, 2.0], "by_row": by_row})
    assert held["metric"] == "macro_f1" and held["slots"]["s"]["by_row"] == by_row
    assert [type(v) for v in held["slots"]["s"]["by_row"]["accuracy"]] == [int, int]
    assert list(lines.by_row({"test": held})) == ["macro_f1", "accuracy"]


def test_without_a_metric_rows_have_their_losses() -> None:
    held = told({"n": 2, "loss": 1.5, "losses": [1.0, math.nan], "by_row": {}})
    assert held["metric"] == "loss"
    (name, values), *rest = lines.by_row({"test": held}).items()
    assert (name, values[0], math.isnan(values[1]), rest) == ("loss", 1.0, True, [])
