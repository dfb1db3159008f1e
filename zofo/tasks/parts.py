"""The parts of a run's data in tokens: D_f, D_p, validation and test, with demonstrations and task-only twins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids
from zofo.tasks import demonstrations
from zofo.tasks.definition import Task
from zofo.tasks.redraw import Redraw
from zofo.tasks.render import Style, encode_rows
from zofo.tasks.splits import Splits

PARTS = {"f": "D_f", "p": "D_p", "validation": "validation", "test": "test"}
TRAINED = ("f", "p")


@dataclass(frozen=True)
class Parts:
    """Encoded rows by part ("f", "p", "validation", "test"), their task-only twins where calibrated, and notes for the user.

    `redraw` encodes training rows with other demonstrations (None: they keep theirs).
    """

    encoded: dict[str, tuple[Encoded, ...]]
    nulls: dict[str, tuple[Encoded, ...]]
    notes: list[str]
    redraw: Redraw | None = None


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

    Demonstrations of a training row are other rows of its own level, drawn for it (with `redraw` at each step, so the
    row is encoded alone here); those of validation and test rows are rows of D_p, drawn once. Args: positions, tokens that the model can read (None: no limit).
    Raises: BadInput naming the file and row of what cannot be encoded, or for options that do not fit the task.
    """
    refuse(task, data)
    length = min(data.max_length, positions or data.max_length)
    style = Style(data.hard_prompt, length, positions, channel=data.channel, shot_length=data.shot_length)
    pools = pooled(task, splits, tokenizer, style, wanted) if data.shots else {}
    again = bool(data.redraw and data.shots) and set(TRAINED) <= set(wanted)
    redraw = redrawn(task, splits, tokenizer, style, data.shots, seed, pools) if again else None
    once = [key for key in wanted if not (again and key in TRAINED)] if data.shots else []
    shots = {key: drawn(key, splits, pools, data.shots, seed) for key in once}
    encoded, nulls = {}, {}
    for key in wanted:
        rows, named = getattr(splits, PARTS[key]), splits.named[PARTS[key]]
        encoded[key] = encode_rows(task, rows, tokenizer, style, named, shots.get(key))
        if data.calibration != "none" and key not in TRAINED:
            before = kept(shots[key], encoded[key]) if data.calibration == "icl-sfc" else None
            nulls[key] = encode_rows(task, rows, tokenizer, replace(style, task_only=True), named, before)
    notes = told(task, encoded, data, length) + shortened(task, splits, tokenizer, style, pools)
    notes += fewer(redraw, encoded) if redraw else []
    return Parts(encoded, nulls, notes, redraw)


def kept(shots: Sequence[Sequence[str]], rows: Sequence[Encoded]) -> list[Sequence[str]]:
    """The demonstrations that each row has: the first are left out where the model reads no more, and its task-only twin has the same."""
    return [own[row.left_out :] for own, row in zip(shots, rows, strict=True)]


def refuse(task: Task, data: DataConfig) -> None:
    """Raise BadInput for options that do not fit the task, or each other."""
    if data.calibration != "none" and task.kind == "text":
        found = f"{task.name} has no choices to compare"
        raise BadInput(f"--data.calibration {data.calibration}", found, "leave it out")
    if data.channel and task.kind == "text":
        found = f"{task.name} has no choices to score its input after"
        raise BadInput("--data.channel", found, "leave it out, or take a task with choices or options")
    if data.channel and data.calibration != "none":
        found = f"the channel scores the input of {task.name}, of which nothing is left in a task-only prompt"
        raise BadInput(f"--data.calibration {data.calibration}", found, "leave it out, or --data.channel")
    if not data.hard_prompt and task.template_free is None:
        raise BadInput("--data.hard_prompt false", f"{task.name} has no prompt-free variant", "leave it out")
    if data.calibration == "icl-sfc" and not data.shots:
        raise BadInput("--data.calibration icl-sfc", "there are no demonstrations", "take sfc, or add --shots")


def pooled(
    task: Task, splits: Splits, tokenizer: Any, style: Style, wanted: Collection[str]
) -> dict[str, Sequence[str]]:
    """The rows of each level that demonstrations are taken from, as those."""
    levels = dict.fromkeys(level_of(key) for key in wanted)
    held = {key: (getattr(splits, PARTS[key]), splits.named[PARTS[key]]) for key in levels}
    return {key: demonstrations.texts(task, rows, tokenizer, style, named) for key, (rows, named) in held.items()}


def level_of(key: str) -> str:
    """The level that demonstrations of a part's rows come from."""
    return key if key in TRAINED else "p"


def drawn(
    key: str, splits: Splits, pools: Mapping[str, Sequence[str]], shots: int, seed: int
) -> Sequence[Sequence[str]]:
    """The demonstrations of each row of a part."""
    pool = pools[level_of(key)]
    demonstrations.refuse_too_many(shots, len(pool), PARTS[level_of(key)])
    if key in TRAINED:
        return demonstrations.for_each(pool, shots, seed, key)
    return [demonstrations.for_all(pool, shots, seed)] * len(getattr(splits, PARTS[key]))


def redrawn(
    task: Task, splits: Splits, tokenizer: Any, style: Style, shots: int, seed: int, pools: Mapping[str, Sequence[str]]
) -> Redraw:
    """What draws the demonstrations of training rows anew."""
    for key in TRAINED:
        demonstrations.refuse_too_many(shots, len(pools[key]), PARTS[key])
    rows = {key: getattr(splits, PARTS[key]) for key in TRAINED}
    return Redraw(task, tokenizer, style, shots, seed, rows, {key: splits.named[PARTS[key]] for key in TRAINED}, pools)


def fewer(redraw: Redraw, encoded: Mapping[str, Sequence[Encoded]]) -> list[str]:
    """Say that training rows can lose demonstrations, where the longest rows do before the longest of them."""
    left = redraw.fewest(encoded)
    found = "where a long row and long demonstrations meet, the first are left out (the model reads no more"
    return [f"redraw: {found}; the fewest: {left} of {redraw.shots})"] if left < redraw.shots else []


def shortened(
    task: Task, splits: Splits, tokenizer: Any, style: Style, pools: Mapping[str, Sequence[str]]
) -> list[str]:
    """How many demonstrations were cut, level by level, and how many are too long still."""
    if not style.shot_length:
        return []
    whole = pooled(task, splits, tokenizer, replace(style, shot_length=0), pools)
    notes = []
    for key, pool in pools.items():
        cut = sum(a != b for a, b in zip(pool, whole[key], strict=True))
        texts = (text.removesuffix(task.separator) for text in pool)
        long = sum(len(bare_ids(tokenizer, text)) > style.shot_length for text in texts)
        if cut:
            where = f"cut at the end of '{task.shorten}' to {style.shot_length} tokens where they are demonstrations"
            notes.append(f"{PARTS[key]}: {cut} rows {where}")
        if long:
            found = f"{long} rows are longer than {style.shot_length} tokens as demonstrations, with nothing that may be cut"
            notes.append(f"{PARTS[key]}: {found}")
    return notes


def told(task: Task, encoded: dict[str, tuple[Encoded, ...]], data: DataConfig, length: int) -> list[str]:
    """How many rows were cut, and lost demonstrations."""
    where = f"at the end of '{task.shorten}'" if task.shorten else "on the left"
    cut = {PARTS[key]: sum(row.cut for row in rows) for key, rows in encoded.items()}
    lost = {PARTS[key]: [row.left_out for row in rows if row.left_out] for key, rows in encoded.items()}
    notes = [f"{part}: {n} rows cut {where} to {length} tokens" for part, n in cut.items() if n]
    if length < data.max_length:
        notes.append(f"max_length: {length} tokens, since the model reads no more beside what is added to a row")
    if data.calibration != "none" and not (task.template_task and data.hard_prompt):
        notes.append(
            f"calibration: {task.name} has no task-only prompt as it is rendered: choices are scored after nothing"
        )
    return notes + [
        f"{part}: {len(left)} rows with fewer than {data.shots} demonstrations (the model reads no more; "
        f"the fewest: {data.shots - max(left)})"
        for part, left in lost.items() if left
    ]  # fmt: skip
