"""Training rows with demonstrations drawn anew at every step: in-context learning is trained on more than one prompt a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zofo.core.streams import generator
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids
from zofo.tasks.definition import Task
from zofo.tasks.demonstrations import others
from zofo.tasks.render import Row, Style, encode


@dataclass(frozen=True)
class Redraw:
    """What training rows are encoded from, by level ("f", "p"): the rows, what errors call them, each as a demonstration."""

    task: Task
    tokenizer: Any
    style: Style
    shots: int
    seed: int
    rows: Mapping[str, Sequence[Row]]
    named: Mapping[str, Sequence[str]]
    pools: Mapping[str, Sequence[str]]

    def encoded(self, part: str, k: int, stream: str, step: int, place: int) -> Encoded:
        """Row k of a part ("f", "p", or "all": D_f, then D_p) after demonstrations of a stream's step and place in its batch.

        They are others of its own level, uniformly, each once: a function of (seed, stream, step, place), so nothing is
        stored for a resume. Cost: the row and its demonstrations tokenised. Reference: Min et al. 2022 (MetaICL), algorithm 1.
        """
        level = part if part in self.rows else "f" if k < len(self.rows["f"]) else "p"
        own = k - len(self.rows["f"]) if (part, level) == ("all", "p") else k
        draw = generator(self.seed, f"demonstrations-{stream}", step, place)
        shots = others(self.pools[level], own, self.shots, draw)
        row, name = self.rows[level][own], self.named[level][own]
        return encode(self.task, row, self.tokenizer, self.style, name, shots)

    def longest(self, encoded: Mapping[str, Sequence[Encoded]], n: int) -> list[Encoded]:
        """The n longest rows of each level behind the longest demonstrations that a step can draw for them: a step's rows take no more.

        Args: encoded, the rows without demonstrations, by level. Cost: each demonstration tokenised.
        """
        return [self.behind_longest(level, own) for level in self.rows for own in by_length(encoded[level])[:n]]

    def behind_longest(self, level: str, own: int) -> Encoded:
        """A row behind the longest demonstrations of its level."""
        order = [k for k in self.ordered[level] if k != own][: self.shots]
        shots = [self.pools[level][k] for k in order]
        return encode(self.task, self.rows[level][own], self.tokenizer, self.style, self.named[level][own], shots)

    @cached_property
    def ordered(self) -> dict[str, list[int]]:
        """By level, the numbers of the demonstrations, the longest first."""
        return {
            level: sorted(range(len(pool)), key=lambda k: -len(bare_ids(self.tokenizer, pool[k])))
            for level, pool in self.pools.items()
        }


def by_length(rows: Sequence[Encoded]) -> list[int]:
    """The numbers of rows, the longest first."""
    return sorted(range(len(rows)), key=lambda k: -rows[k].length)
