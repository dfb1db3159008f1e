"""What a row may be answered with, and which answers are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.errors import BadInput
from zofo.tasks.definition import Task

SHOWN = 12  # labels listed in an error


class Unknown:
    """What stands in a row's label field where its answer is to be predicted."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Answers:
    """The texts of a row's choices and which are right (the first right one is trained on). Free answers: all accepted."""

    choices: tuple[str, ...]
    right: tuple[int, ...]


def reach(row: Mapping[str, Any], name: str) -> Any:
    """A field's value; `answers.text` reaches into the field `answers`. Raises: KeyError where it is not there."""
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    if not dot or not isinstance(row[head], Mapping):
        raise KeyError(name)
    return reach(row[head], rest)


def answers(task: Task, row: Mapping[str, Any], asked: str) -> Answers:
    """The choices of a row and the right ones among them (the first stands for it where the label is `UNKNOWN`).

    Args: asked, what errors name (file and row). Raises: BadInput where the label or an option is missing,
    null or none of the choices.
    """
    if task.chat is not None:
        return Answers(("",), (0,))
    try:
        label = reach(row, task.label)
    except KeyError:
        raise BadInput(asked, f"no field '{called(task)}'", f"fields of this row: {', '.join(sorted(row))}") from None
    if label is UNKNOWN:
        return Answers(("x",) if task.kind == "text" else task.choices or _options(task, row, asked), (0,))
    if task.kind == "text":
        return _free(label, f"field '{called(task)}'", asked)
    choices = task.choices or _options(task, row, asked)
    given = label if isinstance(label, list | tuple) else [label]
    if any(map(is_nan, given)):
        raise BadInput(asked, f"field '{called(task)}' is NaN", "mend or drop the row")
    refuse_two_meanings(task, given, choices, asked)
    found = [_index(value, task.labels, choices) for value in given]
    if not given or None in found:
        known = task.labels or (*range(len(choices)), *choices)
        do = "it must be one of " + ", ".join(map(str, known[:SHOWN])) + (" ..." if len(known) > SHOWN else "")
        raise BadInput(asked, f"field '{called(task)}' is {str(label)[:80]!r}", do)
    return Answers(choices, tuple(dict.fromkeys(k for k in found if k is not None)))


def called(task: Task) -> str:
    """The field of the right answers as the user's own file calls it."""
    return (task.files.columns if task.files is not None else {}).get(task.label, task.label)


def is_text(value: Any) -> bool:
    """Whether a value can stand as a text: letters or a number, and not blank."""
    kind = isinstance(value, str | int | float) and not isinstance(value, bool)
    return kind and not is_nan(value) and bool(str(value).strip())


def is_nan(value: Any) -> bool:
    """Whether a value is the float that is no number: what tables write where nothing is."""
    return isinstance(value, float) and math.isnan(value)


def fault(value: Any) -> str:
    """What is wrong with a value where text is wanted: null, NaN, a list, an object, or bytes; nothing ("") of any other."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, list | tuple | Mapping):
        return "an object" if isinstance(value, Mapping) else "a list"
    return "null" if value is None else "NaN" if is_nan(value) else ""


def label_text(value: Any) -> str:
    """A label as text; of a float without a fraction the whole number, for 1 and 1.0 are one label."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()


def refuse_two_meanings(task: Task, values: Sequence[Any], choices: Sequence[str], asked: str) -> None:
    """Raise BadInput for a label that is one choice's text and another's number: a guess would be wrong for half of all data.

    Among a row's own options it means the one of that text.
    """
    if task.labels or task.options:
        return
    for value in values:
        named, number = _named(value, choices), _number(value, choices)
        if named is None or number in (None, named):
            continue
        found = f"field '{called(task)}' is {value!r}, the text of choice {named} and the number of choice {number}"
        raise BadInput(
            asked, found, "say which with `labels:` in the task's file, the labels of the choices in their order"
        )


def _index(value: Any, labels: Sequence[str | int], choices: Sequence[str]) -> int | None:
    """Which choice a label means, or None."""
    if labels:
        return _named(value, [str(label) for label in labels])
    named = None if isinstance(value, bool) else _named(value, choices)
    return _number(value, choices) if named is None else named


def _named(value: Any, names: Sequence[str]) -> int | None:
    """Which of the names a label is, or None: as it stands, as a whole number (1.0), or as JSON writes it (true)."""
    texts = [str(value).strip(), label_text(value), *([str(value).lower()] if isinstance(value, bool) else [])]
    return next((list(names).index(text) for text in texts if text in names), None)


def _number(value: Any, choices: Sequence[str]) -> int | None:
    """The choice that a label counts to, from 0, or None."""
    text = label_text(value)
    number = int(text) if len(text) < 10 and text.isascii() and text.isdigit() and not isinstance(value, bool) else -1
    return number if 0 <= number < len(choices) else None


def _options(task: Task, row: Mapping[str, Any], asked: str) -> tuple[str, ...]:
    """A row's own choices."""
    listed = isinstance(task.options, str)
    names = (task.options,) if isinstance(task.options, str) else task.options
    try:
        found = [reach(row, name) for name in names]
    except KeyError as error:
        raise BadInput(asked, f"no field {error}", f"fields of this row: {', '.join(sorted(row))}") from None
    values = found[0] if listed else found
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise BadInput(asked, f"field '{names[0]}' is no list of two options or more", "give the row its options")
    for k, value in enumerate(values):
        if not is_text(value):
            found_here = f"an option in field '{names[0 if listed else k]}' is {str(value)[:80]!r}"
            raise BadInput(asked, found_here, "options are texts")
    return tuple(str(value) for value in values)


def _free(label: Any, what: str, asked: str) -> Answers:
    """All accepted texts of a free answer."""
    texts = list(label) if isinstance(label, list | tuple) else [label]
    if not texts or not all(map(is_text, texts)):
        raise BadInput(
            asked, f"{what} is {str(label)[:80]!r}", "give the text of an answer, or a list of accepted ones"
        )
    return Answers(tuple(str(t) for t in texts), tuple(range(len(texts))))
