"""The output head of a model: the module that turns hidden states into logits."""

from __future__ import annotations

from torch import nn


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that turns hidden states into logits, or None where the model does not name one."""
    find = getattr(model, "get_output_embeddings", None)
    try:
        head = find() if find is not None else None
    except NotImplementedError:  # a user's own subclass of PreTrainedModel (zofo.ZO, zofo.Bilevel) may raise it
        return None
    return head if isinstance(head, nn.Module) else None


def plain_head(model: nn.Module) -> nn.Module | None:
    """The output head itself, inside of LoRA where an adapter is on it."""
    head = output_head(model)
    inside = getattr(head, "base_layer", head)
    return inside if isinstance(inside, nn.Module) else head
