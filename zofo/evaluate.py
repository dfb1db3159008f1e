"""A model on a task's rows: metrics with n and standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from zofo.scoring.batch import Batch, Encoded, choice_batch
from zofo.scoring.metrics import summarise
from zofo.scoring.objective import answer_logprobs, evaluating
from zofo.tasks.definition import Task


def _read_off(model: nn.Module, batch: Batch, dtype: str) -> list[tuple[int, float]]:
    """For each example of a batch: the choice with the highest score (ties: the first), and the right answer's loss."""
    scores = answer_logprobs(model, batch, dtype).tolist()
    found = []
    for first, count, gold in zip(batch.first.tolist(), batch.count.tolist(), batch.gold.tolist(), strict=True):
        mine = scores[first : first + count]
        found.append((max(range(count), key=mine.__getitem__), -scores[gold]))
    return found


def evaluate(
    model: nn.Module,
    encoded: Sequence[Encoded],
    task: Task,
    batch_rows: int = 16,
    dtype: str = "fp32",
    pad: int = 0,
    check: Callable[[], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    predictions: bool = False,
) -> dict[str, Any]:
    """Score every choice of every row and say how often the right one wins.

    A row's prediction is the choice with the highest mean log-probability a token (ties: the lowest
    index); its loss is the LM loss of the right answer. Rows are batched by length; the result does
    not depend on their order but for rounding.

    Args: model, left in the modes it had; encoded, at least one row; batch_rows, examples a forward
    pass; dtype, "fp32" or "bf16" (computing); pad, the padding id; check, called between batches (a
    signal handler may raise there); progress, called with (rows done, rows in all) after each batch.
    Returns: `loss`, `accuracy`, `se`, `n`, `f1` if that is the task's metric, and with `predictions`
    also `predictions` and `losses`, a value a row in the order given. Raises: ValueError without rows.
    Cost: n / batch_rows forward passes, more rows each where choices have several tokens.
    """
    order = sorted(range(len(encoded)), key=lambda k: -encoded[k].length)  # the largest batch first: memory fails early
    found: list[tuple[int, float]] = [(0, 0.0)] * len(encoded)
    with evaluating(model), torch.no_grad():
        for start in range(0, len(order), batch_rows):
            if check is not None:
                check()
            index = order[start : start + batch_rows]
            for k, pair in zip(index, _read_off(model, choice_batch(encoded, index, pad), dtype), strict=True):
                found[k] = pair
            if progress is not None:
                progress(start + len(index), len(order))
    chosen, losses = [pair[0] for pair in found], [pair[1] for pair in found]
    result = summarise(chosen, [example.label for example in encoded], losses, task.metric)
    return result | ({"predictions": chosen, "losses": losses} if predictions else {})
