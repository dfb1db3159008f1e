"""Training rows with demonstrations drawn anew at every step: in-context learning is trained on more than one prompt a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from zofo.core.streams import generator
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids
from zofo.tasks.definition import Task
from zofo.tasks.demonstrations import others
from zofo.tasks.render import Row, Style, encode

Size = Callable[[Encoded], int]


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
        return self.after(level, own, others(self.pools[level], own, self.shots, draw))

    def after(self, level: str, own: int, shots: Sequence[str]) -> Encoded:
        """A row of a level after demonstrations."""
        row, name = self.rows[level][own], self.named[level][own]
        return encode(self.task, row, self.tokenizer, self.style, name, shots)

    def longest(self, encoded: Mapping[str, Sequence[Encoded]], n: int, size: Size) -> list[Encoded]:
        """The n largest rows of each level behind the longest demonstrations of it: a step's rows take no more.

        Where the model cannot read all, a row is as long as what it can read: which demonstrations are left out is a draw's.
        Args: encoded, the rows without demonstrations, by level; size, of a row. Cost: each demonstration tokenised.
        """
        found = [self.behind(level, own) for level, own in self.largest(encoded, n, size)]
        return [filled(row, self.style.positions) if row.left_out else row for row in found]

    def fewest(self, encoded: Mapping[str, Sequence[Encoded]]) -> int:
        """The fewest demonstrations that a step can leave to the longest row of a level: the longest of them stand next to it."""
        places = self.largest(encoded, 1, lambda row: row.length)
        return self.shots - max(self.behind(level, own, last=True).left_out for level, own in places)

    def largest(self, encoded: Mapping[str, Sequence[Encoded]], n: int, size: Size) -> list[tuple[str, int]]:
        """The n largest rows of each level, by level and number."""
        ordered = {level: sorted(range(len(rows)), key=lambda k: -size(rows[k])) for level, rows in encoded.items()}
        return [(level, own) for level in self.rows for own in ordered[level][:n]]

    def behind(self, level: str, own: int, last: bool = False) -> Encoded:
        """A row behind the longest demonstrations of its level (its own among them: a bound), the longest first, or `last`."""
        shots = [self.pools[level][k] for k in self.ordered[level][: self.shots]]
        return self.after(level, own, shots[::-1] if last else shots)

    @cached_property
    def ordered(self) -> dict[str, list[int]]:
        """By level, the numbers of the demonstrations, the longest first."""
        return {
            level: sorted(range(len(pool)), key=lambda k: -len(bare_ids(self.tokenizer, pool[k])))
            for level, pool in self.pools.items()
        }


def filled(row: Encoded, positions: int | None) -> Encoded:
    """A row with its first token so often that it takes all positions."""
    more = max(0, (positions or 0) - 1 - row.length)
    return replace(row, context=row.context[:1] * more + row.context)
