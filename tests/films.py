"""Twenty-four rows of a made-up task, parted as a run's are."""

from __future__ import annotations

from typing import Any

from zofo.tasks.splits import Splits


def splits(rows: list[dict[str, Any]]) -> Splits:
    """Six rows of D_f, eight of D_p, four for validation, the rest for tests."""
    parts = [rows[:6], rows[6:14], rows[14:18], rows[18:]]
    names = ("D_f", "D_p", "validation", "test")
    named = {part: [f"x.csv, row {k}" for k in range(len(own))] for part, own in zip(names, parts, strict=True)}
    return Splits(*parts, [], {}, named)


ROWS = splits([{"text": f"film {k:02}", "label": k % 2} for k in range(24)])
