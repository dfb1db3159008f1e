"""Training batches: pure functions of (seed, stream, step), so nothing is skipped or stored for a resume.

A stream walks through its part of the training rows in a fresh order each epoch, an order that
depends on (seed, stream, epoch) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zofo.core import streams
from zofo.scoring.batch import Batch, Encoded, lm_batch


@functools.lru_cache(maxsize=256)
def order(seed: int, stream: str, epoch: int, n: int) -> tuple[int, ...]:
    """The order of n rows in one epoch of a stream."""
    return tuple(streams.generator(seed, stream, epoch).permutation(n).tolist())


def walk(seed: int, stream: str, start: int, size: int, n: int) -> list[int]:
    """Rows number start..start+size of a stream that goes through n rows again and again."""
    return [order(seed, stream, at // n, n)[at % n] for at in range(start, start + size)]


@dataclass(frozen=True)
class Batches:
    """Micro-batches of `rows` rows from the parts "f", "p" and "all" (both); the `Source` of `zofo.methods`.

    `anew` encodes a row of a part for a stream's step and place (none: it stays as `parts` has it).
    """

    parts: Mapping[str, Sequence[Encoded]]
    rows: int
    pad: int
    seed: int
    build: Callable[[Sequence[Encoded], Sequence[int], int], Batch] = lm_batch
    task: str = ""  # of several: each walks through its rows in an order of its own
    anew: Callable[[str, int, str, int, int], Encoded] | None = None

    def cut(self, examples: Sequence[Encoded], index: Sequence[int]) -> list[Batch]:
        """Micro-batches of the rows named, made by `build`; several are cut by length, so that each is padded less."""
        order = index if len(index) <= self.rows else sorted(index, key=lambda k: examples[k].length)
        return [self.build(examples, order[i : i + self.rows], self.pad) for i in range(0, len(order), self.rows)]

    def stream(self, name: str) -> str:
        """A stream's full name: the task's own, where there are several."""
        return f"rows-{name}-{self.task}" if self.task else f"rows-{name}"

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """`micro` micro-batches: the rows of a stream at a step."""
        examples, size = self.parts[part], self.rows * micro
        index = walk(self.seed, self.stream(stream), step * size, size, len(examples))
        return self.made(examples, index, part, stream, step)

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """Rows drawn with replacement, each from D_f with probability `share`, else from D_p."""
        draw, f, p = streams.generator(self.seed, self.stream(stream), step), self.parts["f"], self.parts["p"]
        size = self.rows * micro
        upper = draw.random(size) < share
        at_f, at_p = draw.integers(0, len(f), size), draw.integers(0, len(p), size)
        index = [int(a) if u else len(f) + int(b) for u, a, b in zip(upper, at_f, at_p, strict=True)]
        return self.made([*f, *p], index, "all", stream, step)

    def made(self, examples: Sequence[Encoded], index: Sequence[int], part: str, stream: str, step: int) -> list[Batch]:
        """Micro-batches of the rows named of a part, as they are or encoded anew."""
        if self.anew is None:
            return self.cut(examples, index)
        return self.cut([self.example(part, k, stream, step, at) for at, k in enumerate(index)], range(len(index)))

    def example(self, part: str, k: int, stream: str, step: int, place: int) -> Encoded:
        """Row k of a part, as it is or encoded anew for a stream's step and place in its batch."""
        return self.parts[part][k] if self.anew is None else self.anew(part, k, stream, step, place)


Place = tuple[str, int]
"""A row of several tasks: the task's name, and the row's number in a part of it."""


@dataclass(frozen=True)
class MixtureBatches:
    """Micro-batches whose rows come from several tasks, for methods that train on all of them at once; and each task's own (`of`).

    sampling: "uniform", all tasks alike often: each run of as many rows as there are tasks holds one of every task, in a
    fresh order, and a task walks through its own rows in a fresh order each epoch; "size", a walk through the rows of all.
    """

    members: Mapping[str, Batches]
    sampling: Literal["uniform", "size"] = "uniform"

    def of(self, name: str) -> Batches:
        """A task's own batches."""
        return self.members[name]

    @property
    def first(self) -> Batches:
        """Any task's batches: their number of rows, seed, padding and form are those of all."""
        return next(iter(self.members.values()))

    def having(self, part: str) -> list[str]:
        """The tasks that have rows of a part."""
        return [name for name, held in self.members.items() if held.parts.get(part)]

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """`micro` micro-batches: the rows of a stream at a step, of several tasks."""
        size = self.first.rows * micro
        places = self.evenly if self.sampling == "uniform" else self.by_size
        found = [(name, part, k) for name, k in places(part, stream, step * size, size)]
        return self.drawn(found, stream, step)

    def evenly(self, part: str, stream: str, start: int, size: int) -> list[Place]:
        """Places number start..start+size of a stream that takes the tasks in turn."""
        names, seed = self.having(part), self.first.seed
        turns = walk(seed, f"tasks-{stream}", start, size, len(names))
        return [
            (names[turn], self.row(names[turn], part, stream, at // len(names))) for at, turn in enumerate(turns, start)
        ]

    def row(self, name: str, part: str, stream: str, at: int) -> int:
        """The row that a task's own stream has at a place."""
        own = self.members[name]
        return walk(own.seed, own.stream(stream), at, 1, len(own.parts[part]))[0]

    def by_size(self, part: str, stream: str, start: int, size: int) -> list[Place]:
        """Places number start..start+size of a stream that walks through the rows of all tasks."""
        places = [(name, k) for name in self.having(part) for k in range(len(self.members[name].parts[part]))]
        return [places[k] for k in walk(self.first.seed, f"rows-{stream}", start, size, len(places))]

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """Rows drawn with replacement: a task (alike, or by size), then a row of its D_f with probability `share`, else of its D_p."""
        size, names = self.first.rows * micro, list(self.members)
        draw = streams.generator(self.first.seed, f"rows-{stream}", step)
        sizes = [len(self.members[name].parts["all"]) for name in names]
        chances = [n / sum(sizes) for n in sizes] if self.sampling == "size" else None
        tasks, upper = draw.choice(len(names), size, p=chances), draw.random(size) < share
        parts = ["f" if u else "p" for u in upper]
        counts = [len(self.members[names[t]].parts[part]) for t, part in zip(tasks, parts, strict=True)]
        rows = draw.integers(0, counts)
        found = [(names[t], part, int(k)) for t, part, k in zip(tasks, parts, rows, strict=True)]
        return self.drawn(found, stream, step)

    def drawn(self, rows: Sequence[tuple[str, str, int]], stream: str, step: int) -> list[Batch]:
        """Micro-batches of rows (task, part, number), each as its task has it or encoded anew."""
        found = [self.members[name].example(part, k, stream, step, at) for at, (name, part, k) in enumerate(rows)]
        return self.cut(found, range(len(found)))

    def cut(self, examples: Sequence[Encoded], index: Sequence[int]) -> list[Batch]:
        """Micro-batches of the rows named, whatever tasks they are of."""
        return self.first.cut(examples, index)
