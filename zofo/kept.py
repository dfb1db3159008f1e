"""What a transformers model keeps between one token and the next: keys and values, all or a window's, or states of its own."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def placed(base: Any) -> bool:
    """Whether a model sees every token before one by its position alone, whatever padding stands between: all keys and
    values are kept, and positions are what they are said to be (RoBERTa's family counts from others, by the tokens)."""
    layers = layers_of(base)
    if not layers or not {"position_ids", "past_key_values"} <= arguments(base):
        return False
    windows = "local" in (getattr(base.config, "attention_layers", None) or ())  # GPT-Neo's; its cache does not know
    counted = any(hasattr(module, "create_position_ids_from_input_ids") for module in base.modules())
    return not windows and not counted and all(type(layer) is DynamicLayer for layer in layers)


def recurrent(base: Any) -> bool:
    """Whether a model keeps states instead of keys and values in some layer; through them it may see padding, whatever the mask says."""
    return not keeps_keys(base) or bool({"state", "cache_params"} & arguments(base))


def keeps_keys(base: Any) -> bool:
    """Whether every layer of a model keeps keys and values (of a window alone, too) and nothing else, so far as its configuration says."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers_of(base))


def arguments(base: Any) -> set[str]:
    """What a model's forward pass takes, by name."""
    return set(inspect.signature(base.forward).parameters)


def layers_of(base: Any) -> list[Any]:
    """The layers of a model's cache as transformers makes it; none where it does not know the configuration."""
    try:
        return list(DynamicCache(config=base.config).layers)
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
