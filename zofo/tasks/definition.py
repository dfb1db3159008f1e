"""A task as its YAML file says it: prompt, choices, metric, and where its rows come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from zofo.errors import BadInput, nearest

DEFINITIONS = Path(__file__).parent / "definitions"
MAX_FILE = 1 << 16  # bytes of a task's YAML file
MAX_TEMPLATE = 4096  # characters of a template

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w-]*$", max_length=64)]
Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w-]*(/[A-Za-z0-9][\w-]*)*$", max_length=128)]
Template = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hub(_Frozen):
    """A data set on the model hub: id, configuration, splits, and its column for each of the task's fields."""

    id: str
    config: str | None = None
    columns: dict[str, str] = {}
    train: str = "train"
    validation: str | None = None
    test: str = "validation"


class Task(_Frozen):
    """A task with a fixed list of answers.

    `template` renders a row with the hard prompt and `template_free` without; `choices` stand in label
    order and `label` names the field that holds a row's label (a whole number from 0). `packaged` and
    `folder` name a folder of data files in the package and under $ZOFO_DATA; `validation` says whether
    validation rows have a file of their own or are carved from the training rows.
    """

    name: Name
    about: str
    template: Template
    template_free: Template
    choices: tuple[str, ...] = Field(min_length=2)
    label: str = "label"
    metric: Literal["accuracy", "f1"] = "accuracy"
    packaged: Folder | None = None
    folder: Folder | None = None
    test_file: Literal["validation", "test"] = "test"
    validation: Literal["file", "carved"] = "carved"
    note: str = ""
    hub: Hub | None = None

    @field_validator("choices")
    @classmethod
    def _told_apart(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if any(not choice.strip() for choice in choices) or len(set(choices)) < len(choices):
            raise ValueError("choices must be words, each another")
        return choices

    @model_validator(mode="after")
    def _files_differ(self) -> Task:
        if self.validation == "file" and self.test_file == "validation":
            raise ValueError("validation.jsonl cannot be both the validation and the test file")
        return self


def names() -> list[str]:
    """Names of the tasks that ship with zofo."""
    return sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))


def find(name_or_path: str | Path) -> Task:
    """A task by its name, or by the path of its YAML file (ending in .yaml or .yml).

    Raises: BadInput, with the nearest name for one that is not known, or saying what is wrong with the file.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return read(Path(text), f"--task {text}")
    if text not in names():
        raise BadInput(f"--task {text}", "no such task", nearest(text, names()))
    return read(DEFINITIONS / f"{text}.yaml", f"--task {text}")


def read(path: Path, asked: str) -> Task:
    """Read a task's YAML file. Raises: BadInput when it is missing, large, broken, or has a wrong key or value."""
    if not path.is_file():
        raise BadInput(asked, "no such file", "check the path")
    if path.stat().st_size > MAX_FILE:
        raise BadInput(asked, f"the file is larger than {MAX_FILE} bytes", "a task is a short YAML file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise BadInput(asked, f"not readable as YAML ({' '.join(str(error).split())[:160]})", "mend the file") from None
    if not isinstance(tree, dict):
        raise BadInput(asked, "the file is not a mapping of keys to values", "see zofo/tasks/definitions for examples")
    return _validated(tree, asked)


def dump(task: Task) -> str:
    """The task as YAML text, every key spelled out: what `read` reads."""
    return yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _validated(tree: dict[str, object], asked: str) -> Task:
    try:
        return Task.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = nearest(key, Task.model_fields) if first["type"] == "extra_forbidden" else "mend the file"
        raise BadInput(f"{asked}, key {key}", first["msg"].lower(), hint) from None
