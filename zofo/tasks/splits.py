"""Which rows train, validate and test: a pure function of the run's seed and the task's name.

Test rows come from the test file alone; where there is none, a fifth of the training file is set apart for them.
Validation rows are carved from the training file (or come from a file of their own), training rows from what is
left, split in D_f (upper level) and D_p (lower level). No text stands in two parts, and no group of rows (a
passage with several questions, where the task says so; a prompt with several free answers) on both sides of a carved border (D_f and D_p are parted by row). Every shrinking is told in `notes`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config import DataConfig
from zofo.core.streams import generator
from zofo.errors import BadInput
from zofo.tasks import counted
from zofo.tasks.answers import answers, reach
from zofo.tasks.definition import Task
from zofo.tasks.files import Source, load
from zofo.tasks.read import Row
from zofo.tasks.template import fields


@dataclass(frozen=True)
class Splits:
    """The rows of a run's parts, what the user should know (`notes`), and the record for splits.json."""

    D_f: list[Row]
    D_p: list[Row]
    validation: list[Row]
    test: list[Row]
    notes: list[str]
    record: dict[str, Any]
    named: dict[str, list[str]]  # what errors call each row of a part: file and row


def normalised(task: Task, row: Row) -> str:
    """The text that says which row it is: the fields of its prompt, white space collapsed, in lower case."""
    return "\x1f".join(" ".join(str(value(row, field)).split()).lower() for field in fields(task))


def whole(task: Task, row: Row) -> str:
    """The text that says whether two rows are the same: of free answers the answer too, for a prompt may have several."""
    if task.kind != "text" or task.chat is not None:
        return normalised(task, row)
    return normalised(task, row) + "\x1e" + " ".join(str(value(row, task.label)).split())


def value(row: Row, field: str) -> Any:
    """A field, dotted or not; None where a row has it not."""
    try:
        return reach(row, field)
    except KeyError:
        return None


def _fresh(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that are no repetition of an earlier one."""
    first = dict[str, int]()
    for k, text in enumerate(texts):
        first.setdefault(text, k)
    return list(first.values())


def _contradicting(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> int:
    """How many rows repeat an earlier row's text with another label than its (free answers are part of the text)."""
    if task.kind == "text":
        return 0
    first = dict[str, int]()
    again = [(row, rows[j]) for k, (row, text) in enumerate(zip(rows, texts, strict=True)) if (j := first.setdefault(text, k)) < k]  # fmt: skip
    return sum(_meant(task, row) != _meant(task, earlier) for row, earlier in again)


def _meant(task: Task, row: Row) -> set[str]:
    """A row's right answers, white space collapsed, in lower case."""
    held = answers(task, row, f"task {task.name}")
    return {" ".join(held.choices[k].split()).lower() for k in held.right}


def _sample(indices: Sequence[int], size: int, seed: int, stream: str) -> list[int]:
    """All of the indices in their order if `size` allows, else a seeded sample of them in that order."""
    if size >= len(indices):
        return list(indices)
    chosen = generator(seed, stream).permutation(len(indices))[:size]
    return [indices[k] for k in sorted(chosen.tolist())]


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows as JSON lines with sorted keys."""
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) + "\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()


class _Notes(list[str]):
    """Sentences for the user; `own`: of the user's own rows (published tasks are taken at the papers' sizes without a word)."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own

    def fewer(self, part: str, wanted: int, taken: int, why: str) -> None:
        if taken < wanted:
            self.append(f"{part}: {taken} rows taken where {wanted} were asked for ({why})")

    def more(self, part: str, taken: int, there: int) -> None:
        if self.own and taken < there:
            self.append(f"{part}: {taken} of {there} rows taken (--data.{part}_rows {there} takes all)")

    def dropped(self, part: str, count: int, why: str) -> None:
        if count:
            self.append(f"{part}: {count} rows left out ({why})")


def split(task: Task, config: DataConfig, seed: int, source: Source | None = None) -> Splits:
    """Choose the rows of D_f, D_p, validation and test.

    Args: task; config, how many rows of each (train_rows, validation_rows, test_rows) and D_f's share of
    the training rows (upper_share); seed, the run's. The same arguments give the same rows on any machine;
    another size of training, validation or test leaves the rows of the others where the data suffices;
    source, the task's rows (read anew without).
    Raises: BadInput where the data is missing, broken, or too small for its parts. Cost: reads the data once.
    """
    source = source or load(task)
    notes = _Notes(task.files is not None)
    chosen = (_alone if source.alone else _choose)(task, source, config, seed, notes)
    own = {"validation": source.validation, "test": source.test}
    of = {part: part if own.get(part) is not None else "train" for part in chosen}
    held = {part: getattr(source, of[part]) for part in chosen}
    parts = {part: [held[part][k] for k in chosen[part]] for part in chosen}
    _assert_apart(task, parts)
    part, counting = ("test", parts["test"]) if source.alone else ("train", [*parts["D_f"], *parts["D_p"]])
    notes += counted.told(task, part, counting)
    record: dict[str, Any] = {"task": task.name, "source": source.name, "seed": seed, "notes": list(notes), "parts": {}}
    for part, rows in parts.items():
        file = "test" if source.lent and of[part] == "validation" else of[part]
        record["parts"][part] = {
            "rows": len(rows), "of": file, "sha256": digest(rows), "indices": chosen[part],
        }  # fmt: skip
    named = {part: [f"{source.files[of[part]]}, row {k + 1}" for k in chosen[part]] for part in chosen}
    return Splits(**parts, notes=list(notes), record=record, named=named)


def _assert_apart(task: Task, parts: dict[str, list[Row]]) -> None:
    """Raise AssertionError where a text stands in two parts: a fault of this module."""
    texts = {part: {normalised(task, row) for row in rows} for part, rows in parts.items()}
    rows = {part: {whole(task, row) for row in parts[part]} for part in ("D_f", "D_p")}
    for one, other in itertools.combinations(parts, 2):
        held = rows if {one, other} == set(rows) else texts
        assert not held[one] & held[other], f"{one} and {other} share rows"


def _alone(task: Task, source: Source, config: DataConfig, seed: int, notes: _Notes) -> dict[str, list[int]]:
    """Indices of a test file's rows (`test_rows` at most), where there are no others."""
    rows = range(len(source.test or ()))
    test = _sample(rows, config.test_rows, seed, f"splits:{task.name}:test")
    notes.more("test", len(test), len(rows))
    return {"D_f": [], "D_p": [], "validation": [], "test": test}


def _choose(task: Task, source: Source, config: DataConfig, seed: int, notes: _Notes) -> dict[str, list[int]]:
    """Indices of each part in its file."""
    stream = f"splits:{task.name}"
    train = [normalised(task, row) for row in source.train]
    tests = [normalised(task, row) for row in source.test or ()]
    taken = set(tests)
    validation: list[int] | None = None
    if source.validation is not None:
        validation = _own_validation(task, source.validation, config, seed, taken, notes)
        taken |= {normalised(task, row) for row in source.validation}
    rows = [whole(task, row) for row in source.train]
    pool, other = _fresh(rows), _contradicting(task, source.train, rows)
    notes.dropped("train", len(train) - len(pool) - other, "repeated in the training file")
    notes.dropped("train", other, "repeated in the training file with another label; the first is kept")
    clean = [k for k in pool if train[k] not in taken]
    notes.dropped("train", len(pool) - len(clean), "the same text stands in the validation or test file")
    part = "test" if {train[k] for k in pool} & set(tests) else "validation"
    _refuse_shared(task, source, part, len(pool), len(clean))
    order = [clean[k] for k in generator(seed, f"{stream}:train").permutation(len(clean)).tolist()]
    if source.test is None:
        test, order = _carve_test(task, source.train, order, config, notes)
    else:
        test = _sample(range(len(tests)), config.test_rows, seed, f"{stream}:test")
        if tests:
            notes.fewer("test", config.test_rows, len(test), "the test set has no more")
        notes.more("test", len(test), len(tests))
    if validation is None:
        validation, order = _carve(task, source.train, order, config, notes)
    return {**_levels(task, order, config, notes), "validation": validation, "test": test}


def _refuse_shared(task: Task, source: Source, part: str, rows: int, left: int) -> None:
    """Raise BadInput where so many training rows stand in a part's file too that too few are left."""
    least = 5 if source.test is None else 3 if source.validation is None else 2
    if left == rows or left >= least:
        return
    same = " (it is the training file)" if _one_file(task, part) else ""
    found = f"{rows - left} of the {rows} training rows are {part} rows too{same}, which leaves {left}"
    raise BadInput(source.files[part], found, "give a file of other rows, or leave it out")


def _one_file(task: Task, part: str) -> bool:
    """Whether a part's file is the training file."""
    where = getattr(task.files, part, None)
    if task.files is None or where is None or not Path(where).is_file():
        return False
    return Path(where).resolve() == Path(task.files.train).resolve()


def _own_validation(
    task: Task, rows: list[Row], config: DataConfig, seed: int, taken: set[str], notes: _Notes
) -> list[int]:
    texts = [normalised(task, row) for row in rows]
    clean = [k for k, text in enumerate(texts) if text not in taken]
    notes.dropped("validation", len(texts) - len(clean), "the same text stands in the test file")
    if not clean:
        found = "no validation rows are left"
        raise BadInput(f"--task {task.name}", found, "give validation rows that are not in the test file")
    chosen = _sample(clean, config.validation_rows, seed, f"splits:{task.name}:validation")
    notes.fewer("validation", config.validation_rows, len(chosen), "the validation set has no more")
    notes.more("validation", len(chosen), len(clean))
    return chosen


def _front(task: Task, rows: list[Row], order: list[int], size: int) -> tuple[list[int], list[int]]:
    """The first `size` of the shuffled rows and the others, no group of rows in both."""
    if task.group is None and task.kind != "text":
        return order[:size], order[size:]
    group = {k: str(value(rows[k], task.group)) if task.group else normalised(task, rows[k]) for k in order}
    if task.group and order and all(name == "None" for name in group.values()):
        raise BadInput(f"--task {task.name}", f"no row has the field '{task.group}' of `group`", "mend the task's file")
    sizes, taken, count = Counter(group.values()), set[str](), 0
    for name in dict.fromkeys(group.values()):
        if count >= size:
            break
        taken.add(name)
        count += sizes[name]
    return [k for k in order if group[k] in taken][:size], [k for k in order if group[k] not in taken]


def _carve_test(
    task: Task, rows: list[Row], order: list[int], config: DataConfig, notes: _Notes
) -> tuple[list[int], list[int]]:
    """Test rows where the data has none: from a fifth of the shuffled rows, set apart whatever is asked for; and the rest."""
    apart, rest = _front(task, rows, order, len(order) // 5)
    if not apart:
        raise BadInput(
            f"--task {task.name}", f"{len(order)} different rows in all", "give a test file, or at least 5 rows"
        )
    left = len(order) - len(apart) - len(rest)
    notes.dropped("train", left, f"they share their {task.group or 'prompt'} with test rows")
    test = apart[: config.test_rows]
    notes.append(f"test: no test file, so {len(test)} rows of the training file ({len(apart)}, a fifth, are set apart)")
    return test, rest


def _carve(
    task: Task, rows: list[Row], order: list[int], config: DataConfig, notes: _Notes
) -> tuple[list[int], list[int]]:
    """Validation rows off the front of the shuffled rows (at most a third of them), and the rest from the back."""
    size = min(config.validation_rows, len(order) // 3)
    if not size:
        raise BadInput(f"--task {task.name}", f"{len(order)} training rows are left", "give at least 3 different rows")
    notes.fewer("validation", config.validation_rows, size, "a third of the training file")
    validation, rest = _front(task, rows, order, size)
    if task.files is not None and size == config.validation_rows:
        notes.append(f"validation: no validation file, so {size} rows of the training file")
    left = len(order) - len(validation) - len(rest)
    notes.dropped("train", left, f"they share their {task.group or 'prompt'} with validation rows")
    return validation, rest[::-1]


def _levels(task: Task, order: list[int], config: DataConfig, notes: _Notes) -> dict[str, list[int]]:
    """The training rows, the first of `order`, in D_f and D_p."""
    rows = order[: config.train_rows]
    notes.fewer("train", config.train_rows, len(rows), "the training file has no more")
    notes.more("train", len(rows), len(order))
    if len(rows) < 2:
        raise BadInput(f"--task {task.name}", f"{len(rows)} training rows are left", "give at least 2 different rows")
    upper = min(max(round(config.upper_share * len(rows)), 1), len(rows) - 1)
    return {"D_f": rows[:upper], "D_p": rows[upper:]}
