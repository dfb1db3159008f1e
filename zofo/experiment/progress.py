"""How far an experiment is: what is done, what is left, when it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from statistics import fmean as mean
from typing import TextIO

from zofo.experiment.cells import Cell
from zofo.experiment.store import DONE, Record, Store
from zofo.report.terminal import Bar
from zofo.report.words import duration
from zofo.tasks import mixture as mixtures

EVERY = 60.0
"""Seconds between plain lines while nothing ends."""
TAIL = 16384
"""Bytes that a run's last metrics are looked for in."""


@dataclass(frozen=True)
class Place:
    """How far a run in progress is: its last step, how many of a mixture's unseen tasks it has met, how long it has trained."""

    step: int = 0
    met: int = 0
    seconds: float = 0.0

    @property
    def pace(self) -> float | None:
        """Seconds a step that it takes; None before its first step."""
        return self.seconds / self.step if self.step and self.seconds else None

    def tested(self, cell: Cell) -> float:
        """The share of what comes after its training that is done."""
        return self.met / unseen(cell) if self.met else 0.0


class Pace:
    """How long runs take: by what a step was said to cost, by what runs of the same row took, and by how fast those that go on are.

    What comes after the last step (testing, adapting to unseen tasks) is as long for every row that is tested in one way.
    """

    def __init__(self) -> None:
        self.took: dict[tuple[str, str], list[float]] = {}  # seconds a step, by row and task
        self.slow: list[float] = []  # measured over said
        self.after: dict[tuple[str, ...], list[float]] = {}  # seconds after the last step, by row and by way of testing

    def learn(self, cell: Cell, training: float, after: float | None) -> None:
        """Take in that a run trained for so many seconds, and took so many after that (None: not known)."""
        if cell.steps:
            self.took.setdefault((cell.row, cell.task), []).append(training / cell.steps)
            if cell.cost is not None:
                self.slow.append(training / (cell.cost * cell.steps))
        if after is not None:
            for way in ways(cell):
                self.after.setdefault(way, []).append(after)

    def training(self, cell: Cell, place: Place, going: Sequence[float]) -> float | None:
        """Seconds that a run has still to train from a place on; None where nothing is known of its like. `going`: measured over said, of runs that go on."""
        left = max(0, cell.steps - place.step)
        if not left:
            return 0.0
        if place.pace is not None:
            return place.pace * left
        if held := self.took.get((cell.row, cell.task)):
            return mean(held) * left
        slow = [*self.slow, *going]
        return None if cell.cost is None else cell.cost * left * (mean(slow) if slow else 1.0)

    def rest(self, cell: Cell) -> float | None:
        """Seconds that a run will take after its last step (an evaluation: in all); None where nothing is known of its like."""
        return next((mean(self.after[way]) for way in ways(cell) if way in self.after), None)

    def seconds(self, cell: Cell, place: Place = Place(), going: Sequence[float] = ()) -> float | None:
        """Seconds that a run has still to take from a place on; None where nothing is known of its like. `going`: as for `training`."""
        training, rest = self.training(cell, place, going), self.rest(cell)
        if training is None or (rest is None and cell.steps <= place.step):
            return None
        return training + (rest or 0.0) * (1 - place.tested(cell))

    def left(self, cells: Iterable[Cell], jobs: int, at: Mapping[str, Place] | None = None) -> tuple[float, int]:
        """Seconds left for some runs, so many at once, and of how many of them nothing is known. `at`: where those that go on are, by digest."""
        where, cells = at or {}, list(cells)
        paces = [(cell, where[cell.digest].pace) for cell in cells if cell.digest in where and cell.cost]
        going = [pace / cell.cost for cell, pace in paces if pace is not None and cell.cost]
        held = [self.seconds(cell, where.get(cell.digest, Place()), going) for cell in cells]
        return sum(v for v in held if v is not None) / jobs, sum(v is None for v in held)


def ways(cell: Cell) -> list[tuple[str, ...]]:
    """What a run's testing takes as long as: that of its row; then of any trained on its task, or, where a base meets unseen tasks, that meets them so."""
    own = ("sweep" if cell.sweep else "table", cell.task)
    like = str(cell.unseen["how"]) if cell.unseen else "" if cell.evaluate else "trained"
    return [(*own, cell.row)] + ([(*own, "", like)] if like else [])


def learned(store: Store, cells: Iterable[Cell]) -> Pace:
    """What the runs that are there teach."""
    pace = Pace()
    for cell in cells:
        record = store.record(cell)
        if record is not None and record["status"] == DONE:
            pace.learn(cell, *took(record))
    return pace


def took(record: Record) -> tuple[float, float | None]:
    """Seconds that a run trained, and those after it; None where it was interrupted, for its last process has seen the end alone."""
    wall, training = float(record["wall"]), float(record.get("seconds") or 0.0)
    return training, wall - training if wall >= training else None


@cache
def unseen_of(mixture: str) -> int:
    """How many unseen tasks a mixture has."""
    return len(mixtures.find(mixture).test)


def unseen(cell: Cell) -> int:
    """How many unseen tasks a run meets."""
    return unseen_of(cell.task) if cell.unseen else 0


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
    """Time left, and when that is, where it is known: `2 h 5 min left, ends 14:32`."""
    if unknown:
        runs = f"{unknown} run{'s' if unknown > 1 else ''}"
        return f"{duration(seconds)} left and {runs} of unknown length" if seconds else f"time left unknown ({runs})"
    if not seconds:
        return "nothing left"
    at = time.strftime("%a %H:%M" if seconds > 12 * 3600 else "%H:%M", time.localtime(now() + seconds))
    return f"{duration(seconds)} left, ends {at}"


def where(cell: Cell, place: Place) -> str:
    """How far a run in progress is, in words."""
    met = f"{place.met} of {unseen(cell)} unseen tasks" if cell.unseen and place.step >= cell.steps else ""
    if not cell.steps:
        return f"{cell.told}: {met}" if met else cell.told
    if not place.step:
        return f"{cell.told}: begins"
    return f"{cell.told}: step {place.step} of {cell.steps}" + (f", {met}" if met else "")


def reached(store: Store, cell: Cell) -> Place:
    """Where a run in progress is, by what it has written."""
    step, seconds = (0, 0.0) if cell.evaluate else last_step(store, cell)
    return Place(step, len(store.met(cell)), seconds)


def last_step(store: Store, cell: Cell) -> tuple[int, float]:
    """The last step of a run in progress and its seconds of training, by the end of its metrics; zeros before the first."""
    path = store.run(cell).metrics
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0, 0.0
    for line in reversed(lines):
        with suppress(ValueError, AttributeError, TypeError):
            row = json.loads(line)
            if row.get("kind") == "step":
                return int(row["step"]), float(row.get("time", {}).get("train") or 0.0)
    return 0, 0.0
