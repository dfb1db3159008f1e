"""The parts of a run's data in tokens: D_f, D_p, validation and test, with demonstrations and task-only twins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.tasks import demonstrations
from zofo.tasks.definition import Task
from zofo.tasks.render import Style, encode_rows
from zofo.tasks.splits import Splits

PARTS = {"f": "D_f", "p": "D_p", "validation": "validation", "test": "test"}
TRAINED = ("f", "p")


@dataclass(frozen=True)
class Parts:
    """Encoded rows by part ("f", "p", "validation", "test"), their task-only twins where calibrated, and notes for the user."""

    encoded: dict[str, tuple[Encoded, ...]]
    nulls: dict[str, tuple[Encoded, ...]]
    notes: list[str]


def encode(
    task: Task,
    splits: Splits,
    tokenizer: Any,
    data: DataConfig,
    seed: int,
    positions: int | None = None,
    wanted: Collection[str] = tuple(PARTS),
) -> Parts:
    """Encode the parts that are wanted.

    Demonstrations of a training row are other rows of its own level, drawn for it; those of validation and test
    rows are rows of D_p, drawn once. Args: positions, tokens that the model can read (None: no limit).
    Raises: BadInput naming the file and row of what cannot be encoded, or for options that do not fit the task.
    """
    if data.calibration != "none" and task.kind == "text":
        found = f"{task.name} has no choices to compare"
        raise BadInput(f"--data.calibration {data.calibration}", found, "leave it out")
    if not data.hard_prompt and task.template_free is None:
        raise BadInput("--data.hard_prompt false", f"{task.name} has no prompt-free variant", "leave it out")
    if data.calibration == "icl-sfc" and not data.shots:
        raise BadInput("--data.calibration icl-sfc", "there are no demonstrations", "take sfc, or add --shots")
    length = min(data.max_length, positions or data.max_length)
    style = Style(data.hard_prompt, length, positions)
    shots = {key: drawn(key, task, splits, tokenizer, style, data.shots, seed) for key in wanted} if data.shots else {}
    encoded, nulls = {}, {}
    for key in wanted:
        rows, named = getattr(splits, PARTS[key]), splits.named[PARTS[key]]
        encoded[key] = encode_rows(task, rows, tokenizer, style, named, shots.get(key))
        if data.calibration != "none" and key not in TRAINED:
            before = shots.get(key) if data.calibration == "icl-sfc" else None
            nulls[key] = encode_rows(task, rows, tokenizer, replace(style, task_only=True), named, before)
    return Parts(encoded, nulls, told(task, encoded, data, length))


def drawn(
    key: str, task: Task, splits: Splits, tokenizer: Any, style: Style, shots: int, seed: int
) -> Sequence[Sequence[str]]:
    """The demonstrations of each row of a part."""
    part = PARTS[key] if key in TRAINED else "D_p"
    rows = getattr(splits, part)
    demonstrations.refuse_too_many(shots, len(rows), part)
    pool = demonstrations.texts(task, rows, tokenizer, style, splits.named[part])
    if key in TRAINED:
        return demonstrations.for_each(pool, shots, seed, key)
    return [demonstrations.for_all(pool, shots, seed)] * len(getattr(splits, PARTS[key]))


def told(task: Task, encoded: dict[str, tuple[Encoded, ...]], data: DataConfig, length: int) -> list[str]:
    """How many rows were cut, and lost demonstrations."""
    where = f"at the end of '{task.shorten}'" if task.shorten else "on the left"
    cut = {PARTS[key]: sum(row.cut for row in rows) for key, rows in encoded.items()}
    lost = {PARTS[key]: sum(row.left_out > 0 for row in rows) for key, rows in encoded.items()}
    notes = [f"{part}: {n} rows cut {where} to {length} tokens" for part, n in cut.items() if n]
    if length < data.max_length:
        notes.append(f"max_length: {length} tokens, since the model reads no more beside what is added to a row")
    if data.calibration != "none" and not (task.template_task and data.hard_prompt):
        notes.append(
            f"calibration: {task.name} has no task-only prompt as it is rendered: choices are scored after nothing"
        )
    return notes + [
        f"{part}: {n} rows with fewer than {data.shots} demonstrations (the model reads no more)"
        for part, n in lost.items() if n
    ]  # fmt: skip
