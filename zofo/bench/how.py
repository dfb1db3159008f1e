"""How a kind of step computes, and on what: the same rows, the head at the same positions, the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zofo.core import streams
from zofo.core.noise import Law
from zofo.scoring.batch import Batch, Encoded, lm_batch
from zofo.scoring.objective import computing, row_losses

Step = Callable[[], Any]
RATE = 1e-7  # of what moves all weights: small, for the kinds share them
LEARNING = 5e-4  # of an adapter, by Adam
TINY = 1e-12  # of a pass that leaves weights where they are, and costs what a real one does


@dataclass(frozen=True)
class How:
    """How a kind computes: dtype, the head at all positions (`full`) or at one a row, the law of z, and points two at a time."""

    dtype: str = "fp32"
    full: bool = False
    law: Law = "rademacher"
    stack: bool = False

    def losses(self, model: nn.Module, made: Batch) -> Tensor:
        """The loss of each row, through zofo's scoring path or (`full`) with logits everywhere."""
        return (full_losses if self.full else row_losses)(model, made, self.dtype)


Make = Callable[[nn.Module, Batch, How], Step]


def batch(model: nn.Module, rows: int, tokens: int) -> Batch:
    """Random tokens with one answer position a row: shape (rows, tokens), on the model's device."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    drawn = streams.generator(0, "bench").integers(0, vocabulary, (rows, tokens + 1)).tolist()
    encoded = [Encoded(tuple(row[:-1]), ((row[-1],),), 0) for row in drawn]
    return lm_batch(encoded, range(rows), pad=0).to(next(model.parameters()).device)


def full_losses(model: nn.Module, made: Batch, dtype: str) -> Tensor:
    """The loss of each row with the head applied to every position."""
    with computing(made.input_ids.device, dtype):
        logits = model(input_ids=made.input_ids, attention_mask=made.attention_mask, use_cache=False).logits
    scores = torch.log_softmax(logits[made.rows.row, made.rows.col].float(), -1)
    return -scores.gather(1, made.token[:, None])[:, 0]


def twin(model: nn.Module) -> nn.Module:
    """The same model once more, with the same weights in memory, frozen; what is put on it is not on the first."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def linear(model: nn.Module) -> list[str]:
    """The names of a model's linear layers, without the head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = (name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head)
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))
