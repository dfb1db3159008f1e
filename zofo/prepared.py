"""A task's rows, encoded by a model's tokenizer: what a run, or an evaluation, needs beside the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from zofo import models, objectives
from zofo.config import Config
from zofo.errors import BadInput
from zofo.methods import table
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import pad_id
from zofo.sources import Source
from zofo.tasks import definition, files, mixture, origin, parts
from zofo.tasks.definition import Task
from zofo.tasks.mixture import SIDES, Mixture, Side
from zofo.tasks.parts import PARTS
from zofo.tasks.redraw import Redraw
from zofo.tasks.render import check_choices
from zofo.tasks.splits import Splits, split


@dataclass(frozen=True)
class Prepared:
    """A task's rows, encoded by a model's tokenizer, and what the user should be told about them.

    Of a mixture: its tasks' rows end to end, and each of its tasks in `members`, those of side "train" first.
    """

    task: Task
    splits: Splits
    tokenizer: Any
    source: Source
    encoded: dict[str, tuple[Encoded, ...]]  # by part: "f", "p", "validation", "test"
    nulls: dict[str, tuple[Encoded, ...]]  # their task-only twins, where calibrated
    notes: list[str]
    redraw: Redraw | None = None  # encodes training rows with demonstrations of a step's own
    members: tuple[Prepared, ...] = ()
    side: Side | None = None  # of a member

    def of(self, side: Side) -> tuple[Prepared, ...]:
        """The members of a side."""
        return tuple(member for member in self.members if member.side == side)


def of_task(
    config: Config,
    task: Task,
    source: Source,
    tokenizer: Any = None,
    wanted: Collection[str] = tuple(PARTS),
    rows: files.Source | None = None,
) -> Prepared:
    """Choose a task's rows and encode those of the parts that are wanted.

    Args: tokenizer, the model's (loaded without); rows, the task's as they were read (read anew without). Raises `BadInput`.
    """
    task = objectives.measured(config, task)
    return of_splits(config, task, split(task, config.data, config.run.seed, rows), source, tokenizer, wanted)


def of_splits(
    config: Config,
    task: Task,
    splits: Splits,
    source: Source,
    tokenizer: Any = None,
    wanted: Collection[str] = tuple(PARTS),
) -> Prepared:
    """Encode the parts that are wanted of rows that are chosen. Arguments and errors as `of_task`."""
    tokenizer = tokenizer or models.load_tokenizer(source)
    check_choices(task, tokenizer)
    made = parts.encode(task, splits, tokenizer, config.data, config.run.seed, room(config, task, source), wanted)
    refuse_strange(source, tokenizer, [row for rows in made.encoded.values() for row in rows])
    notes = [*splits.notes, *made.notes]
    return Prepared(task, splits, tokenizer, source, made.encoded, made.nulls, notes, made.redraw)


def room(config: Config, task: Task, source: Source) -> int | None:
    """Tokens that the model can read of a row, less what is generated and an adapter's virtual tokens (None: no limit known).

    Raises: BadInput where nothing is left.
    """
    positions = models.positions(source)
    if positions is None:
        return None
    front = virtual(config)
    left = positions - (task.max_new_tokens if task.kind == "text" and task.metrics else 0) - front
    if left < 8:
        found = f"it reads {positions} tokens, {left} of a row" + (f" behind {front} of the adapter" if front else "")
        do = "take another model" + (", or fewer --adapter.tokens" if front else "")
        raise BadInput(f"--model {source.name}", found, do)
    return left


def refuse_strange(source: Source, tokenizer: Any, rows: Collection[Encoded]) -> None:
    """Raise BadInput where the rows, or what fills them up, have a token that the model does not embed: one added to its tokenizer alone."""
    known = models.vocabulary(source)
    ids = (max((*row.context, *(id for answer in row.answers for id in answer)), default=0) for row in rows)
    largest = max(pad_id(tokenizer), max(ids, default=0))
    if known is not None and largest >= known:
        found = f"its tokenizer has the token {tokenizer.convert_ids_to_tokens(largest)!r}, number {largest}, and the model embeds {known}"
        do = "resize its embeddings (model.resize_token_embeddings(len(tokenizer))), or take the tokenizer that it was made with"
        raise BadInput(f"--model {source.name}", found, do)


def virtual(config: Config) -> int:
    """Virtual tokens that a run's adapter puts before each row."""
    if not table.METHODS[config.method.name].uses_adapter(config) or config.adapter.kind == "lora":
        return 0
    return config.adapter.tokens or {"prefix": 5, "prompt": 10}[config.adapter.kind]


def recorded(prepared: Prepared) -> dict[str, Any]:
    """What splits.json says: each part's rows and their SHA-256, as data and as tokens; of a mixture, of each member too."""
    record = prepared.splits.record
    made = {PARTS[key]: {"tokens": tokens(rows)} for key, rows in prepared.encoded.items()}
    found = {**record, "parts": {part: held | made.get(part, {}) for part, held in record["parts"].items()}}
    members = {member.task.name: {"side": member.side, **recorded(member)} for member in prepared.members}
    return found | ({"members": members} if members else {})


def texts(prepared: Prepared) -> dict[str, list[str]]:
    """What texts.json says: a hash of each text that is trained on, and of each that is validated on."""
    found: dict[str, set[str]] = {"trained": set(), "validated": set()}
    for member in prepared.members or (prepared,):
        if member.side != "test":
            rows = {"trained": (*member.splits.D_f, *member.splits.D_p), "validated": member.splits.validation}
            for kind, held in rows.items():
                found[kind] |= {origin.hashed(origin.text(member.task, row)) for row in held}
    return {kind: sorted(held) for kind, held in found.items()}


def tokens(rows: Collection[Encoded]) -> str:
    """The SHA-256 of encoded rows."""
    return hashlib.sha256(repr([(r.context, r.answers, r.rights, r.skip) for r in rows]).encode()).hexdigest()


def same_rows(record: dict[str, Any], prepared: Prepared) -> None:
    """Raise when a run's rows, or the tokens that they become, are no longer those that it was made on; of a mixture, naming the task."""
    for member in prepared.members:
        same_rows(record["members"][member.task.name], member)
    now = recorded(prepared)["parts"]
    for part, held in record["parts"].items():
        for key, what in (("sha256", "rows"), ("tokens", "prompts and answers in tokens")):
            if now[part].get(key) != held.get(key):
                found = f"the {what} of {part} are not those of the run"
                raise BadInput(f"task {record['task']}", found, "bring back the data, the task and the tokenizer")


def same_demonstrations(record: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise where the rows that demonstrations come from, by what a run's splits.json says and by what is read now, are no longer those that the run was made on."""
    if record["parts"]["D_p"]["sha256"] != now["parts"]["D_p"]["sha256"]:
        found = "the training rows, which demonstrations come from, are not those of the run"
        raise BadInput(f"task {record['task']}", found, "bring back the data, or name other rows: --task, --data.train")


def written(prepared: Prepared) -> str:
    """The task, or the mixture, as the YAML text that a run keeps (`mixture.reread` reads it)."""
    if not prepared.members:
        return definition.dump(prepared.task)
    train, test = (tuple(member.task for member in prepared.of(side)) for side in SIDES)
    return mixture.dump(Mixture(prepared.task.name, prepared.task.about, train, test))
