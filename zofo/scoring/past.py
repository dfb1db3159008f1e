"""Keys and values that several rows share: a prefix computed once, and contexts that answers go on from.

For models whose cache is plain keys and values of every layer, and that take position ids: others, and adapters
of virtual tokens, are scored row by row from the beginning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from zofo.kept import placed
from zofo.scoring.batch import Rows


@dataclass(frozen=True)
class Past:
    """A prefix of every row: its token ids and its keys and values, for a batch of one."""

    ids: tuple[int, ...]
    cache: Any


def base_of(model: nn.Module) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if inner is not None else model


def can_share(model: nn.Module) -> bool:
    """Whether rows can go on from others' keys and values in this model, as it is adapted now."""
    peft = getattr(model, "active_peft_config", None)
    if peft is not None and getattr(peft, "num_virtual_tokens", None):
        return False
    return placed(base_of(model))


def spread(past: Past, rows: int) -> Any:
    """A cache of the prefix for a number of rows (its keys and values are views until something is added)."""
    made = copy.copy(past.cache)
    made.layers = [copy.copy(layer) for layer in past.cache.layers]
    for layer in made.layers:
        layer.keys, layer.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)
    return made


def begun(model: nn.Module, rows: Rows, past: Past | None, keep: bool) -> dict[str, Any]:
    """What the model needs to read rows that go on from `past`, and to `keep` their keys and values; nothing if neither."""
    if past is None and not keep:
        return {}
    count, size = rows.input_ids.shape[0], len(past.ids) if past is not None else 0
    cache = spread(past, count) if past is not None else DynamicCache(config=base_of(model).config)
    return together(rows.attention_mask.new_ones(count, size), rows.attention_mask, cache)


def continued(
    model: nn.Module, tails: Rows, rows: Rows, parent: Tensor, past: Past | None, cache: Any
) -> dict[str, Any]:
    """What the model needs to read tails that go on from rows `parent` of `rows` in `cache`."""
    cache.batch_select_indices(parent)
    before = rows.attention_mask[parent]
    if past is not None:
        before = torch.cat([before.new_ones(len(parent), len(past.ids)), before], 1)
    return together(before, tails.attention_mask, cache)


def together(before: Tensor, own: Tensor, cache: Any) -> dict[str, Any]:
    """Masks of what was read before and what is read now, positions that leave padding out, and the cache."""
    mask = torch.cat([before, own], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, before.shape[1] :]
    return {"attention_mask": mask, "position_ids": places, "past_key_values": cache, "use_cache": True}
