"""Choosing swept options: by validation alone, over the sweep's seeds, before any test row is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zofo.errors import BadInput
from zofo.experiment.cells import Cell, Values
from zofo.experiment.grid import Grid
from zofo.experiment.store import DONE, Record, Store
from zofo.report.words import number, primary


@dataclass(frozen=True)
class Choice:
    """What a row takes on a task: the values (None: every candidate failed), and every candidate's standing and fate."""

    row: str
    task: str
    values: Values | None
    candidates: list[dict[str, Any]]


def choose(grid: Grid, store: Store, swept: Iterable[Cell]) -> list[Choice]:
    """Choose for each row and task the values of the lowest mean standing over the seeds (ties: the first in the file).

    A candidate with a seed that failed, or whose validation was never finite, is out.
    """
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in swept:
        found.setdefault((cell.row, cell.task), []).append(cell)
    return [choice(grid, store, row, task, cells) for (row, task), cells in found.items()]


def choice(grid: Grid, store: Store, row: str, task: str, cells: list[Cell]) -> Choice:
    """Choose among the candidates of one row on one task. Raises: `BadInput` where their standings are of different kinds."""
    candidates: list[dict[str, Any]] = []
    scales = set[str]()
    for values in unique(cells):
        mine = [cell for cell in cells if cell.values == values]
        records = [store.record(cell) for cell in mine]
        scales |= {str(r["validation"].get("by", "loss")) for r in records if r is not None and r.get("validation")}
        held = [standing(record, grid.sweep.by) for record in records]
        mean = math.fsum(v for v in held if v is not None) / len(held) if None not in held else None
        told = {"standing": mean, "seeds": held, "failed": reasons(records)}
        candidates.append({"values": values, **told, "digests": [cell.digest for cell in mine]})
    if grid.sweep.by == "loss" and len(scales) > 1:
        found = f"its candidates were validated by {' and '.join(sorted(scales))}, which do not compare"
        raise BadInput(f"row '{row}', {task}: sweep.by = loss", found, "choose by metric (the swept runs are kept)")
    fit = [c for c in candidates if c["standing"] is not None and math.isfinite(c["standing"])]
    best = min(fit, key=lambda c: c["standing"])["values"] if fit else None
    return Choice(row, task, best, candidates)


def remarks(choice: Mapping[str, Any], own: Collection[str] = ()) -> list[str]:
    """What a choice leaves open: candidates that stand equal, and values at an end of what was tried. Args: own, options that the row gives itself."""
    values, found = choice["values"], list[str]()
    mine = [c["standing"] for c in choice["candidates"] if values is not None and c["values"] == values]
    if not mine:
        return found
    held = [c["standing"] for c in choice["candidates"]]
    equal = held.count(mine[0])
    if equal > 1:
        found.append(f"{equal} of {len(held)} candidates stand equal, the first is taken")
    for which, end in (("highest", max), ("lowest", min)):
        keys = [key for key in values if key not in own and at_end(key, choice, end)]
        found += [f"the {which} {', '.join(key.split('.', 1)[1] for key in keys)} tried"] if keys else []
    return found


def at_end(key: str, choice: Mapping[str, Any], end: Callable[[Iterable[float]], float]) -> bool:
    """Whether the chosen value of an option is the largest, or the smallest, of several that were tried."""
    tried = {number(c["values"][key]) for c in choice["candidates"]}
    numbers = {value for value in tried if value is not None}
    return len(numbers) == len(tried) > 1 and number(choice["values"][key]) == end(numbers)


def unique(cells: Iterable[Cell]) -> list[Values]:
    """The different values, in their order."""
    found: list[Values] = []
    for cell in cells:
        if cell.values not in found:
            found.append(cell.values)
    return found


def standing(record: Record | None, by: str) -> float | None:
    """A run's standing at its best validation, lower being better; None where it was not trained to its end or never had a finite one.

    One whose test failed stands by its validation all the same: nothing that happens on test rows may change a choice.
    """
    best = (record or {}).get("validation")
    if best is None:
        return None
    if by == "loss":
        return number(best["standing"])
    scores = best["scores"][best["used"]]
    value = number(scores.get(primary(scores) or ""))
    return None if value is None else -value


def reasons(records: Iterable[Record | None]) -> list[str]:
    """Why runs failed."""
    return [f"{r['status']}: {r.get('reason', '')}" for r in records if r is not None and r["status"] != DONE]
