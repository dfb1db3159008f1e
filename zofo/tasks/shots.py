"""A few training rows of a task: k of each class, drawn anew for each draw; never a test row.

A task with choices, or with options that all its rows share, has classes: k rows of each. Where each row has options
of its own, the draw is k times as many rows as a row mostly has options (as many as of a task with so many classes);
of free answers it is k rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zofo.config import DataConfig
from zofo.core.streams import generator
from zofo.errors import BadInput
from zofo.tasks.answers import answers
from zofo.tasks.definition import Task
from zofo.tasks.mixture import Mixture, naming
from zofo.tasks.read import Row
from zofo.tasks.splits import Splits, split


@dataclass(frozen=True)
class Pool:
    """Rows to draw from, by group: the classes of a task, or (None) all its rows; `each`, how many groups' worth of k are drawn of one."""

    task: Task
    groups: dict[str | None, tuple[int, ...]]
    rows: tuple[Row, ...]
    named: tuple[str, ...]
    index: tuple[int, ...]  # their numbers in the training file, from 0
    each: int = 1

    @property
    def size(self) -> int:
        """Groups of k rows that make a draw."""
        return len(self.groups) * self.each

    def words(self, shots: int) -> str:
        """What a draw is, in words."""
        if None not in self.groups:
            return f"{shots} examples of each of {len(self.groups)} classes"
        return f"{shots * self.each} examples" + (f" ({shots} for each option of a row)" if self.each > 1 else "")


def pool(task: Task, splits: Splits) -> Pool:
    """The rows of a task that may be drawn: of D_f and D_p, and validation rows that were carved from the training file.

    Cost: a look at each row's answers.
    """
    parts = ["D_f", "D_p"]
    parts += ["validation"] if splits.record["parts"]["validation"]["of"] == "train" else []
    rows = tuple(row for part in parts for row in getattr(splits, part))
    named = tuple(name for part in parts for name in splits.named[part])
    index = tuple(k for part in parts for k in splits.record["parts"][part]["indices"])
    whole: dict[str | None, tuple[int, ...]] = {None: tuple(range(len(rows)))}
    if task.kind == "text":
        return Pool(task, whole, rows, named, index)
    held = [answers(task, row, name) for row, name in zip(rows, named, strict=True)]
    if len({frozenset(answer.choices) for answer in held}) > 1:
        most = Counter(len(answer.choices) for answer in held).most_common(1)[0][0]
        return Pool(task, whole, rows, named, index, most)
    right = [answer.choices[answer.right[0]] for answer in held]
    groups: dict[str | None, tuple[int, ...]] = {
        choice: tuple(k for k, own in enumerate(right) if own == choice) for choice in held[0].choices
    }
    return Pool(task, groups, rows, named, index)


def beyond(found: Pool, splits: Splits) -> list[str]:
    """Options of test rows that are no class of the rows to draw from; none where rows have options of their own. Cost: a look at each test row's answers."""
    if None in found.groups:
        return []
    rows = zip(splits.test, splits.named["test"], strict=True)
    said = dict.fromkeys(choice for row, name in rows for choice in answers(found.task, row, name).choices)
    return [choice for choice in said if choice not in found.groups]


def refuse_few(found: Pool, shots: int) -> None:
    """Raise BadInput where a class (or the task) has fewer rows than a draw takes of it."""
    for name, rows in found.groups.items():
        if len(rows) < shots * found.each:
            what = f"class {name!r} of {found.task.name}" if name is not None else found.task.name
            told = f"{what} has {len(rows)} training rows{places(found, rows)}, a draw takes {shots * found.each}"
            most = len(rows) // found.each
            do = f"ask for at most {most}" if most else "give the class rows, or leave it out of the options"
            raise BadInput(f"--shots {shots}", told, do)


def refuse_few_unseen(mixture: Mixture, shots: int, data: DataConfig) -> None:
    """As `refuse_few`, of each unseen task of a mixture. Cost: reads each task's files."""
    for task in mixture.test:
        with naming(f"--mixture {mixture.name}, task {task.name}"):
            refuse_few(pool(task, split(task, data, 0)), shots)


def places(found: Pool, rows: Sequence[int]) -> str:
    """Where a few rows stand, in brackets: the first with its file, and how many more; where there is none, the file of the others."""
    named = [name.removeprefix("--data.train ") for name in found.named]  # a task of a mixture has no flag
    if rows:
        return f" ({named[rows[0]]}{f', and {len(rows) - 1} more' if rows[1:] else ''})"
    return f" in {named[0].rpartition(', row ')[0]}" if named else ""


def drawn(found: Pool, shots: int, seed: int) -> list[int]:
    """The rows of one draw, by number in the pool: a function of (seed, task, class); fewer shots are a part of more.

    Raises: BadInput as `refuse_few`.
    """
    refuse_few(found, shots)
    taken: list[int] = []
    for name, rows in found.groups.items():
        order = generator(seed, f"shots:{found.task.name}:{name}").permutation(len(rows))
        taken += [rows[k] for k in order[: shots * found.each].tolist()]
    return taken


def lower(splits: Splits, found: Pool, index: Sequence[int]) -> Splits:
    """The splits with D_p made of some rows of the pool."""
    named = {**splits.named, "D_p": [found.named[k] for k in index]}
    return replace(splits, D_p=[found.rows[k] for k in index], named=named)
