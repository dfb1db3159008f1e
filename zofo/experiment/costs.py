"""What a step of each row costs here: rows in turn, round after round, on their own batches, so that noise falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from zofo import job, settled
from zofo.experiment.cells import Cell, cell, combinations, rows_of
from zofo.experiment.grid import Cost, Grid
from zofo.job import Job
from zofo.memory import heap
from zofo.methods.state import State

Costs = dict[str, dict[str, dict[str, float]]]


@dataclass
class Timed:
    """A row's job, where it stands, and the seconds and passes of its steps."""

    job: Job
    state: State
    seconds: list[float]
    passes: list[int]


def measure(grid: Grid, rounds: int, say: Callable[[str], object]) -> Costs:
    """Median seconds and mean passes a step, by row and task, over some rounds after one that does not count.

    All rows of a task are in memory at once. Nothing is written; no validation or test row is read.
    """
    heap.keep()
    found: Costs = {}
    unlimited = grid.model_copy(update={"costs": {row.name: Cost(seconds=1.0, passes=1.0) for row in grid.rows}})
    for task in grid.tasks:
        held: dict[str, Timed] = {}
        for row in rows_of(unlimited, task):
            if not row.evaluate:
                say(f"loading {row.name}, {task}")
                held[row.name] = begin(cell(unlimited, row, task, grid.seeds[0], combinations(row)[0]))
        for k in range(rounds + 1):
            for name, timed in held.items():
                step(timed, k > 0)
                say(f"{task}, round {k} of {rounds}: {name}")
        for name, timed in held.items():
            found.setdefault(name, {})[task] = {
                "seconds": float(f"{statistics.median(timed.seconds):.4g}"), "passes": statistics.fmean(timed.passes),
            }  # fmt: skip
    return found


def begin(made: Cell) -> Timed:
    """Load a row's model and what trains it, as `zofo train` would."""
    ready = job.prepare(made.config, wanted=("f", "p"))
    settings, _ = settled.types(made.config)
    held, _ = settled.stacked(job.assemble(settings, ready))
    return Timed(held, held.begin(), [], [])


def step(timed: Timed, counts: bool) -> None:
    """Take a step, and its time and passes if it counts."""
    began = time.perf_counter()
    timed.state, report = timed.job.method.step(timed.job.problem, timed.state, timed.job.batches)
    if counts:
        timed.seconds.append(time.perf_counter() - began)
        timed.passes.append(report.forwards + 2 * report.backwards)


def as_yaml(found: Costs) -> str:
    """The costs as they stand in a file; one task's figures stand without the task's name."""
    plain: dict[str, Any] = {
        name: next(iter(tasks.values())) if len(tasks) == 1 else tasks for name, tasks in found.items()
    }
    return yaml.safe_dump({"costs": plain}, sort_keys=False, default_flow_style=None).rstrip()
