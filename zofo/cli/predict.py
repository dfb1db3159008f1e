"""`zofo predict`: labels, or generated answers, for rows that have none."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Adapter, Dir, Slot, Target, Which, find
from zofo.elsewhere import PREDICTING
from zofo.errors import BadInput
from zofo.run import outfile

if TYPE_CHECKING:
    from zofo.predicting import Predictions
    from zofo.tasks.definition import Task

FIRST = 10  # rows shown
WIDE = 60  # characters of a text that is shown
ENDINGS = (".jsonl", ".csv")


def key_is_read(key: str) -> bool:
    """Whether an option of the configuration has an effect on predicting."""
    return key in PREDICTING


def predict(
    flags: Mapping[str, Any],
    target: Target,
    file: Annotated[str, Parameter(name="FILE", help="rows: csv, tsv, json, jsonl (.gz too) or parquet")],
    /,
    *,
    out: Annotated[
        str | None, Parameter(metavar="FILE", help="write every row with what was predicted: .jsonl or .csv")
    ] = None,
    slot: Slot = None,
    adapter: Adapter = None,
    which: Which = "best",
    max_new_tokens: Annotated[
        int | None, Parameter(help="tokens of a generated answer at most (default: the task's)")
    ] = None,
    dir: Dir = "runs",
) -> int:
    """Answer rows that have no answer, by a run's own task, a saved adapter's (--adapter), or (--task) another.

    Rows keep their columns and get `predicted` and, where there are choices, its `probability` among them; free answers, completions and messages are generated.
    Without --out the first rows and a count a label are printed.
    """
    outfile.refuse("--out", out)
    if out is not None and Path(out).suffix.lower() not in ENDINGS:
        raise BadInput(f"--out {out}", "no format of rows", f"end its name in {' or '.join(ENDINGS)}")
    found = find(target, dir)
    from zofo.predicting import By, predicted

    made = predicted(found, target, file, flags, By(which, slot, adapter), max_new_tokens, noted)
    line(plain(f"{made.what}, {made.task.name}, {len(made.rows)} rows of {file}"))
    if out is not None:
        write(outfile.written_to(out), made.rows)
        numbers(made)
        line(f"written to {out}")
        return 0
    tell(made)
    return 0


def noted(text: str) -> None:
    """Write a note on standard error."""
    complain(f"note: {text}")


def tell(made: Predictions) -> None:
    """Print the first rows, and how often each label was predicted."""
    column, choices = shown(made.task), made.task.kind != "text"
    rows = [
        (k, short(row.get(column, "")), short(row["predicted"]), *([share(row["probability"])] if choices else []))
        for k, row in enumerate(made.rows[:FIRST], 1)
    ]
    table(("row", column, "predicted", *(["probability"] if choices else [])), rows)
    if len(made.rows) > FIRST:
        line(f"({len(made.rows) - FIRST} more rows: --out FILE)")
    numbers(made)


def numbers(made: Predictions) -> None:
    """Print how often each label was predicted."""
    if made.task.kind != "text":
        line()
        table(("label", "rows"), counts(made))


def counts(made: Predictions) -> list[tuple[str, int]]:
    """How often each label was predicted: a task's choices in their order, those of rows the most frequent first."""
    held = Counter(str(row["predicted"]) for row in made.rows)
    known = {choice: held[choice] for choice in made.task.choices}
    return [*known.items(), *((label, n) for label, n in held.most_common() if label not in known)]


def shown(task: Task) -> str:
    """The column that is shown of a row: the first that holds its own text, or the one that may be shortened."""
    from zofo.tasks.files import own_name
    from zofo.tasks.template import fields, own_text

    return own_name(task, task.shorten or (own_text(task) or fields(task))[0])


def short(value: Any) -> str:
    """A value in a cell."""
    text = plain(value)
    return text if len(text) <= WIDE else text[: WIDE - 3] + "..."


def share(value: float | None) -> str:
    """A probability in a cell."""
    return "-" if value is None else f"{100 * value:.1f} %"


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, or (.csv) as a table under all columns that occur, lists and objects as JSON."""
    from zofo.run import seam
    from zofo.samples import jsonl

    text = separated(rows) if path.suffix.lower() == ".csv" else jsonl(rows)
    seam.write_file(path, text.encode())


def separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a csv file."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def cell(value: Any) -> Any:
    """A value in a csv file."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
