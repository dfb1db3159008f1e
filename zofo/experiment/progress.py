"""How far an experiment is: what is done, what is left, when it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TextIO

from zofo.experiment.cells import Cell
from zofo.experiment.store import DONE, Record, Store
from zofo.report.terminal import Bar
from zofo.report.words import duration

EVERY = 60.0
"""Seconds between plain lines while nothing ends."""
TAIL = 16384
"""Bytes that a run's last metrics are looked for in."""


class Pace:
    """How long runs take: by what a step was said to cost, and by what runs of the same row took."""

    def __init__(self) -> None:
        self.took: dict[tuple[str, str], list[float]] = {}  # seconds a step (an evaluation: in all), by row and task
        self.slow: list[float] = []  # measured over said

    def learn(self, cell: Cell, wall: float) -> None:
        """Take in that a run took so long."""
        self.took.setdefault((cell.row, cell.task), []).append(wall / max(cell.steps, 1))
        if cell.cost is not None and cell.steps:
            self.slow.append(wall / (cell.cost * cell.steps))

    def seconds(self, cell: Cell) -> float | None:
        """Seconds that a run will take; None where nothing is known of its like."""
        if held := self.took.get((cell.row, cell.task)):
            return sum(held) / len(held) * max(cell.steps, 1)
        if cell.cost is not None and cell.steps:
            return cell.cost * cell.steps * (sum(self.slow) / len(self.slow) if self.slow else 1.0)
        return None

    def left(self, cells: Iterable[Cell], jobs: int, done: Mapping[str, float] | None = None) -> tuple[float, int]:
        """Seconds left for some runs, so many at once, and of how many of them nothing is known. `done`: shares, by digest."""
        held = [(self.seconds(cell), 1 - (done or {}).get(cell.digest, 0.0)) for cell in cells]
        return sum(v * share for v, share in held if v is not None) / jobs, sum(v is None for v, _ in held)


def learned(store: Store, cells: Iterable[Cell]) -> Pace:
    """What the runs that are there teach."""
    pace = Pace()
    for cell in cells:
        record = store.record(cell)
        if record is not None and record["status"] == DONE:
            pace.learn(cell, took(record))
    return pace


def took(record: Record) -> float:
    """Seconds that a run took: those of its last process, or, where it was interrupted before, its training alone if that is more."""
    return max(float(record["wall"]), float(record.get("seconds") or 0.0))


class Board:
    """Says what goes on: a moving line on a terminal, plain lines otherwise."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = sys.stdout if out is None else out
        self.bar = Bar(self.out) if self.out.isatty() else None
        self.clock, self.said = clock, clock()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def line(self, text: str) -> None:
        """Write a line."""
        self.said = self.clock()
        if self.bar is not None:
            self.bar.line(text)
        else:
            print(text, file=self.out, flush=True)

    @property
    def due(self) -> bool:
        """Whether to show where it stands: on a terminal always, else once a minute while nothing ends."""
        return self.bar is not None or self.clock() - self.said >= EVERY

    def move(self, done: int, of: int, text: str) -> None:
        """Show where it stands."""
        if self.bar is not None:
            self.bar.move(done, of, text)
        else:
            self.line(text)


def ends(seconds: float, unknown: int, now: Callable[[], float] = time.time) -> str:
    """Time left, and when that is: `2 h 5 min left, ends 14:32`."""
    more = f" (and {unknown} runs of unknown length)" if unknown else ""
    if not seconds:
        return f"time left unknown ({unknown} runs)" if unknown else "nothing left"
    at = time.strftime("%a %H:%M" if seconds > 12 * 3600 else "%H:%M", time.localtime(now() + seconds))
    return f"{duration(seconds)} left{more}, ends {at}"


def where(cell: Cell, step: int) -> str:
    """How far a run in progress is."""
    return f"{cell.told}: step {step} of {cell.steps}" if step else f"{cell.told}: begins" if cell.steps else cell.told


def last_step(store: Store, cell: Cell) -> int:
    """The last step of a run in progress, by the end of its metrics; 0 before the first."""
    path = store.run(cell).metrics
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            row = json.loads(line)
            if row.get("kind") == "step":
                return int(row["step"])
    return 0
