"""The one scoring path: training, probing, validation and selection score through it.

Only the wanted positions go through the output head (for a short row and a large vocabulary the head
is most of a forward pass): a hook on the head takes them out of the hidden states, in two dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zofo.scoring.batch import Batch


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that turns hidden states into logits, or None where the model does not name one."""
    find = getattr(model, "get_output_embeddings", None)
    try:
        head = find() if find is not None else None
    except (NotImplementedError, AttributeError):  # what transformers raises for a model without one
        return None
    return head if isinstance(head, nn.Module) else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in eval mode (no dropout); every module's mode is restored after, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def objective_note(model: nn.Module) -> str | None:
    """A sentence for the user where scoring costs more than it should, else None."""
    if output_head(model) is not None:
        return None
    return f"{type(model).__name__} names no output head: logits of all positions are computed, and most thrown away"


def _take(values: Tensor, batch: Batch) -> Tensor:
    """Rows of (R, L', H) at the wanted positions: (P, H). Columns count from the end: virtual tokens stand in front."""
    return values[batch.row, values.shape[1] - batch.input_ids.shape[1] + batch.col]


@contextmanager
def _only_wanted(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Let only the wanted positions into the output head, for one forward pass."""

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (_take(args[0], batch), *args[1:]) if args and args[0].dim() == 3 else None

    head = output_head(model)
    handle = head.register_forward_pre_hook(before) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def computing(device: torch.device, dtype: str) -> torch.autocast:
    """A context that computes in "bf16" over the weights' own type, or ("fp32") leaves everything as it is.

    The autocast cache is off: it would hand a weight's old cast to code that changes weights during a pass
    (probing), and every weight is cast once a pass anyway.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16", cache_enabled=False)


def _forward(model: nn.Module, batch: Batch, dtype: str) -> Tensor:
    """Logits (P, V) at the wanted positions."""
    with computing(batch.input_ids.device, dtype), _only_wanted(model, batch):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    # A head that is called by its weight only (no module call, so no hook) gives logits everywhere.
    return _take(logits, batch) if logits.dim() == 3 else logits


def answer_logprobs(model: nn.Module, batch: Batch, dtype: str = "fp32") -> Tensor:
    """Mean log-probability of each answer's tokens, (1/|a|) sum_t log P(a_t | context, a_<t): shape (N,).

    Args: model, a causal model of transformers, or a peft model around one; batch, moved to the
    model's device if it is elsewhere; dtype, "fp32" (compute in the weights' own type) or "bf16"
    (autocast). The result is fp32, or fp64 for an fp64 model. Differentiable; works under no_grad.
    Cost: one forward pass, and P x V logits.
    """
    batch = batch.to(next(model.parameters()).device)
    logits = _forward(model, batch, dtype)
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = torch.log_softmax(logits, -1, dtype=kind)[batch.at, batch.token]
    total = scores.new_zeros(int(batch.count.sum())).index_add(0, batch.answer, scores)
    return total / torch.bincount(batch.answer)


def row_losses(model: nn.Module, batch: Batch, dtype: str = "fp32") -> Tensor:
    """LM loss of each example, the mean negative log-probability of its right answer's tokens: shape (E,).

    Arguments, type and cost as for `answer_logprobs`.
    """
    return -answer_logprobs(model, batch, dtype)[batch.gold]
