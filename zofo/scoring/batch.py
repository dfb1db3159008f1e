"""What the scoring path reads: token rows, and which next-token scores of them are wanted.

Shape legend: E examples, N answers, R rows, L length, P positions, T target tokens.

An example becomes a context and its answers in tokens (`Encoded`, made once); a batch is built
from those by a list of indices. A row holds the context and an answer without its last token (which
nothing is predicted from), and answers that agree but for their last token share a row: choices of
one token each cost one row an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """An example in tokens: `context` ids (BOS included), `answers` (ids of each), the right `label`, was it `cut`."""

    context: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    label: int
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        return len(self.context) + max(map(len, self.answers)) - 1


@dataclass(frozen=True)
class Batch:
    """Right-padded rows and the targets scored on them (shapes: the legend above; all tensors int64).

    The next-token scores at the positions (row, col), each pair once, are wanted. Target t is the
    token `token[t]`, scored at position number `at[t]`, a part of answer number `answer[t]`.
    """

    input_ids: Tensor  # (R, L)
    attention_mask: Tensor  # (R, L)
    row: Tensor  # (P,)
    col: Tensor  # (P,)
    at: Tensor  # (T,) into P
    token: Tensor  # (T,)
    answer: Tensor  # (T,) into N
    gold: Tensor  # (E,) into N: the right answer of each example
    first: Tensor  # (E,) into N: an example's first answer; its answers stand together
    count: Tensor  # (E,) answers an example
    cut: int = 0  # examples cut on the left to fit

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device (itself when it is there already)."""
        if self.input_ids.device == torch.device(device):
            return self
        moved: dict[str, Any] = {"cut": self.cut}
        for field in fields(self)[:-1]:
            moved[field.name] = getattr(self, field.name).to(device)
        return Batch(**moved)


class _Builder:
    """Collects rows, positions and targets of answers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.places: dict[tuple[int, int], int] = {}
        self.targets: list[tuple[int, int, int]] = []
        self.answers = 0

    def example(self, context: tuple[int, ...], answers: Iterable[tuple[int, ...]]) -> None:
        """Add the answers of one example; answers equal but for the last token share a row."""
        shared: dict[tuple[int, ...], int] = {}
        for answer in answers:
            row = shared.setdefault(answer[:-1], len(self.rows))
            if row == len(self.rows):
                self.rows.append(context + answer[:-1])
            for offset, token in enumerate(answer):
                place = self.places.setdefault((row, len(context) - 1 + offset), len(self.places))
                self.targets.append((place, token, self.answers))
            self.answers += 1

    def batch(self, gold: list[int], count: list[int], pad: int, cut: int) -> Batch:
        """Pad the rows on the right and make the tensors."""
        length = max(map(len, self.rows))
        ids = torch.tensor([row + (pad,) * (length - len(row)) for row in self.rows])
        sizes = torch.tensor([len(row) for row in self.rows])
        mask = (torch.arange(length) < sizes[:, None]).long()
        row, col = torch.tensor(list(self.places)).unbind(1)
        at, token, answer = torch.tensor(self.targets).unbind(1)
        counts = torch.tensor(count)
        first = counts.cumsum(0) - counts
        return Batch(ids, mask, row, col, at, token, answer, first + torch.tensor(gold), first, counts, cut)


def lm_batch(examples: Sequence[Encoded], index: Sequence[int], pad: int) -> Batch:
    """The right answers only (N = E): what training and the LM loss need.

    Args: examples, encoded rows; index, which of them (at least one, in this order); pad, the id
    that fills up rows. Cost: one row an example.
    """
    builder = _Builder()
    for k in index:
        builder.example(examples[k].context, [examples[k].answers[examples[k].label]])
    return builder.batch([0] * len(index), [1] * len(index), pad, sum(examples[k].cut for k in index))


def choice_batch(examples: Sequence[Encoded], index: Sequence[int], pad: int) -> Batch:
    """All choices of the examples: what choosing an answer needs.

    Args: as `lm_batch`. Cost: one row an example where its choices differ in their last token
    only (choices of one token, say), else up to one row a choice.
    """
    builder = _Builder()
    for k in index:
        builder.example(examples[k].context, examples[k].answers)
    gold, count = [examples[k].label for k in index], [len(examples[k].answers) for k in index]
    return builder.batch(gold, count, pad, sum(examples[k].cut for k in index))
