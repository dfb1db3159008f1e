"""What the scoring path reads: token rows, and which next-token scores of them are wanted.

Shape legend: E examples, N answers, R rows, L length, P positions, T target tokens.

An example becomes a context and its answers in tokens (`Encoded`, made once); a batch is built
from those by a list of indices. A row holds the context and an answer without its last token (which
nothing is predicted from), and answers that agree but for their last token share a row: choices of
one token each cost one row an example. A `branched` batch has a row for each context and, apart, a
row for each answer that has several tokens, which goes on from its context's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Ids = tuple[int, ...]
PASS = 200
"""Tokens that a second pass must save beside its own (SmolLM2-135M: what one costs whatever it reads, dev/LOG.md, 2026-11-26)."""


@dataclass(frozen=True)
class Encoded:
    """An example in tokens.

    `context` ids (BOS and demonstrations included), `answers` (ids of each, after the context), the `label`
    of the right one, or of the first that is `right`; `skip`, tokens at each answer's beginning that still
    belong to the prompt (none where empty); `texts`, the choices, or what is accepted of a free answer; was
    the row `cut`; demonstrations `left_out`; in the noisy `channel` an answer is a choice, skipped, and the input.
    """

    context: Ids
    answers: tuple[Ids, ...]
    label: int
    cut: bool = False
    right: tuple[int, ...] = ()
    skip: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    left_out: int = 0
    channel: bool = False

    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        return len(self.context) + max(map(len, self.answers)) - 1

    @property
    def rights(self) -> tuple[int, ...]:
        """All right answers."""
        return self.right or (self.label,)


@dataclass(frozen=True)
class Rows:
    """Right-padded rows, and the positions (row, col) of them, each pair once, whose next-token scores are wanted."""

    input_ids: Tensor  # (R, L)
    attention_mask: Tensor  # (R, L)
    row: Tensor  # (P,)
    col: Tensor  # (P,)

    def to(self, device: torch.device | str) -> Rows:
        """The same on a device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Batch:
    """Rows and the targets scored on them (shapes: the legend above; all tensors int64).

    Target t is the token `token[t]`, scored at position number `at[t]` (those of `rows`, then those of
    `tails`), a part of answer number `answer[t]`. `tails`, where there are any, go on from row `parent` of `rows`.
    """

    rows: Rows
    at: Tensor  # (T,) into P
    token: Tensor  # (T,)
    answer: Tensor  # (T,) into N
    gold: Tensor  # (E,) into N: the right answer of each example (the first of them)
    first: Tensor  # (E,) into N: an example's first answer; its answers stand together
    count: Tensor  # (E,) answers an example
    right: Tensor  # (N,) 1 for a right answer
    tails: Rows | None = None
    parent: Tensor | None = None  # (R of tails,) into R of rows
    examples: tuple[Encoded, ...] = ()

    @property
    def input_ids(self) -> Tensor:
        """The rows' token ids, (R, L)."""
        return self.rows.input_ids

    @property
    def attention_mask(self) -> Tensor:
        """1 where a row has a token, (R, L)."""
        return self.rows.attention_mask

    @property
    def cut(self) -> int:
        """Examples that were cut to fit."""
        return sum(example.cut for example in self.examples)

    @property
    def channel(self) -> bool:
        """Whether its answers are inputs after choices."""
        return any(example.channel for example in self.examples)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device (itself when it is there already)."""
        if self.input_ids.device == torch.device(device):
            return self
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if hasattr(value, "to") else value
        return Batch(**moved)


class _Rows:
    """Collects rows and wanted positions."""

    def __init__(self) -> None:
        self.ids: list[Ids] = []
        self.places: dict[tuple[int, int], int] = {}

    def add(self, ids: Ids) -> int:
        """Add a row; returns its number."""
        self.ids.append(ids)
        return len(self.ids) - 1

    def want(self, row: int, col: int) -> int:
        """The number of a position, new or known."""
        return self.places.setdefault((row, col), len(self.places))

    def made(self, pad: int) -> Rows:
        """Pad the rows on the right and make the tensors."""
        length = max(map(len, self.ids))
        ids = torch.tensor([row + (pad,) * (length - len(row)) for row in self.ids])
        sizes = torch.tensor([len(row) for row in self.ids])
        row, col = torch.tensor(list(self.places), dtype=torch.long).view(-1, 2).unbind(1)
        return Rows(ids, (torch.arange(length) < sizes[:, None]).long(), row, col)


class _Builder:
    """Collects the answers of examples: rows, positions and targets."""

    def __init__(self, branched: bool) -> None:
        self.branched = branched
        self.rows, self.tails = _Rows(), _Rows()
        self.parent: list[int] = []
        self.targets: list[tuple[bool, int, int, int]] = []  # in tails?, position, token, answer
        self.answers = 0

    def example(self, context: Ids, answers: Sequence[Ids], skip: Sequence[int]) -> None:
        """Add the answers of one example; answers equal but for the last token share a row."""
        add = self._apart if self.branched else self._whole
        parent = self.rows.add(context) if self.branched else -1
        known: dict[Ids, int] = {}
        for k, answer in enumerate(answers):
            add(context, answer, skip[k] if skip else 0, known, parent)
            self.answers += 1

    def _whole(self, context: Ids, answer: Ids, skip: int, known: dict[Ids, int], parent: int) -> None:
        """One row of context and answer."""
        if answer[:-1] not in known:
            known[answer[:-1]] = self.rows.add(context + answer[:-1])
        for offset, token in list(enumerate(answer))[skip:]:
            place = self.rows.want(known[answer[:-1]], len(context) - 1 + offset)
            self.targets.append((False, place, token, self.answers))

    def _apart(self, context: Ids, answer: Ids, skip: int, known: dict[Ids, int], parent: int) -> None:
        """The answer's first token on the context's row, the others on a row that goes on from it."""
        if len(answer) > 1 and answer[:-1] not in known:
            known[answer[:-1]] = self.tails.add(answer[:-1])
            self.parent.append(parent)
        for offset, token in list(enumerate(answer))[skip:]:
            rows, row, col = (
                (self.tails, known.get(answer[:-1], 0), offset - 1) if offset else (self.rows, parent, len(context) - 1)
            )
            self.targets.append((offset > 0, rows.want(row, col), token, self.answers))

    def batch(
        self, examples: Sequence[Encoded], gold: list[int], right: list[int], count: list[int], pad: int
    ) -> Batch:
        """Pad and make the tensors."""
        there = len(self.rows.places)
        at = torch.tensor([place + there * tail for tail, place, _, _ in self.targets])
        token, answer = torch.tensor([target[2:] for target in self.targets]).unbind(1)
        counts = torch.tensor(count)
        first = counts.cumsum(0) - counts
        made = Batch(
            self.rows.made(pad), at, token, answer, first + torch.tensor(gold), first, counts, torch.tensor(right),
            examples=tuple(examples),
        )  # fmt: skip
        return replace(made, tails=self.tails.made(pad), parent=torch.tensor(self.parent)) if self.parent else made


def lm_batch(examples: Sequence[Encoded], index: Sequence[int], pad: int) -> Batch:
    """The right answers only (N = E; of several right ones the first): what training and the LM loss need.

    Args: examples, encoded rows; index, which of them (at least one, in this order); pad, the id
    that fills up rows. Cost: one row an example.
    """
    builder, chosen = _Builder(False), [examples[k] for k in index]
    for example in chosen:
        builder.example(example.context, [example.answers[example.label]], example.skip[example.label :])
    return builder.batch(chosen, [0] * len(index), [1] * len(index), [1] * len(index), pad)


def choice_batch(examples: Sequence[Encoded], index: Sequence[int], pad: int, branched: bool = False) -> Batch:
    """All choices of the examples: what choosing an answer needs.

    Args: as `lm_batch`; branched, read each context once and go on from it for each answer (needs a model with
    a plain cache of keys and values). Cost: one row an example where its choices differ in their last token
    only (choices of one token, say), else up to one row a choice; branched, a row an example and the answers'.
    """
    builder, chosen = _Builder(branched), [examples[k] for k in index]
    for example in chosen:
        builder.example(example.context, example.answers, example.skip)
    right = [int(k in example.rights) for example in chosen for k in range(len(example.answers))]
    return builder.batch(chosen, [e.label for e in chosen], right, [len(e.answers) for e in chosen], pad)


def frugal_batch(examples: Sequence[Encoded], index: Sequence[int], pad: int) -> Batch:
    """All choices of the examples, each context read once where that saves more tokens than a second forward pass is worth.

    Args: as `lm_batch`. Scores and gradients (without dropout) are those of `choice_batch`, but for rounding. Cost: the fewer of its two costs.
    """
    part = [examples[k] for k in index]
    return choice_batch(part, range(len(part)), pad, cheapest(part) < tokens(part))


def cheapest(examples: Sequence[Encoded], times: int = 1) -> int:
    """Padded tokens that a frugal batch of these examples, so many `times`, has the model read, a second pass counted as `PASS`."""
    return min(times * tokens(examples), times * tokens(examples, branched=True) + PASS)


def tokens(examples: Sequence[Encoded], branched: bool = False) -> int:
    """Padded tokens that a choice batch of these examples has the model read."""
    tails = [{answer[:-1] for answer in example.answers} for example in examples]
    context = max(len(example.context) for example in examples)
    if not branched:
        return sum(map(len, tails)) * max(example.length for example in examples)
    longer = [tail for group in tails for tail in group if tail]
    return len(examples) * context + len(longer) * max(map(len, longer), default=0)


def merged(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, in order, padded alike: one forward pass scores them all.

    Raises: ValueError for a branched batch. Cost: the rows once more.
    """
    if any(batch.tails is not None for batch in batches):
        raise ValueError("a branched batch cannot be merged with others")
    length = max(batch.input_ids.shape[1] for batch in batches)

    def end_to_end(pick: Callable[[Batch], Tensor], step: Callable[[Batch], int] | None = None) -> Tensor:
        """A tensor of each batch, counted on from those before it."""
        parts, before = [], 0
        for batch in batches:
            parts.append(pick(batch) + before if step else pick(batch))
            before += step(batch) if step else 0
        return torch.cat(parts)

    def padded(pick: Callable[[Batch], Tensor]) -> Tensor:
        return torch.cat([functional.pad(pick(b), (0, length - pick(b).shape[1])) for b in batches])

    row = end_to_end(lambda b: b.rows.row, lambda b: b.input_ids.shape[0])
    rows = Rows(
        padded(lambda b: b.input_ids), padded(lambda b: b.attention_mask), row, end_to_end(lambda b: b.rows.col)
    )

    def answers(batch: Batch) -> int:
        return batch.right.numel()

    return Batch(
        rows=rows,
        at=end_to_end(lambda b: b.at, lambda b: b.rows.row.numel()),
        token=end_to_end(lambda b: b.token),
        answer=end_to_end(lambda b: b.answer, answers),
        gold=end_to_end(lambda b: b.gold, answers),
        first=end_to_end(lambda b: b.first, answers),
        count=end_to_end(lambda b: b.count),
        right=end_to_end(lambda b: b.right),
        examples=tuple(example for batch in batches for example in batch.examples),
    )
