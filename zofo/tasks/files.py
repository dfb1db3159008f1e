"""Where a task's rows come from: the package, $ZOFO_DATA, or the hub. A row is a plain dict."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from zofo.errors import BadInput
from zofo.tasks.definition import Hub, Task
from zofo.tasks.template import fields

Row = dict[str, Any]
PACKAGED = Path(__file__).parent / "data"
VARIABLE = "ZOFO_DATA"
MAX_CHARACTERS = 1 << 28  # of a data file once unpacked
WAIT = 5.0  # seconds until a hub that does not answer counts as out of reach


@dataclass(frozen=True)
class Source:
    """A task's rows as published, and where from (`name`); `validation` is None where the set has no file for it."""

    name: str
    train: list[Row]
    validation: list[Row] | None
    test: list[Row]


def load(task: Task) -> Source:
    """Read a task's rows: those in the package, else $ZOFO_DATA/<folder>, else the hub.

    Raises: BadInput where none of them has the data, a file is missing, empty or broken, or a label is
    none of the task's choices (with the file and the row's number, from 1).
    """
    if task.packaged is not None:
        return _from_folder(task, PACKAGED / task.packaged, "jsonl", f"packaged {task.packaged}")
    root = os.environ.get(VARIABLE)
    if task.folder is not None and root and (Path(root) / task.folder).is_dir():
        return _from_folder(task, Path(root) / task.folder, "jsonl.gz", f"${VARIABLE}/{task.folder}")
    if task.hub is None:
        found, do = f"no data: {_about_folder(task)}", f"set {VARIABLE} to a folder that has it"
        raise BadInput(f"--task {task.name}", found, do)
    return _from_hub(task, task.hub)


def _parts(task: Task, read: Callable[[str], list[Row]], splits: tuple[str, str | None, str], name: str) -> Source:
    """Read the three splits with `read` and check their rows."""
    train, validation, test = splits
    return Source(
        name,
        _checked(task, read(train), f"{name}, {train}"),
        None if validation is None else _checked(task, read(validation), f"{name}, {validation}"),
        _checked(task, read(test), f"{name}, {test}"),
    )


def _checked(task: Task, rows: list[Row], where: str) -> list[Row]:
    """The rows as they are. Raises: BadInput when there are none, a field is null, or a label is no choice's."""
    if not rows:
        raise BadInput(where, "no rows", "give data with at least one row")
    for number, row in enumerate(rows, 1):
        label = row.get(task.label)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(task.choices):
            found = f"field '{task.label}' is {label!r}" if task.label in row else f"no field '{task.label}'"
            raise BadInput(f"{where}, row {number}", found, f"labels of {task.name} are 0 to {len(task.choices) - 1}")
        if null := [name for name in fields(task) if name in row and row[name] is None]:
            raise BadInput(f"{where}, row {number}", f"field '{null[0]}' is null", "mend or drop the row")
    return rows


def _from_folder(task: Task, folder: Path, ending: str, name: str) -> Source:
    validation = "validation" if task.validation == "file" else None
    return _parts(
        task, lambda split: read_rows(folder / f"{split}.{ending}", f"{name}/{split}.{ending}"),
        ("train", validation, task.test_file), name,
    )  # fmt: skip


def read_rows(path: Path, asked: str) -> list[Row]:
    """Read a file of JSON lines, gzip-compressed when its name ends in .gz; empty lines are skipped.

    Raises: BadInput when it is missing, cannot be unpacked, is longer than MAX_CHARACTERS, or has a line
    that is no JSON object (with its number).
    """
    if not path.is_file():
        raise BadInput(asked, "no such file", "check the data folder")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
            return [_row(line, f"{asked}, line {number}") for number, line in _lines(handle, asked) if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BadInput(asked, f"cannot be read ({error})", "get the file again") from None


def _lines(handle: IO[str], asked: str) -> Iterator[tuple[int, str]]:
    """Numbered lines, up to MAX_CHARACTERS in all (a small file may unpack to a huge one)."""
    left, number = MAX_CHARACTERS, 0
    while line := handle.readline(left + 1):
        left, number = left - len(line), number + 1
        if left < 0:
            raise BadInput(asked, f"longer than {MAX_CHARACTERS} characters", "give a smaller file")
        yield number, line


def _row(line: str, asked: str) -> Row:
    try:
        row = json.loads(line)
        if "\\ud" in line.lower():  # half of a pair, which is no text: UnicodeEncodeError, a ValueError
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(asked, f"no JSON ({str(error)[:120]})", "mend the line") from None
    if not isinstance(row, dict):
        raise BadInput(asked, "no JSON object", 'write a row as {"field": value, ...}')
    return row


def _about_folder(task: Task) -> str:
    """Why $ZOFO_DATA did not serve."""
    if task.folder is None:
        return "the task names no data folder"
    return f"{VARIABLE} holds no folder '{task.folder}'" if os.environ.get(VARIABLE) else f"{VARIABLE} is not set"


def _from_hub(task: Task, hub: Hub) -> Source:
    name = f"hub {hub.id}" + (f", {hub.config}" if hub.config else "")
    validation = hub.validation if task.validation == "file" else None
    try:
        with _offline_unless_reachable(hub):
            return _parts(task, lambda split: _hub_rows(hub, split), (hub.train, validation, hub.test), name)
    except BadInput:
        raise
    except Exception as error:  # whatever the hub's client raises, the user needs to know the same thing
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        found = f"no data: {_about_folder(task)}, and {hub.id} cannot be had from the hub ({why})"
        do = f"set {VARIABLE} to a folder with {task.folder}/, go online, or take `--task reviews`, which needs neither"
        raise BadInput(f"--task {task.name}", found, do) from None


def _hub_rows(hub: Hub, split: str) -> list[Row]:
    import datasets

    found: Iterable[Row] = datasets.load_dataset(hub.id, hub.config, split=split)
    columns = hub.columns.items()
    return [{ours: row[theirs] for ours, theirs in columns} if columns else dict(row) for row in found]


@contextmanager
def _offline_unless_reachable(hub: Hub) -> Iterator[None]:
    """Ask the hub once; if it does not answer, use what is cached, without the client's many retries."""
    import datasets
    import huggingface_hub

    before = datasets.config.HF_HUB_OFFLINE
    try:
        huggingface_hub.HfApi().dataset_info(hub.id, timeout=WAIT)
    except Exception:
        datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
