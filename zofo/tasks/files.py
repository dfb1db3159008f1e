"""Where a task's rows come from: the package, $ZOFO_DATA, the user's files, or the hub. A row is a plain dict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zofo.errors import BadInput
from zofo.tasks.answers import UNKNOWN, answers, fault
from zofo.tasks.definition import Files, Hub, Task
from zofo.tasks.read import READERS, Row, is_saved, kind, read_rows, saved
from zofo.tasks.template import fields, own_text, plain_fields

PACKAGED = Path(__file__).parent / "data"
VARIABLE = "ZOFO_DATA"
WAIT = 5.0  # seconds until a hub that does not answer counts as out of reach
Splits = tuple[str | None, str | None, str | None]


@dataclass(frozen=True)
class Source:
    """A task's rows as published, and where from (`name`; `files`: what errors call each part).

    `validation` and `test` are None where the set has no file for them; `lent`: validation rows are those of the test file;
    `alone`: there is a test file and nothing else.
    """

    name: str
    train: list[Row]
    validation: list[Row] | None
    test: list[Row] | None
    files: dict[str, str]
    lent: bool = False
    alone: bool = False

    def without_test(self) -> Source:
        """The same for a task that is never tested: without a validation file its test rows serve to validate, and none are left to test.

        Where a validation file is there, or no test file, the rows that would be tested stay apart from those trained on.
        """
        if self.validation is not None or self.test is None:
            return self
        files = {**self.files, "validation": self.files["test"]}
        return replace(self, validation=self.test, test=[], files=files, lent=True)


def load(task: Task) -> Source:
    """Read a task's rows: the user's files where the task has some, those in the package, $ZOFO_DATA/<folder>, else the hub.

    Raises: BadInput where none of them has the data, a file is missing, empty or broken, a field is null or a
    label none of the task's choices (with the file and the row's number, from 1).
    """
    if task.files is not None:
        return _from_files(task, task.files)
    if task.packaged is not None:
        return _from_folder(task, PACKAGED / task.packaged, "jsonl", f"packaged {task.packaged}")
    root = os.environ.get(VARIABLE)
    if task.folder is not None and root and (Path(root) / task.folder).is_dir():
        return _from_folder(task, Path(root) / task.folder, "jsonl.gz", f"${VARIABLE}/{task.folder}")
    if task.hub is None:
        do = f"set {VARIABLE} to a folder with {task.folder}/train.jsonl.gz in it (docs/tasks.md)"
        if task.folder is None:
            do = "say where its rows are, as `files` or `folder` in the task's YAML (docs/tasks.md)"
        raise BadInput(f"--task {task.name}", f"no data: {_about_folder(task)}", do)
    return _from_hub(task, task.hub)


def _parts(
    task: Task, read: Callable[[str, str], list[Row]], splits: Splits, name: str, called: dict[str, str]
) -> Source:
    """Read the splits that there are with `read(part, split)`, and check their rows."""
    parts = dict(zip(("train", "validation", "test"), splits, strict=True))
    rows = {
        part: None if split is None else _checked(task, read(part, split), called[part])
        for part, split in parts.items()
    }
    assert rows["train"] is not None
    if task.shorten and not any(task.shorten in row for row in rows["train"]):
        raise BadInput(called["train"], f"no row has the field '{task.shorten}' of `shorten`", "mend the task's file")
    return Source(name, rows["train"], rows["validation"], rows["test"], called)


def _checked(task: Task, rows: list[Row], where: str) -> list[Row]:
    """The rows as they are. Raises: BadInput when there are none, or one has a null field, what is no text where its text is written, or no right answer."""
    if not rows:
        raise BadInput(where, "no rows", "give data with at least one row")
    names, texts, plain = fields(task), own_text(task), plain_fields(task)
    for number, row in enumerate(rows, 1):
        asked = f"{where}, row {number}"
        answers(task, row, asked)
        if wrong := [name for name in plain if row.get(name) is not None and fault(row[name])]:
            found = f"field '{own_name(task, wrong[0])}' is {fault(row[wrong[0]])} where a text is wanted"
            raise BadInput(asked, found, "write a text there, or drop the row")
    refuse_without(where, [missing(task, row, names, texts) for row in rows])
    return rows


def own_name(task: Task, name: str) -> str:
    """What a field is called in the user's own file."""
    return task.files.columns.get(name, name) if task.files is not None else name


def missing(task: Task, row: Row, names: Sequence[str], texts: Sequence[str]) -> str:
    """What a row has nothing in where something is wanted; empty where nothing is missing."""
    if null := [name for name in names if name in row and row[name] is None]:
        return f"field '{own_name(task, null[0])}' is null"
    held = [name for name in texts if name in row]
    if held and not any(str(row[name]).strip() for name in held):
        return f"no text: field '{own_name(task, held[0])}' is empty"
    return ""


def refuse_without(where: str, found: Sequence[str]) -> None:
    """Raise BadInput for the first row of which something is said, and name the others that it is said of."""
    wrong = [number for number, said in enumerate(found, 1) if said]
    if not wrong:
        return
    alike = [number for number in wrong if found[number - 1] == found[wrong[0] - 1]]
    others = f" (so in {len(alike)} rows: {', '.join(map(str, alike[:8]))}{', ...' if len(alike) > 8 else ''})"
    told = found[wrong[0] - 1] + (others if len(alike) > 1 else "")
    raise BadInput(f"{where}, row {wrong[0]}", told, f"mend or drop {'them' if len(alike) > 1 else 'the row'}")


def _from_folder(task: Task, folder: Path, ending: str, name: str) -> Source:
    splits = ("train", "validation" if task.validation == "file" else None, task.test_file)
    called = {
        part: f"{name}/{split}.{ending}" for part, split in zip(("train", "validation", "test"), splits, strict=True)
    }
    return _parts(task, lambda part, split: read_rows(folder / f"{split}.{ending}", called[part]), splits, name, called)


def _from_files(task: Task, files: Files) -> Source:
    """The user's own files; a folder of several splits, or a hub id, serves for the parts that are not given."""
    given = {part: getattr(files, part) for part in ("train", "validation", "test")}
    for part in ("validation", "test"):
        if given[part] is None and part in splits_of(files.train):
            given[part] = files.train
    called = {part: f"--data.{part} {where}" for part, where in given.items()}
    splits = (given["train"], given["validation"], given["test"])
    return _parts(
        task, lambda part, where: renamed(part_rows(where, part, called[part]), files.columns, called[part]),
        splits, files.train, called,
    )  # fmt: skip


def test_alone(task: Task) -> Source:
    """All rows of a task's test file, and none to train on. Raises: BadInput, as `load`."""
    assert task.files is not None and task.files.test is not None
    where = task.files.test
    asked = f"--data.test {where}"
    rows = _checked(task, renamed(part_rows(where, "test", asked), task.files.columns, asked), asked)
    return Source(where, [], None, rows, dict.fromkeys(("train", "validation", "test"), asked), alone=True)


def unlabelled(task: Task, rows: list[Row], asked: str) -> list[Row]:
    """Rows whose answers are to be predicted, under the task's names for their columns; an answer that is there is not looked at.

    Of a conversation the assistant's last message is the answer; where the user's comes last, one is put there for it. Rows without
    options have those that all training rows share (which are read then). Raises: BadInput, as `load`, but for labels.
    """
    columns = dict(task.files.columns) if task.files is not None else {}
    if task.chat is not None:
        chat = task.chat
        return _checked(task, [{**row, chat: _asking(row.get(chat))} for row in renamed(rows, columns, asked)], asked)
    columns.pop(task.label, None)
    rows = _with_options(task, rows, columns)
    return _checked(task, [{**row, task.label: UNKNOWN} for row in renamed(rows, columns, asked)], asked)


def _with_options(task: Task, rows: list[Row], columns: dict[str, str]) -> list[Row]:
    """Rows without options with those that all training rows of the task share; as they are, where those differ or cannot be had."""
    name = columns.get(task.options, task.options) if isinstance(task.options, str) else ""
    if not name or all(name in row for row in rows):
        return rows
    try:
        held = [row[str(task.options)] for row in load(task).train]
        shared = len({frozenset(options) for options in held}) == 1
    except (BadInput, KeyError, TypeError):  # no file, no options in it, or no list of them
        return rows
    if not shared:
        return rows
    return [row if name in row else {**row, name: held[0]} for row in rows]


def _asking(messages: Any) -> Any:
    """Messages with an answer at their end that stands for their own, or for one to come: of its length nothing may hang."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict):
        return messages
    before = messages[:-1] if last.get("role") == "assistant" else messages
    return [*before, {"role": "assistant", "content": "x"}]


def renamed(rows: list[Row], columns: dict[str, str], asked: str) -> list[Row]:
    """Rows with the task's names for their columns. Raises: BadInput where a column is missing."""
    if not columns:
        return rows
    for number, row in enumerate(rows, 1):
        if missing := [theirs for theirs in columns.values() if theirs not in row]:
            known = ", ".join(sorted(row))
            raise BadInput(f"{asked}, row {number}", f"no column '{missing[0]}'", f"columns of this row: {known}")
    return [{ours: row[theirs] for ours, theirs in columns.items()} for row in rows]


def is_hub_id(where: str) -> bool:
    """Whether a word can only be a data set on the hub: `owner/name`, no file of that name, and not the name of one."""
    named = where.count("/") == 1 and all(where.split("/")) and not where.startswith((".", "~"))
    return named and not Path(where).exists() and kind(Path(where)) not in {*READERS, ".txt", ".zip", ".xlsx"}


def splits_of(where: str) -> set[str]:
    """The splits that a folder of `datasets`, or a data set on the hub, has; a file has none of its own."""
    if is_saved(Path(where)):
        return set(saved(Path(where), where))
    return set(_on_hub(where, f"--data.train {where}")) if is_hub_id(where) else set()


def part_rows(where: str, part: str, asked: str) -> list[Row]:
    """Rows of a part from a file, a folder of `datasets` (its split of that name, or its only one) or the hub."""
    if is_saved(Path(where)) or is_hub_id(where):
        held = saved(Path(where), asked) if is_saved(Path(where)) else _on_hub(where, asked)
        split = part if part in held else next(iter(held)) if len(held) == 1 else None
        if split is None:
            raise BadInput(asked, f"no split '{part}'", f"its splits are {', '.join(sorted(held))}")
        return [dict(row) for row in held[split]]
    return read_rows(Path(where), asked)


def class_names(where: str, column: str) -> tuple[str, ...]:
    """The names that a data set of `datasets` gives to a column of class numbers; none for other data."""
    saved_here = is_saved(Path(where))
    if not saved_here and not is_hub_id(where):
        return ()
    held = saved(Path(where), where) if saved_here else _on_hub(where, f"--data.train {where}")
    return tuple(getattr(next(iter(held.values())).features.get(column), "names", None) or ())


@lru_cache(maxsize=4)
def _on_hub(id: str, asked: str) -> dict[str, Any]:
    """All splits of a data set on the hub. Raises: BadInput when it cannot be had."""
    import datasets

    try:
        with _offline_unless_reachable(id):
            return dict(datasets.load_dataset(id))
    except Exception as error:  # whatever the hub's client raises, the user needs to know the same thing
        found = f"no such file, and it cannot be had from the hub ({_why(error)})"
        raise BadInput(asked, found, "check the path, or go online") from None


def _why(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _about_folder(task: Task) -> str:
    """Why $ZOFO_DATA did not serve."""
    if task.folder is None:
        return "the task names no data folder"
    return f"{VARIABLE} holds no folder '{task.folder}'" if os.environ.get(VARIABLE) else f"{VARIABLE} is not set"


def _from_hub(task: Task, hub: Hub) -> Source:
    name = f"hub {hub.id}" + (f", {hub.config}" if hub.config else "")
    splits = (hub.train, hub.validation if task.validation == "file" else None, hub.test)
    called = {part: f"{name}, {split}" for part, split in zip(("train", "validation", "test"), splits, strict=True)}
    try:
        with _offline_unless_reachable(hub.id):
            return _parts(task, lambda _, split: _hub_rows(hub, split), splits, name, called)
    except BadInput:
        raise
    except Exception as error:  # as in `_on_hub`
        found = f"no data: {_about_folder(task)}, and {hub.id} cannot be had from the hub ({_why(error)})"
        do = f"set {VARIABLE} to a folder with {task.folder}/, go online, or take `--task reviews`, which needs neither"
        raise BadInput(f"--task {task.name}", found, do) from None


def _hub_rows(hub: Hub, split: str) -> list[Row]:
    import datasets

    columns = hub.columns.items()
    own = {"data_files": hub.files} if hub.files else {}
    found = datasets.load_dataset(hub.id, hub.config, split=split, **own)
    return [{ours: row[theirs] for ours, theirs in columns} if columns else dict(row) for row in found]


def reachable(id: str) -> bool:
    """Whether the hub answers, and has a data set. Cost: a question, or WAIT seconds."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(id, timeout=WAIT)
    except Exception:
        return False
    return True


@contextmanager
def _offline_unless_reachable(id: str) -> Iterator[None]:
    """Ask the hub once; if it does not answer, use what is cached, without the client's many retries."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    if not reachable(id):
        datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
