"""Mixtures on the command line: what they hold, and tables with a line a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zofo.cli.output import line, plain, table
from zofo.errors import BadInput
from zofo.report.words import figure, named, primary, score

if TYPE_CHECKING:
    from zofo.prepared import Prepared
    from zofo.tasks.definition import Task
    from zofo.tasks.mixture import Side

WORDS: dict[Side, str] = {"train": "training", "test": "unseen"}
"""What the tasks of a side are called."""


def show(name: str) -> int:
    """A mixture: its tasks with side, metric and, where the data is here, rows; those that cannot be had are named."""
    from zofo.tasks.mixture import SIDES, find, here, listed

    _, folder, listing = listed(name, f"zofo show {name}")
    entries = [(side, entry) for side in SIDES for entry in getattr(listing, side)]
    if all(here(entry, folder) for _, entry in entries):
        columns: tuple[str, ...] = ("task", "side", "metric", "training rows", "test rows")
        rows: list[tuple[str, ...]] = [
            (task.name, WORDS[side], *about(task)) for side, task in find(name, f"zofo show {name}").sides()
        ]
    else:
        columns, places = ("task", "side", "data"), {True: "is here", False: "on the hub alone"}
        rows = [(entry, WORDS[side], places[here(entry, folder)]) for side, entry in entries]
    told = [f"mixture {name}:"] + ([f"{plain(listing.about).rstrip('.')}."] if listing.about else [])
    line(" ".join([*told, *(["All must have options."] if listing.kind != "any" else [])]))
    table(columns, rows)
    return 0


def about(task: Task) -> tuple[str, str, str]:
    """A task's metric, and the rows of its files ("-" where they are not here)."""
    from zofo.tasks.files import load

    try:
        rows = load(task)
    except BadInput as error:
        return metric_of(task), "-", plain(error.found)
    return metric_of(task), str(len(rows.train)), str(len(rows.test)) if rows.test is not None else "-"


def members(ready: Prepared) -> None:
    """Print a line a task: side, rows of each part, metric."""
    from zofo.tasks.parts import PARTS

    rows = [
        (m.task.name, WORDS[m.side or "train"], *(str(len(m.encoded[key])) for key in PARTS), metric_of(m.task))
        for m in ready.members
    ]
    table(("task", "side", *PARTS.values(), "metric"), rows)


def metric_of(task: Task) -> str:
    """A task's first metric as people write it."""
    return named(task.metrics[0]) if task.metrics else "loss"


def results(found: Mapping[str, Mapping[str, Any]], used: str | None) -> None:
    """Print a line a task with its metric, a column a result (adapter, or zero-shot), and the mean over tasks."""
    names = list(next(iter(found.values()))["tasks"])
    columns = [name + (" (used)" if name == used else "") for name in found]
    rows = [
        (task, named(primary(first := one(found, task)[0])), *(cell(r) for r in one(found, task)), str(first["n"]))
        for task in names
    ]
    whole = [cell(result) for result in found.values()]
    first = next(iter(found.values()))
    rows.append(("mean over tasks", named(primary(first)), *whole, str(first["n"])))
    table(("task", "metric", *columns, "rows"), rows)
    if left := [name for name in names if primary(one(found, name)[0]) is None]:
        line(f"note: no metric, so not in the mean: {plain(', '.join(left))}")


def one(found: Mapping[str, Mapping[str, Any]], task: str) -> list[Mapping[str, Any]]:
    """One task's results, of each of those found."""
    return [result["tasks"][task] for result in found.values()]


def cell(result: Mapping[str, Any]) -> str:
    """A score with its standard error, and the loss."""
    loss = f"loss {figure(result.get('loss'))}"
    return f"{score(result)}, {loss}" if primary(result) else loss
