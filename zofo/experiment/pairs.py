"""Lines against one another, on the seeds and test rows that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.experiment.bootstrap import Draws, averaged, draw, interval
from zofo.experiment.grid import Grid
from zofo.experiment.lines import Line, by_row, shared
from zofo.report.words import common


@dataclass(frozen=True)
class Paired:
    """Bootstrap draws of a paired difference, the metric that it is in, and the seeds that it is over."""

    metric: str
    draws: Draws
    seeds: list[int]

    @property
    def told(self) -> dict[str, Any]:
        """The interval, with its metric."""
        return {**vars(interval(self.draws)), "metric": self.metric}


def against(grid: Grid, line: Line, made: Sequence[Line]) -> Paired | None:
    """Bootstrap draws of a line less the one that it is compared with, over all seeds that both have; None without any."""
    other = partner(grid, line, made)
    return paired(line, other, shared(line, other), grid.draws) if other is not None else None


def partner(grid: Grid, line: Line, made: Sequence[Line]) -> Line | None:
    """The line that a line is compared with."""
    if line.row == grid.against:
        return None
    return next((other for other in made if (other.row, other.task) == (grid.against, line.task)), None)


def elsewhere(grid: Grid, line: Line, made: Sequence[Line]) -> list[str]:
    """A note where a line was tested on other rows than the line that it is compared with (without one: than its task's first)."""
    first = next((other for other in made if other.task == line.task and other.done), None)
    other = partner(grid, line, made) if grid.against else first
    if other is None or other is line:
        return []
    if len(shared(line, other)) == len(line.done.keys() & other.done.keys()):
        return []
    return [f"not tested on the rows of {other.row}, or not by its metric: their scores do not compare"]


def paired(line: Line, other: Line, seeds: list[int], draws: int) -> Paired | None:
    """Bootstrap draws of a line less another over some seeds that both have; None without any.

    They are in the score's metric where every record has that row by row (an older one may hold another alone).
    """
    if not seeds:
        return None
    rows = {line.done[seed]["test"]["rows_sha256"] for seed in seeds}
    pairs = [(by_row(line.done[seed]), by_row(other.done[seed])) for seed in seeds]
    metric = next((name for name in pairs[0][0] if all(name in one for pair in pairs for one in pair)), None)
    if metric is None:
        return None
    return Paired(metric, draw([mine[metric] - its[metric] for mine, its in pairs], len(rows) == 1, draws), seeds)


def less(
    grid: Grid, held: Sequence[Line], others: Sequence[Line], drawn: Mapping[tuple[str, str], Paired | None]
) -> Paired | None:
    """Bootstrap draws of a row's mean over tasks less another's, over the seeds that both have on all tasks; None without any."""
    both = [shared(line, other) for line, other in zip(held, others, strict=True)]
    seeds = [seed for seed in grid.seeds if all(seed in some for some in both)]
    parts = []
    for line, other in zip(held, others, strict=True):
        known = drawn[line.row, line.task]
        part = known if known is not None and known.seeds == seeds else paired(line, other, seeds, grid.draws)
        parts += [part] if part is not None else []
    metric = common(part.metric for part in parts) if len(parts) == len(held) else None
    return Paired(metric, averaged([part.draws for part in parts]), seeds) if metric else None
