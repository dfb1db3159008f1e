"""A task as its YAML file says it: prompt, answers, metrics, and where its rows come from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from zofo import yamlfile
from zofo.errors import BadInput, nearest

DEFINITIONS = Path(__file__).parent / "definitions"
FAMILIES = DEFINITIONS / "families"
YAML = (".yaml", ".yml")
MAX_TEMPLATE = 4096  # characters of a template

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$", max_length=96)]
Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w-]*(/[A-Za-z0-9][\w-]*)*$", max_length=128)]
Template = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE)]
Metric = Literal["accuracy", "macro_f1", "f1a", "f1", "em"]
Kind = Literal["fixed", "options", "text"]

FITS: dict[Kind, tuple[Metric, ...]] = {
    "fixed": ("accuracy", "macro_f1", "f1a"),
    "options": ("accuracy", "macro_f1", "f1", "em"),
    "text": ("f1", "em"),
}
"""Which metrics a kind of answer can have."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Hub(_Frozen):
    """A data set on the model hub: id, configuration, splits, and its column for each of the task's fields; `files`, its file for each split, where it has no splits of its own."""

    id: str
    config: str | None = None
    columns: dict[str, str] = {}
    files: dict[str, str] = {}
    train: str = "train"
    validation: str | None = None
    test: str | None = "validation"


class Files(_Frozen):
    """The user's own data: a file, a folder that `datasets` saved, or a hub id, for each part. What is not given is carved.

    `columns` names the data's column for each field that the task reads; columns that it does not name are left out (empty: all keep their names).
    """

    train: str
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = {}


class Task(_Frozen):
    """A task, of one of three kinds.

    fixed: `choices`, in label order, are the answers of every row. options: `options` names the field with a
    row's list of answers, or a field for each. text: neither; answers are free. The label field holds a number
    from 0, or the right answer's text, or a list of texts that are all right (or accepted); `labels` says what it
    holds instead for each choice or option field. A dotted name (`answers.text`) reaches into a field.

    `template` renders a row with the hard prompt, `template_free` without, `template_task` without the row's
    own text (for calibration); `answer` renders a choice as it is scored, `choice` and the row's fields in it.
    `shorten` names the field that a row too long loses text from, at its end (without: the prompt loses its
    beginning). `group` names a field: rows that share it never stand on both sides of the border of carved test or validation rows.
    `chat` names a field with chat messages, which the tokenizer's chat template renders instead; `end` closes
    an answer in training with the tokenizer's end-of-text token. `packaged`, `folder`, `files` and `hub` say
    where rows are, `validation` whether validation rows have a file of their own or are carved from the training rows.
    """

    name: Name
    about: str = ""
    template: Template = "{{ text }}"
    template_free: Template | None = None
    template_task: str = Field("", max_length=MAX_TEMPLATE)
    answer: Template = "{{ choice }}"
    choices: tuple[str, ...] = ()
    labels: tuple[str | int, ...] = ()
    options: str | tuple[str, ...] = ()
    label: str = "label"
    metrics: tuple[Metric, ...] = ("accuracy",)
    objective: Literal["lm", "classification"] = "lm"
    shorten: str | None = None
    separator: str = "\n\n"
    max_new_tokens: int = Field(32, ge=1, le=4096)
    stop: Literal["newline", "end"] = "newline"
    end: bool = False
    chat: str | None = None
    group: str | None = None
    packaged: Folder | None = None
    folder: Folder | None = None
    files: Files | None = None
    test_file: Literal["validation", "test"] = "test"
    validation: Literal["file", "carved"] = "carved"
    note: str = ""
    hub: Hub | None = None

    @property
    def kind(self) -> Kind:
        """Where its answers come from: the task (fixed), the row (options), or nowhere (text)."""
        return "fixed" if self.choices else "options" if self.options else "text"

    @property
    def free(self) -> str:
        """The template without the hard prompt (the only one, where there is none)."""
        return self.template_free or self.template

    @field_validator("choices", "labels", mode="before")
    @classmethod
    def _no_truth_values(cls, held: Any) -> Any:
        if isinstance(held, list | tuple) and any(isinstance(value, bool) for value in held):
            raise ValueError("yes, no, on, off, true and false are truth values in YAML: put quotes around them")
        return held

    @field_validator("choices")
    @classmethod
    def _told_apart(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        blank = any(not choice.strip() for choice in choices)
        if len(choices) == 1 or blank or len({choice.strip() for choice in choices}) < len(choices):
            raise ValueError("choices must be two texts or more, all different")
        return choices

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if self.choices and self.options:
            raise ValueError("choices and options cannot both be given")
        fields = self.options if isinstance(self.options, tuple) else ()
        if self.labels and len(self.labels) != len(self.choices or fields):
            raise ValueError("labels must be as many as choices, or as fields of options")
        if wrong := [name for name in self.metrics if name not in FITS[self.kind]]:
            what = {"fixed": "choices", "options": "options", "text": "free answers"}[self.kind]
            raise ValueError(f"{wrong[0]} is no metric of a task with {what} (those are {', '.join(FITS[self.kind])})")
        if self.objective == "classification" and self.kind == "text":
            raise ValueError("classification needs choices or options")
        if self.validation == "file" and self.test_file == "validation":
            raise ValueError("validation.jsonl cannot be both the validation and the test file")
        return self


def names() -> list[str]:
    """Names of the tasks that ship with zofo."""
    own = [path.stem for path in DEFINITIONS.glob("*.yaml")]
    return sorted(own) + sorted(name for family in FAMILIES.glob("*.yaml") for name in _members(family))


def find(name_or_path: str | Path) -> Task:
    """A task by its name, or by the path of its YAML file (ending in .yaml or .yml).

    Raises: BadInput, with the nearest name for one that is not known, or saying what is wrong with the file.
    """
    text = str(name_or_path)
    if text.endswith(YAML):
        return _with_files(read(Path(text), f"--task {text}"), Path(text).parent)
    family, _, member = text.partition("/")
    if member and member in {name.partition("/")[2] for name in names() if name.startswith(f"{family}/")}:
        return _member(FAMILIES / f"{family}.yaml", text)
    if text not in names():
        near = nearest(text, names())
        if "/" in text and not near.startswith("did"):
            do = "`zofo ls tasks` lists those that ship; a folder of your own holds train.jsonl and test.jsonl"
            raise BadInput(f"--task {text}", "no such task, and no such folder", do)
        raise BadInput(f"--task {text}", "no such task", near)
    return read(DEFINITIONS / f"{text}.yaml", f"--task {text}")


def _members(family: Path) -> list[str]:
    """The names of a family's tasks, `family/member`."""
    return [f"{family.stem}/{name}" for kind in _family(family)["kinds"].values() for name in kind["members"]]


@functools.cache
def _family(path: Path) -> dict[str, Any]:
    """A family's file, which ships with zofo and is read once: a mixture asks for it several times a task."""
    return tree(path, f"task family {path.stem}")


def _member(family: Path, name: str) -> Task:
    """One task of a family: what all share, what its kind has, and a folder of the same name."""
    held = _family(family)
    kind = next(kind for kind in held["kinds"].values() if name.partition("/")[2] in kind["members"])
    own = {key: value for key, value in kind.items() if key != "members"}
    return validated(held["all"] | own | {"name": name, "folder": name}, f"--task {name}")


def _with_files(task: Task, folder: Path) -> Task:
    """The task with the paths of its own files taken from its YAML's folder."""
    if task.files is None:
        return task
    given = {part: getattr(task.files, part) for part in ("train", "validation", "test")}
    there = {
        part: str((folder / value).resolve()) for part, value in given.items() if value and (folder / value).exists()
    }
    return task.model_copy(update={"files": task.files.model_copy(update=there)})


def read(path: Path, asked: str) -> Task:
    """Read a task's YAML file. Raises: BadInput when it is missing, large, broken, or has a wrong key or value."""
    return validated(tree(path, asked), asked)


def tree(path: Path, asked: str) -> dict[str, Any]:
    """A small YAML mapping. Raises: BadInput when it is missing, large, broken or none."""
    return yamlfile.mapping(path, asked, "a task", "see zofo/tasks/definitions for examples")


def dump(task: Task) -> str:
    """The task as YAML text, every key spelled out: what `read` reads."""
    return yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def metrics() -> tuple[str, ...]:
    """The names of all metrics."""
    return get_args(Metric)


def validated(held: dict[str, Any], asked: str) -> Task:
    """A mapping as a task. Raises: BadInput naming the first wrong key."""
    try:
        return Task.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = nearest(key, Task.model_fields) if first["type"] == "extra_forbidden" else "mend the file"
        raise BadInput(
            f"{asked}, key {key}" if key else asked, first["msg"].lower().removeprefix("value error, "), hint
        ) from None
