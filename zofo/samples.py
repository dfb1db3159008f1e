"""What was answered to each row: a dict a row and adapter, written as JSON lines (`zofo eval --samples`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zofo.prepared import Prepared
from zofo.run import outfile, seam
from zofo.run.jsonfile import plain
from zofo.scoring.batch import Encoded
from zofo.scoring.metrics import exact_match
from zofo.tasks.definition import Task
from zofo.tasks.parts import PARTS
from zofo.tasks.read import Row


class Samples:
    """Gathers what scorers found, for a file; `slot`: the adapter that is being scored."""

    def __init__(self, path: str) -> None:
        self.path, self.slot = outfile.written_to(path), ""
        self.lines: list[dict[str, Any]] = []

    def __call__(self, ready: Prepared, part: str, found: Mapping[str, Any]) -> None:
        """Keep the rows of a task's part, as `evaluate` found them with `predictions`."""
        self.lines += [{"slot": self.slot, **row} for row in by_row(ready, part, found)]

    def write(self) -> None:
        """Write a line a row. Raises `ZofoError`."""
        seam.write_file(self.path, jsonl(self.lines).encode())


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Dicts as JSON lines; what JSON has no form for becomes text."""
    return "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False, default=str) + "\n" for row in rows)


def by_row(ready: Prepared, part: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A task's rows with what was answered to each."""
    record, rows = ready.splits.record["parts"][PARTS[part]], getattr(ready.splits, PARTS[part])
    lines = []
    for k, (row, example) in enumerate(zip(rows, ready.encoded[part], strict=True)):
        place = {"task": ready.task.name, "row": record["indices"][k] + 1, "of": record["of"]}
        shown = {"columns": columns(ready.task, row), "answer": expected(example)}
        said = free(example, found, k) if ready.task.kind == "text" else choice(example, found, k)
        lines.append({**place, **shown, **said, "loss": found["losses"][k]})
    return lines


def columns(task: Task, row: Row) -> dict[str, Any]:
    """A row under the file's own names for its columns."""
    theirs = task.files.columns if task.files is not None else {}
    return {theirs.get(name, name): value for name, value in row.items()}


def expected(example: Encoded) -> str | list[str]:
    """The right answer, or all that are right or accepted where there are several."""
    texts = [example.texts[k] for k in example.rights] if len(example.answers) > 1 else list(example.texts)
    return texts[0] if len(texts) == 1 else texts


def choice(example: Encoded, found: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The choice made for row k (null: no score was a number), whether it is right, and what each choice was compared by."""
    made = found["predictions"][k]
    said = {"predicted": example.texts[made] if made >= 0 else None, "right": made in example.rights}
    return said | {"scores": dict(zip(example.texts, found["ranked"][k], strict=True))}


def free(example: Encoded, found: Mapping[str, Any], k: int) -> dict[str, Any]:
    """What was generated for row k, and whether it is an accepted answer (exact match); null where a task is measured by its loss alone."""
    if not found["predictions"]:
        return {"predicted": None, "right": None}
    text = found["predictions"][k]
    return {"predicted": text, "right": bool(exact_match(text, example.texts))}
