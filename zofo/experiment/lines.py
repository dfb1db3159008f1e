"""The lines of an experiment's table: a row on a task with its records by seed, and what its runs scored, row by row."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zofo.experiment.cells import Cell, cost_of, rows_of
from zofo.experiment.grid import Grid, Stages
from zofo.experiment.store import DONE, Record, Store
from zofo.report.words import measured
from zofo.scoring.metrics import BY_ROW

Entry = dict[str, Any]
"""A row of a table."""


@dataclass(frozen=True)
class Line:
    """A row on a task: its cells and records by seed (a cell without a record has not ended); what a step of each stage costs."""

    row: str
    task: str
    cells: dict[int, Cell]
    records: dict[int, Record]
    stages: Stages | None = None

    @property
    def done(self) -> dict[int, Record]:
        """The records that hold test scores."""
        return {seed: r for seed, r in self.records.items() if r["status"] == DONE and "test" in r}


def lines(grid: Grid, store: Store, cells: Iterable[Cell]) -> list[Line]:
    """The lines of the table in the file's order, those without any cell (nothing could be chosen) too."""
    by: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in cells:
        by.setdefault((cell.row, cell.task), {})[cell.seed] = cell
    found = []
    for task in grid.subjects:
        for row in rows_of(grid, task):
            held = by.get((row.name, task), {})
            records = {seed: record for seed, cell in held.items() if (record := store.record(cell)) is not None}
            found.append(Line(row.name, task, held, records, cost_of(grid, row, task).stages))
    return found


def score(record: Record, slot: str | None = None) -> float:
    """A record's test score: of the adapter that validation chose, or of one named."""
    test = record["test"]
    return float(test["slots"][slot or test["used"]][test["metric"]])


def means(held: Sequence[Line], seeds: Sequence[int]) -> list[float]:
    """The mean of lines' scores, by seed."""
    return [statistics.fmean(score(line.done[seed]) for line in held) for seed in seeds]


def same_rows(one: Record, other: Record) -> bool:
    """Whether two runs were tested on the same rows by the same metric: nothing else compares in pairs."""
    return all(one["test"][key] == other["test"][key] for key in ("rows_sha256", "metric"))


def shared(line: Line, other: Line) -> list[int]:
    """The seeds that two lines have."""
    return [seed for seed, record in line.done.items() if seed in other.done and same_rows(record, other.done[seed])]


def by_row(record: Record) -> dict[str, np.ndarray[Any, Any]]:
    """Every test row's value, of the adapter that validation chose, by metric, the score's first."""
    test = record["test"]
    slot = test["slots"][test["used"]]
    held = slot["by_row"] if isinstance(slot["by_row"], dict) else unnamed(test["metric"], slot)
    return {metric: np.asarray(values, dtype=np.float64) for metric, values in held.items()}


def unnamed(metric: str, slot: Mapping[str, Any]) -> dict[str, Any]:
    """A list of rows' values of an older record by its name: the first metric that is a mean over rows, else minus the loss."""
    name = next((name for name in (metric, *measured(slot)) if name in BY_ROW), "loss")
    return {name: slot["by_row"] if name in BY_ROW else [-float(value) for value in slot["by_row"]]}
