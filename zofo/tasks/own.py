"""A task from the configuration: a name, a YAML file, or made up from the user's own rows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from zofo.config import COLUMNS, DataConfig
from zofo.errors import BadInput
from zofo.tasks import definition
from zofo.tasks.answers import fault, label_text
from zofo.tasks.definition import Files, Metric, Task
from zofo.tasks.files import class_names, part_rows, refuse_without, renamed
from zofo.tasks.read import READERS, Row

TEXTS = ("text", "sentence", "review", "content", "body")
"""Columns taken for the text where none is named."""
MOST = 200  # different labels of one column
FORMS = dict(zip(COLUMNS, ("labelled", "labelled", "instruction", "instruction", "chat"), strict=True))
"""The kind of data that a column flag means."""
PARTS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


def resolve(data: DataConfig) -> Task:
    """The task that a configuration asks for.

    `data.task` names it (or its YAML file); with `data.train` its rows come from the user's files. A folder with
    train and test files, or `data.train` without a task, makes a task of its own: chat messages, prompt and
    completion, MetaICL's form (input, output, options), or a text and its label, by the columns.
    Raises: BadInput for what is missing or unknown. Cost: reads the training file where a task is made.
    """
    files, folder = given(data), is_folder(data.task)
    if folder and files:
        raise BadInput(
            f"--data.train {data.train}", f"--task {data.task} is a folder with files of its own", "give one of the two"
        )
    if data.task and not folder:
        refuse_columns(data)
        task = definition.find(data.task)
        return with_files(task, files) if files else task
    if files is None and not data.task:
        do = f"name one ({', '.join(definition.names()[:8])} ...; see `zofo ls tasks`), or give --data.train FILE"
        raise BadInput("--task", "no task was named", do)
    return made(data, files or in_folder(Path(data.task)))


def of_test(data: DataConfig) -> Task:
    """The task of `data.test` with no training file beside it: the one that `data.task` names, on that file, or one made from its rows.

    Raises: BadInput, as `resolve`. Cost: reads the file where a task is made.
    """
    if is_folder(data.task):
        raise BadInput(
            f"--data.test {data.test}", f"--task {data.task} is a folder with files of its own", "leave one out"
        )
    if not data.task:
        return made(data, tested(data.test), "test")
    refuse_columns(data)
    return with_files(definition.find(data.task), tested(data.test))


def tested(where: str) -> Files:
    """A file that is scored, where there is none to train on (it stands for that one too: a task's rows have to be somewhere)."""
    place = resolved(where)
    return Files(train=place, test=place)


def resolved(where: str) -> str:
    """A file's whole path; a hub id as it is."""
    return str(Path(where).resolve()) if Path(where).exists() else where


def is_folder(name: str) -> bool:
    """Whether a task is a folder of the user's (a task that ships goes before one of its name)."""
    return bool(name) and name not in definition.names() and Path(name).is_dir()


def files_of(data: DataConfig) -> Files | None:
    """The files of the user's own that a configuration's rows come from; None of a task that ships. Raises: BadInput, as `resolve`."""
    if is_folder(data.task):
        return in_folder(Path(data.task))
    own = given(data)
    return own if own or not data.task.endswith(definition.YAML) else definition.find(data.task).files


def refuse_columns(data: DataConfig) -> None:
    """Raise BadInput for a column named beside a task that has a template of its own."""
    for column in COLUMNS:
        if value := getattr(data, column):
            found = f"--task {data.task} says itself which fields it reads"
            raise BadInput(f"--data.{column} {value}", found, "leave one of the two out")


def given(data: DataConfig) -> Files | None:
    """The files that flags name. Raises: BadInput for a test or validation file without a training file."""
    if not data.train:
        if other := data.validation or data.test:
            raise BadInput(
                f"--data.{'validation' if data.validation else 'test'} {other}",
                "no --data.train beside it",
                "give both",
            )
        return None
    return Files(**{part: resolved(where) for part, where in named(data).items()})


def named(data: DataConfig) -> dict[str, str]:
    """The parts that have a file, as typed."""
    return {part: where for part in PARTS if (where := getattr(data, part))}


def with_files(task: Task, files: Files) -> Task:
    """The task on the user's rows (its names for columns stay)."""
    if task.files is not None:
        files = files.model_copy(update={"columns": task.files.columns})
    return task.model_copy(update={"files": files, "packaged": None, "folder": None, "hub": None, "note": ""})


def in_folder(folder: Path) -> Files:
    """The files of a folder: train, and validation and test where they are there. Raises: BadInput without train."""
    found = {}
    for part, names in PARTS.items():
        there = [folder / f"{n}{end}{z}" for n in names for end in READERS for z in ("", ".gz")]
        if first := next((path for path in there if path.is_file()), None):
            found[part] = str(first.resolve())
    if "train" not in found:
        raise BadInput(f"--task {folder}", "the folder has no train file", f"it should hold train{'|'.join(READERS)}")
    return Files(**found)


def made(data: DataConfig, files: Files, part: str = "train") -> Task:
    """A task by the columns of the rows of a part (test rows, where there are none to train on)."""
    asked = f"--data.{part} {getattr(data, part) or files.train}"
    rows = part_rows(files.train, part, asked)
    if not rows:
        raise BadInput(asked, "no rows", "give data with at least one row")
    there, given = set(rows[0]), [column for column in COLUMNS if getattr(data, column)]
    asked_for = {FORMS[column] for column in given}
    if len(asked_for) > 1:
        raise BadInput(
            f"--data.{given[0]} and --data.{given[-1]}", "they belong to different kinds of data", "leave one out"
        )
    form = next(iter(asked_for), None) or by_columns(there)
    if form == "metaicl":
        return metaicl(files, rows)
    if form == "labelled":
        return labelled(data, files, rows, asked)
    return conversation(data, files) if form == "chat" else instruction(data, files)


def by_columns(there: set[str]) -> str:
    """The kind of data, where no flag says it."""
    if "messages" in there:
        return "chat"
    if {"prompt", "completion"} <= there:
        return "instruction"
    return "metaicl" if {"input", "output", "options"} <= there else "labelled"


def title(files: Files) -> str:
    """A name for the task: its file's, or its folder's where the file is just called train.

    Names are ASCII; a word of other letters is told from the next by the head of its SHA-256.
    """
    path = Path(files.train)
    stem = path.name.split(".")[0]
    word = path.parent.name if stem == "train" else stem
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in word).strip("-")[:64]
    other = any(letter.isalnum() and not letter.isascii() for letter in word)
    told = [plain or "rows", *([hashlib.sha256(word.encode()).hexdigest()[:8]] if other else [])]
    return f"own/{'-'.join(told)}"


def conversation(data: DataConfig, files: Files) -> Task:
    """Chat messages: the last one is the answer; loss alone is measured."""
    files = files.model_copy(update={"columns": {"messages": data.messages_column or "messages"}})
    return Task(
        name=title(files),
        template="{{ messages }}",
        chat="messages",
        label="messages",
        metrics=(),
        files=files,
        stop="end",
    )


def instruction(data: DataConfig, files: Files) -> Task:
    """Prompt and completion; loss alone is measured."""
    columns = {"prompt": data.prompt_column or "prompt", "completion": data.completion_column or "completion"}
    files = files.model_copy(update={"columns": columns})
    return Task(
        name=title(files), template="{{ prompt }}", label="completion", metrics=(), files=files, stop="end", end=True
    )


def metaicl(files: Files, rows: Sequence[Row]) -> Task:
    """MetaICL's form: the options of every row, of each row, or none."""
    held = [row.get("options") or [] for row in rows]
    plain = [sorted(map(str, options)) if isinstance(options, list) else options for options in held]  # in any order
    kinds = {json.dumps(options, default=str) for options in plain}
    if not any(held):
        return Task(name=title(files), template="{{ input }}\n", label="output", metrics=("f1", "em"), files=files)
    metrics: tuple[Metric, ...] = ("macro_f1", "accuracy") if len(kinds) == 1 else ("accuracy",)
    return Task(
        name=title(files), template="{{ input }}\n", label="output", options="options", metrics=metrics, files=files
    )


OTHERWISE = " (for free answers --data.prompt_column and --data.completion_column, for chats --data.messages_column)"
"""What else rows may be, where they seem to be no texts with labels."""


def labelled(data: DataConfig, files: Files, rows: Sequence[Row], asked: str) -> Task:
    """A text and its label: the labels that occur (or the data set's class names) are the choices."""
    text = data.text_column or next((name for name in TEXTS if name in rows[0]), "")
    label = data.label_column or "label"
    if not text or label not in rows[0]:
        found, flag = (
            ("no column is known as the text", "--data.text_column")
            if not text
            else (f"no column '{label}'", "--data.label_column")
        )
        do = f"name it with {flag}; columns: {', '.join(map(repr, map(str, rows[0])))}" + OTHERWISE
        if len(rows[0]) == 1 and (mark := next((c for c in ";|\t" if c in str(next(iter(rows[0])))), "")):
            do = f"put commas between its columns, or tabs and name it .tsv: its one column is called {str(next(iter(rows[0])))!r}, with {mark!r} in it"
        raise BadInput(asked, found, do)
    columns = {"text": text, "label": label}
    held = [row["label"] for row in renamed(list(rows), columns, asked)]
    classes = class_names(files.train, label)
    if classes and (len(set(classes)) < max(2, len(classes)) or not all(name.strip() for name in classes)):
        raise BadInput(
            asked,
            f"the class names of '{label}' are {', '.join(map(repr, classes[:8]))}",
            "name two classes or more, each once",
        )
    choices = classes or labels_of(held, label, asked)
    numbers = any(name.isdigit() for name in classes)  # a label is then a class's number, and no name
    return Task(
        name=title(files),
        about=f"{text} to {label}, made from {Path(files.train).name}.",
        template="{{ text | trim }}\n" + literal(label) + ":",
        template_free="{{ text | trim }}\n",
        template_task=literal(label) + ":",
        choices=choices,
        labels=tuple(range(len(classes))) if numbers else () if classes else choices,
        objective="classification",
        shorten="text",
        files=files.model_copy(update={"columns": columns}),
    )


def literal(text: str) -> str:
    """A text as it stands in a template."""
    return text.replace("{", "").replace("}", "")


def labels_of(values: Sequence[object], column: str, asked: str) -> tuple[str, ...]:
    """The different labels as texts, numbers in their order. Raises: BadInput for a value that is no label, one label, or far too many."""
    bare = [value is None or not str(value).strip() for value in values]
    refuse_without(asked, [f"field '{column}' is empty" if empty else "" for empty in bare])
    for number, value in enumerate(values, 1):
        if wrong := fault(value):
            raise BadInput(f"{asked}, row {number}", f"field '{column}' is {wrong}, no label", "mend or drop the row")
    found = sorted(set(map(label_text, values)), key=order)
    if len(found) < 2:
        raise BadInput(asked, f"column '{column}' holds '{found[0]}' in every row", "give rows of two labels or more")
    if len(found) > MOST:
        do = "for free answers name --data.prompt_column and --data.completion_column"
        raise BadInput(asked, f"column '{column}' has {len(found)} different labels in {len(values)} rows", do)
    return tuple(found)


def order(text: str) -> tuple[float, str]:
    """Numbers by size, before words by letter."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return (math.inf if math.isnan(number) else number), text
