"""Training batches: pure functions of (seed, stream, step), so nothing is skipped or stored for a resume.

A stream walks through its part of the training rows in a fresh order each epoch, an order that
depends on (seed, stream, epoch) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zofo.core import streams
from zofo.scoring.batch import Batch, Encoded, lm_batch


@functools.lru_cache(maxsize=32)
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
    anew: Callable[[str, int, str, int, int], Encoded] | None = None

    def cut(self, examples: Sequence[Encoded], index: Sequence[int]) -> list[Batch]:
        """Micro-batches of the rows named, made by `build`; several are cut by length, so that each is padded less."""
        order = index if len(index) <= self.rows else sorted(index, key=lambda k: examples[k].length)
        return [self.build(examples, order[i : i + self.rows], self.pad) for i in range(0, len(order), self.rows)]

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """`micro` micro-batches: the rows of a stream at a step."""
        examples, size = self.parts[part], self.rows * micro
        index = walk(self.seed, f"rows-{stream}", step * size, size, len(examples))
        return self.made(examples, index, part, stream, step)

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """Rows drawn with replacement, each from D_f with probability `share`, else from D_p."""
        draw, f, p = streams.generator(self.seed, f"rows-{stream}", step), self.parts["f"], self.parts["p"]
        size = self.rows * micro
        upper = draw.random(size) < share
        at_f, at_p = draw.integers(0, len(f), size), draw.integers(0, len(p), size)
        index = [int(a) if u else len(f) + int(b) for u, a, b in zip(upper, at_f, at_p, strict=True)]
        return self.made([*f, *p], index, "all", stream, step)

    def made(self, examples: Sequence[Encoded], index: Sequence[int], part: str, stream: str, step: int) -> list[Batch]:
        """Micro-batches of the rows named of a part, as they are or encoded anew."""
        if self.anew is None:
            return self.cut(examples, index)
        fresh = [self.anew(part, k, stream, step, place) for place, k in enumerate(index)]
        return self.cut(fresh, range(len(fresh)))
