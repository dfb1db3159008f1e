"""A model on a task's rows: metrics with n and standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zofo.scoring import generation
from zofo.scoring.batch import Batch, Encoded, choice_batch, frugal_batch, lm_batch
from zofo.scoring.metrics import Answered, by_row, summarise
from zofo.scoring.objective import answer_logprobs, compared, cross_entropy, evaluating, read_prefix
from zofo.scoring.past import Past, can_share
from zofo.scoring.tokens import common
from zofo.tasks.definition import Task

WORTH = 32  # tokens of a shared prefix that are worth keeping
TOKENS = 2048  # padded tokens of a batch, at most (one example may have more)
BY_ROW = ("predictions", "losses", "scores", "ranked", "by_row")
"""What a result has of each row, with `predictions`."""
KEPT = 1 << 16  # tokens of a kept prefix that a batch may hold copies of (46 kB a token in SmolLM2, fp32)


@dataclass
class Found:
    """What a pass over rows found, by row: scores of all choices, losses, free answers."""

    scores: list[list[float]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """How rows are read: model, computing dtype, padding id, what goes on from kept keys and values, and calls between batches.

    `past`: a prefix of all rows that was read before (none: it is found and read with them).
    """

    model: nn.Module
    dtype: str = "fp32"
    pad: int = 0
    share: bool = True
    check: Callable[[], object] | None = None
    progress: Callable[[int, int], object] | None = None
    past: Past | None = None


def evaluate(
    model: nn.Module,
    encoded: Sequence[Encoded],
    task: Task,
    batch_rows: int = 32,
    dtype: str = "fp32",
    pad: int = 0,
    check: Callable[[], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    predictions: bool = False,
    nulls: Sequence[Encoded] = (),
    tokenizer: Any = None,
    share: bool = True,
) -> dict[str, Any]:
    """Answer every row and say how often that is right.

    A row with choices is answered by the one with the highest mean log-probability a token (ties: the first; where all are
    NaN by none, which is wrong);
    calibrated (`nulls`), by the highest score(choice | prompt) - score(choice | task-only prompt). A free answer
    is generated. `loss` is the LM loss of the right answer, `choice_loss` the cross-entropy over the choices. In the
    noisy channel scores are log P(input | choice), summed over the input, and `loss` is its mean after the right choice.
    Rows are batched by length; the result does not depend on their order but for rounding.

    Args: model, left in the modes it had; encoded, at least one row; batch_rows, examples a forward pass at
    most; dtype, "fp32" or "bf16" (computing); pad, the padding id; check, called between batches (a signal
    handler may raise there); progress, called with (rows done, rows in all) after each batch; nulls, each row's
    task-only twin; tokenizer, needed to generate (without one, or without metrics, free answers have a loss
    only); share, keep the keys and values of what rows or choices have in common, where the model can.
    Returns: the task's metrics, `loss`, `choice_loss`, each with NAME_se, and `n`; with `predictions` also
    `predictions` (choice numbers or texts), `losses`, `scores`, `ranked` (what choices are compared by: scores, less those of the task-only twins where calibrated) and `by_row` (the metrics; of those that are no means over rows, such as macro-F1, each row's share by the jackknife), a value a row in the order given. Raises: ValueError without rows.
    Cost: a forward pass a batch, more rows each where choices have several tokens. Reference: zero-shot and in-context learning,
    Brown et al. 2020 (arXiv 2005.14165); calibration, Holtzman et al. 2021 (arXiv 2104.08315); channel, Min et al. 2022 (arXiv 2108.04106).
    """
    reading = Reading(model, dtype, pad, share and can_share(model), check, progress)
    with evaluating(model), torch.no_grad():
        if task.kind == "text":
            found = freely(reading, encoded, task, batch_rows, tokenizer)
            rows = [Answered(t, e.texts) for t, e in zip(found.texts, encoded, strict=True)] if found.texts else []
            ranked = found.scores
        else:
            found = among(reading, encoded, batch_rows)
            ranked = found.scores if not nulls else less(found.scores, among_unique(reading, nulls, batch_rows))
            rows = [chosen(e, s) for e, s in zip(encoded, ranked, strict=True)]
    result: dict[str, Any] = summarise(found.losses, rows, task.metrics)
    if predictions:
        result["predictions"] = [row.text if task.kind == "text" else row.choice for row in rows]
        result |= {"losses": found.losses["loss"], "scores": found.scores, "ranked": ranked}
        result["by_row"] = {name: by_row(name, rows) for name in task.metrics if rows}
    return result


def less(scores: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> list[list[float]]:
    """Each row's scores over those of its task-only twin."""
    return [[score - null for score, null in zip(*pair, strict=True)] for pair in zip(scores, base, strict=True)]


def chosen(example: Encoded, ranked: Sequence[float]) -> Answered:
    """The choice with the highest score (ties: the first). A choice without a number is never it; where none has one, there is no answer."""
    texts = example.texts or tuple(map(str, range(len(ranked))))
    best = max((k for k, value in enumerate(ranked) if not math.isnan(value)), key=ranked.__getitem__, default=-1)
    said = texts[best] if best >= 0 else ""
    return Answered(said, tuple(texts[k] for k in example.rights), best, example.rights)


def among(reading: Reading, encoded: Sequence[Encoded], batch_rows: int) -> Found:
    """Scores of every choice of every row, and the losses."""
    found = Found([[] for _ in encoded], {name: [0.0] * len(encoded) for name in ("loss", "choice_loss")})
    for index, part, past in batches(reading, encoded, batch_rows):
        batch, scores = scored(reading, part, past)
        ranked = compared(scores, batch)
        crossed, right = cross_entropy(ranked, batch).tolist(), scores[batch.gold].tolist()
        values, ends = ranked.tolist(), (batch.first + batch.count).tolist()
        for at, k in enumerate(index):
            found.scores[k] = values[ends[at] - len(part[at].answers) : ends[at]]
            found.losses["loss"][k] = -right[at]
            found.losses["choice_loss"][k] = crossed[at]
    return found


def scored(reading: Reading, part: Sequence[Encoded], past: Past | None) -> tuple[Batch, Tensor]:
    """A batch of choices and its scores, (N,) on the CPU; contexts are read once where that saves enough."""
    batch = (frugal_batch if reading.share else choice_batch)(part, range(len(part)), reading.pad)
    return batch, answer_logprobs(reading.model, batch, reading.dtype, past).cpu()


def among_unique(reading: Reading, nulls: Sequence[Encoded], batch_rows: int) -> list[list[float]]:
    """Scores of the task-only rows, equal ones once."""
    once = {(null.context, null.answers): null for null in nulls}
    quiet = Reading(reading.model, reading.dtype, reading.pad, reading.share, reading.check)
    scores = dict(zip(once, among(quiet, list(once.values()), batch_rows).scores, strict=True))
    return [scores[null.context, null.answers] for null in nulls]


def freely(reading: Reading, encoded: Sequence[Encoded], task: Task, batch_rows: int, tokenizer: Any) -> Found:
    """LM losses of the first accepted answers and, given a tokenizer and metrics, generated ones."""
    found = Found(losses={"loss": [0.0] * len(encoded)})
    write = tokenizer is not None and bool(task.metrics)
    texts = [""] * len(encoded)
    for index, part, past in batches(reading, encoded, batch_rows, task.max_new_tokens if write else 0):
        batch = lm_batch(part, range(len(part)), reading.pad)
        losses = (-answer_logprobs(reading.model, batch, reading.dtype, past)).tolist()
        if write:
            line, model = task.stop == "newline", reading.model
            said = generation.answers(model, tokenizer, part, task.max_new_tokens, line, past, reading.dtype)
        for at, k in enumerate(index):
            found.losses["loss"][k], texts[k] = losses[at], said[at] if write else ""
    found.texts = texts if write else []
    return found


def batches(
    reading: Reading, encoded: Sequence[Encoded], batch_rows: int, more: int = 0
) -> Iterator[tuple[list[int], list[Encoded], Past | None]]:
    """Rows by length, the longest first (memory fails early), less the prefix that all share, which comes beside them."""
    past = shared(reading, encoded)
    size = len(past.ids) if past is not None else 0
    rest = [without(example, size) for example in encoded]
    order = sorted(range(len(rest)), key=lambda k: -rest[k].length)
    most = min(batch_rows, max(1, KEPT // size)) if size else batch_rows
    done = 0
    while done < len(order):
        if reading.check is not None:
            reading.check()
        index = order[done : done + fitting([rest[k] for k in order[done : done + most]], more)]
        yield index, [rest[k] for k in index], past
        done += len(index)
        if reading.progress is not None:
            reading.progress(done, len(order))


def fitting(rows: Sequence[Encoded], more: int) -> int:
    """How many of these rows, the longest first, make a batch of TOKENS at most (one at least)."""
    taken, wide = 0, 0
    for row in rows:
        wide += width(row)
        if taken and wide * rows[0].length + (taken + 1) * more > TOKENS:
            break
        taken += 1
    return taken


def width(example: Encoded) -> int:
    """Rows that an example's choices take."""
    return len({answer[:-1] for answer in example.answers})


def without(example: Encoded, size: int) -> Encoded:
    """The example less the first tokens of its context."""
    return Encoded(**{**vars(example), "context": example.context[size:]}) if size else example


def shared(reading: Reading, encoded: Sequence[Encoded]) -> Past | None:
    """Keys and values of what all contexts have in common (one token is left to each), if it is worth it."""
    if reading.past is not None or not reading.share or len(encoded) < 2:
        return reading.past
    size = min(common([e.context for e in encoded]), *(len(e.context) - 1 for e in encoded))
    return read_prefix(reading.model, encoded[0].context[:size], reading.dtype) if size >= WORTH else None
