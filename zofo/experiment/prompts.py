"""What the hard prompt is worth: rows that differ in it alone, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from zofo.experiment.grid import Grid
from zofo.experiment.grid import spread as combined
from zofo.experiment.lines import Entry, Line, means, shared
from zofo.experiment.pairs import paired


def prompts(grid: Grid, made: Sequence[Line]) -> list[Entry]:
    """Pairs of rows that differ in the hard prompt alone, and what its absence costs, over the seeds that both have."""
    found = []
    kept: dict[tuple[str, str], list[Line]] = {}
    for line in made:
        if line.cells and prompted(line):
            kept.setdefault((line.task, signature(grid, line)), []).append(line)
    for line in made:
        alike = kept.get((line.task, signature(grid, line)), []) if line.cells and not prompted(line) else []
        other = twin(line, alike)
        seeds = shared(line, other) if other is not None else []
        if other is None or not seeds:
            continue
        scores = [statistics.fmean(means([held], seeds)) for held in (other, line)]
        drawn = paired(line, other, seeds, grid.draws)
        found.append({
            "task": line.task, "row": other.row, "without": line.row, "seeds": len(seeds), "scores": scores, "drop": scores[0] - scores[1],
            "metric": line.done[seeds[0]]["test"]["metric"], "difference": drawn.told if drawn is not None else None,
        })  # fmt: skip
    return found


def twin(line: Line, alike: Sequence[Line]) -> Line | None:
    """Of rows that are as a line is but for prompt and steps: the one of as many steps; of one alone that one (costs differ with the prompt)."""
    steps = next(iter(line.cells.values())).steps if alike else 0
    same = [other for other in alike if next(iter(other.cells.values())).steps == steps]
    return next((held[0] for held in (same, alike) if len(held) == 1), None)


def prompted(line: Line) -> bool:
    """Whether a line's rows are rendered with the task's prompt."""
    return next(iter(line.cells.values())).config.data.hard_prompt


def signature(grid: Grid, line: Line) -> str:
    """What a line is but for its prompt and what was chosen for it."""
    if not line.cells:
        return ""
    row = grid.row(line.row)
    chosen = set(combined(grid.base(row.name).sweep)[0]) - set(row.options)
    swept = {"data.hard_prompt", "run.seed", "run.steps", "run.eval_every", *chosen}
    flat = next(iter(line.cells.values())).flat
    flat = flat | {f"unseen.{key}": value for key, value in flat.get("unseen.flags", {}).items()}
    swept |= {"unseen.flags", "unseen.seed", "unseen.data.hard_prompt"}
    return repr(sorted((key, repr(value)) for key, value in flat.items() if key not in swept))
