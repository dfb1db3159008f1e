"""The labels of the user's own rows, told before a run learns them: how often each occurs, and which look like a slip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from zofo.tasks.answers import answers
from zofo.tasks.definition import Task

SHOWN = 12  # labels whose count is told
MISSING = {"nan", "none", "null", "n/a", "na", "?"}
"""Labels that are more often a missing value written out."""


def told(task: Task, part: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A note of the labels of a part of own rows; nothing of a published task, or where each row has options of its own."""
    if task.files is None or task.kind != "fixed":
        return
    counts = Counter(task.choices[k] for row in rows for k in answers(task, row, f"task {task.name}").right[:1])
    shown = [f"{name!r} {counts[name]}" for name in task.choices[:SHOWN]]
    more = [f"{len(task.choices) - SHOWN} more"] if len(task.choices) > SHOWN else []
    yield f"{part}: labels {', '.join([*shown, *more])}"
    if part == "train" and (unseen := [name for name in task.choices if not counts[name]]):
        yield f"train: no row taken has the label {', '.join(map(repr, unseen[:SHOWN]))}, so it cannot be learned"
    yield from slips(task.choices)


def slips(labels: Sequence[str]) -> Iterator[str]:
    """Labels that differ in case or white space alone, and those that read as a missing value."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(" ".join(label.split()).lower(), []).append(label)
    for same in alike.values():
        if len(same) > 1:
            yield f"labels {', '.join(map(repr, same))} differ in case or spaces alone and are learned as different ones"
    for label in labels:
        if label.strip().lower() in MISSING:
            yield f"label {label!r} reads as a missing value and is learned as a label"
