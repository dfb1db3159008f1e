"""What a step of each row costs here: rows in turn, round after round, on their own batches, so that noise falls on all alike.

A step of Bilevel-ZOFO reads twenty batches and one of LoRA a single one, and rows differ in length. So turns take about equal time:
the cheap rows take as many steps in one as fill the dearest row's step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from zofo.bench.step import interleaved
from zofo.bench.whole import Running, begun
from zofo.experiment.cells import cell, combinations, rows_of
from zofo.experiment.grid import Cost, Grid
from zofo.report.words import duration

Costs = dict[str, dict[str, dict[str, float]]]
MOST = 64
"""Steps that a turn takes at most."""


def measure(grid: Grid, rounds: int, say: Callable[[str], object]) -> Costs:
    """Mean seconds and passes a step, by row and task, over some rounds after two steps and a round that do not count.

    All rows of a task are in memory at once. Nothing is written; no validation or test row is read.
    """
    found: Costs = {}
    unlimited = grid.model_copy(update={"costs": {row.name: Cost(seconds=1.0, passes=1.0) for row in grid.rows}})
    for task in grid.subjects:
        held: dict[str, Running] = {}
        for row in rows_of(unlimited, task):
            if not row.evaluate:
                say(f"loading {row.name}, {task}")
                settings = cell(unlimited, row, task, grid.seeds[0], combinations(row)[0]).config
                held[row.name] = begun(settings, (), lambda _: None)
        say(f"{task}: two steps of {', '.join(held)}; then {rounds} rounds, and one before them that does not count")
        tell = Turns(task, say)
        first = interleaved({name: one.step for name, one in held.items()}, 1, tell.step)
        rough = {name: taken for name, (taken,) in first.items()}
        turns = {name: turn(rough[name], max(rough.values()), one.period) for name, one in held.items()}
        tell.left = sum(rough[name] * turns[name] for name in held) * (rounds + 1)
        seconds = interleaved({name: one.steps(turns[name]) for name, one in held.items()}, rounds, tell.turn)
        for name, running in held.items():
            forwards, backwards = running.passes
            mean = float(f"{statistics.fmean(seconds[name]) / turns[name]:.4g}")
            found.setdefault(name, {})[task] = {"seconds": mean, "passes": round(forwards + 2 * backwards, 6)}
    return found


@dataclass
class Turns:
    """Says what is being measured while it is: a dear row's turn may take minutes."""

    task: str
    say: Callable[[str], object]
    left: float = 0.0
    """Seconds of the turns to come, as the first steps have them."""

    def step(self, r: int, name: str, seconds: float) -> None:
        """A single step has been taken."""
        self.say(f"{self.task}, step {r + 1} of 2: {name} {seconds:.3g} s")

    def turn(self, r: int, name: str, seconds: float) -> None:
        """A turn of steps has been taken."""
        self.left = max(0.0, self.left - seconds)
        self.say(f"{self.task}, round {r}: {name} {seconds:.3g} s, about {duration(self.left)} left")


def turn(own: float, longest: float, period: int = 1) -> int:
    """Steps of a row in a turn: those that take as long as the dearest row's step, and no more than `MOST`; whole periods."""
    return math.ceil(min(MOST, max(1, round(longest / own))) / period) * period


def as_yaml(found: Costs) -> str:
    """The costs as they stand in a file; one task's figures stand without the task's name."""
    plain: dict[str, Any] = {
        name: next(iter(tasks.values())) if len(tasks) == 1 else tasks for name, tasks in found.items()
    }
    return yaml.safe_dump({"costs": plain}, sort_keys=False, default_flow_style=None).rstrip()
