"""`zofo.predict`: the answers of a run, or a model, to rows that have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zofo import elsewhere, models, named, saved, sources
from zofo.adapting import folder, use
from zofo.adapting.folder import Saved
from zofo.config import Config
from zofo.errors import BadInput
from zofo.guest import given, guest, refuse_checkpoint
from zofo.loading import warned
from zofo.measure import Reading, batches, evaluate
from zofo.named import Found
from zofo.prepared import Prepared, of_splits, same_demonstrations
from zofo.run.jsonfile import read_object
from zofo.scoring import generation
from zofo.scoring.objective import evaluating
from zofo.scoring.past import can_share
from zofo.scoring.tokens import pad_id
from zofo.tasks import files
from zofo.tasks.definition import Task
from zofo.tasks.read import Row
from zofo.tasks.splits import Splits, split

ROWS = 32  # examples of a forward pass at most
OURS = ("predicted", "probability")
"""Columns that are added to a row's own."""
TABLES: dict[str, tuple[str, ...]] = {"to_list": (), "to_pylist": (), "to_dicts": (), "to_dict": ("records",)}
"""How tables give their rows as dicts: of datasets, Arrow, polars and pandas."""


@dataclass(frozen=True)
class Predictions:
    """Rows with what was predicted; the task that they are of, and what predicted them."""

    rows: list[dict[str, Any]]
    task: Task
    what: str


@dataclass(frozen=True)
class By:
    """What answers: a run's checkpoint, one of its adapters, or one that `zofo adapt` saved in a folder."""

    which: str = "best"
    slot: str | None = None
    adapter: str | None = None


@guest()
def predict(
    target: str | Path,
    rows: str | Path | Sequence[Mapping[str, Any]],
    *,
    task: str | Path | None = None,
    which: str = "best",
    slot: str | None = None,
    adapter: str | Path | None = None,
    max_new_tokens: int | None = None,
    dir: str | Path = "runs",
    **options: Any,
) -> list[dict[str, Any]]:
    """Answer rows that have no answer: each row's own columns, `predicted`, and its `probability` among the choices.

    The task's template and choices are those of the run. A choice's probability is the softmax of the choices' scores (what `zofo eval`
    compares them by). Free answers, completions and an assistant's messages are generated, without a probability.
    Args: target, a run or a model (name or path); rows, dicts, a table (datasets, Arrow, polars, pandas) or a file; task, another task (a model needs one, or an adapter, whose own is taken); which, slot, adapter, dir, as
    `zofo.load`; max_new_tokens, of generated answers (the task's own without); options, by dotted key with `__` for the dot
    (`data__text_column="review"`, where the column is called otherwise than in training).
    Raises: BadInput for a missing column, no rows, an unreadable file. Cost: the weights in memory, and a forward pass a batch.
    """
    flags = given(options, elsewhere.PREDICTING.__contains__, "predicting")
    refuse_checkpoint("predict", which)
    flags |= {"data.task": str(task)} if task is not None else {}
    found = named.find(str(target), str(dir))
    by = By(which, slot, None if adapter is None else str(adapter))
    return predicted(found, str(target), rows, flags, by, max_new_tokens, warned).rows


def predicted(
    found: Found,
    name: str,
    rows: str | Path | Sequence[Mapping[str, Any]],
    flags: Mapping[str, Any],
    by: By,
    max_new_tokens: int | None = None,
    say: Callable[[str], None] = print,
) -> Predictions:
    """As `predict`, of what was found under a name. Everything is checked before weights are read."""
    named.refuse_which(found, by.which)
    named.refuse_slot(found, by.slot, by.adapter)
    held_by = folder.find(by.adapter) if by.adapter is not None else None
    config, task = (
        elsewhere.to_predict(found.run, name, flags) if held_by is None else of_adapter(found, held_by, flags)
    )
    task = lengthened(task, max_new_tokens)
    named_so = held_by is None and "data.train" in flags  # the options say what that file's columns are called
    theirs = task if named_so else elsewhere.with_columns(task, flags)
    held, asked = read(rows)
    ready = prepared(config, theirs, held, asked, demonstrations(found, config, task, flags))
    for note in ready.notes:
        if not note.startswith("max_length: "):  # what is cut is told by itself
            say(note.removeprefix("test: "))
    if held_by is None:
        model, what = opened(found, config, by, say)
    else:
        model, what = opened_with(found, held_by, flags, by, say)
    dtype = config.model.dtype
    what += f", computed in {dtype}" if dtype != "fp32" else ""
    return Predictions(answered(model, ready, config, held), theirs, what)


def of_adapter(found: Found, saved: Saved, flags: Mapping[str, Any]) -> tuple[Config, Task]:
    """The task that a saved adapter was made for (or the one that options name), and how its rows are read."""
    elsewhere.refuse_answers(flags)
    return use.read_by(found, saved, reading(flags))


def demonstrations(found: Found, config: Config, task: Task, flags: Mapping[str, Any]) -> Splits | None:
    """The task's rows that demonstrations come from; None where none are wanted. Raises: BadInput where they are no longer those of the run."""
    if not config.data.shots:
        return None
    own = split(task, config.data, config.run.seed)
    if found.run is not None and not elsewhere.OTHER_ROWS & set(flags):
        same_demonstrations(read_object(found.run.splits, "parts"), own.record)
    return own


def reading(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options but for those that name columns."""
    return {key: value for key, value in flags.items() if key not in elsewhere.FIELDS}


def lengthened(task: Task, most: int | None) -> Task:
    """The task that generates so many tokens at most. Raises: BadInput where it has choices, or for fewer than one."""
    if most is None:
        return task
    if task.kind != "text":
        raise BadInput(f"--max-new-tokens {most}", f"{task.name} has choices, nothing is generated", "leave it out")
    if most < 1:
        raise BadInput(f"--max-new-tokens {most}", "not 1 or more", "give a number of tokens")
    return task.model_copy(update={"max_new_tokens": most})


def read(rows: str | Path | Sequence[Mapping[str, Any]]) -> tuple[list[Row], str]:
    """The rows as they are, and what errors call them. Raises: BadInput for no rows, or columns of the names that are added."""
    if isinstance(rows, str | Path):
        held, asked = files.part_rows(str(rows), "test", str(rows)), str(rows)
    else:
        held, asked = mappings(rows), "rows"
    for name in OURS:
        if any(name in row for row in held):
            raise BadInput(asked, f"it has a column '{name}', which predictions would be written to", "rename it")
    return held, asked


def mappings(rows: Any) -> list[Row]:
    """Rows as dicts; those of a `datasets.Dataset`, an Arrow table or a data frame too. Raises: BadInput for what is no list of mappings."""
    way = next((way for way in TABLES if hasattr(rows, way)), None)
    rows = rows if way is None else getattr(rows, way)(*TABLES[way])
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping):
        raise BadInput("rows", f"a {type(rows).__name__}", "give a list of dicts, or a file's path")
    held = list(rows)
    if wrong := [(k, row) for k, row in enumerate(held, 1) if not isinstance(row, Mapping)]:
        number, row = wrong[0]
        raise BadInput(f"rows, row {number}", f"a {type(row).__name__}", "give a dict of columns")
    return [dict(row) for row in held]


def prepared(config: Config, task: Task, held: list[Row], asked: str, own: Splits | None) -> Prepared:
    """The rows encoded, as a task's test rows are; demonstrations are of its `own` training rows."""
    source = sources.find(config.model.name)
    rows = files.unlabelled(task, held, asked)
    names = {"test": [f"{asked}, row {k}" for k in range(1, len(rows) + 1)]}
    splits = Splits([], [], [], rows, [], {}, names)
    if own is not None:
        splits = replace(own, test=rows, notes=[], named=own.named | names)
    measured = task.model_copy(update={"metrics": ("em",)}) if task.kind == "text" else task  # leaves room to generate
    return of_splits(config, measured, splits, source, wanted=("test",))


def opened_with(
    found: Found, held: Saved, flags: Mapping[str, Any], by: By, say: Callable[[str], None]
) -> tuple[nn.Module, str]:
    """The model with a saved adapter on it, and what that is called."""
    used = use.opened(found, held, reading(flags), by.which, say)
    return used.slots.model, f"{used.base.name} with {by.adapter}"


def opened(found: Found, config: Config, by: By, say: Callable[[str], None]) -> tuple[nn.Module, str]:
    """The model, and what it is called."""
    if found.run is None:
        return models.load(found.source, config.model), found.source.name
    held = saved.open_run(found.run, by.which, by.slot, say)
    return held.model, f"run {found.run.name}, step {held.step}, {held.used}"


def answered(model: nn.Module, ready: Prepared, config: Config, held: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with what is predicted."""
    if ready.task.kind == "text":
        return [{**row, "predicted": said} for row, said in zip(held, generated(model, ready, config), strict=True)]
    task, pad = ready.task.model_copy(update={"metrics": ()}), pad_id(ready.tokenizer)
    found = evaluate(
        model, ready.encoded["test"], task, dtype=config.model.dtype, pad=pad, nulls=ready.nulls.get("test", ()),
        predictions=True,
    )  # fmt: skip
    made = zip(held, ready.encoded["test"], found["predictions"], found["ranked"], strict=True)
    return [{**row, **chosen(example.texts, choice, ranked)} for row, example, choice, ranked in made]


def chosen(texts: Sequence[str], choice: int, ranked: Sequence[float]) -> dict[str, Any]:
    """A choice and its probability, softmax(scores)_choice; null where no score was a number."""
    if choice < 0:
        return dict.fromkeys(OURS)
    return {
        "predicted": texts[choice],
        "probability": 1 / math.fsum(math.exp(s - ranked[choice]) for s in ranked if not math.isnan(s)),
    }


def generated(model: nn.Module, ready: Prepared, config: Config) -> list[str]:
    """What is generated for each row. Cost: a forward pass a batch and one a token."""
    rows, task = ready.encoded["test"], ready.task
    reading = Reading(model, config.model.dtype, pad_id(ready.tokenizer), can_share(model))
    texts = [""] * len(rows)
    with evaluating(model), torch.no_grad():
        for index, part, past in batches(reading, rows, ROWS, task.max_new_tokens):
            line = task.stop == "newline"
            said = generation.answers(model, ready.tokenizer, part, task.max_new_tokens, line, past, reading.dtype)
            for k, text in zip(index, said, strict=True):
                texts[k] = text
    return texts
