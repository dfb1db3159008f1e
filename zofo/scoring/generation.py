"""Text from a model, plain or with an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from zofo.core.streams import seeded
from zofo.errors import BadInput
from zofo.scoring.objective import evaluating
from zofo.scoring.tokens import pad_id, prompt_ids


@contextmanager
def _only(settings: GenerationConfig, model: Any) -> Iterator[None]:
    """Put `settings` in place of those that the model's files brought (or else some of them would still count)."""
    before = {module: module.generation_config for module in model.modules() if "generation_config" in vars(module)}
    for module in before:
        module.generation_config = settings
    try:
        with warnings.catch_warnings():
            # peft drops the position ids that transformers passes, and says so; they are made anew inside
            warnings.filterwarnings("ignore", message="Position ids are not supported")
            yield
    finally:
        for module in model.modules():
            if module in before:
                module.generation_config = before[module]
            else:
                vars(module).pop("generation_config", None)  # peft leaves one behind


def _settings(model: Any, max_new_tokens: int, temperature: float, pad: int) -> GenerationConfig:
    """Greedy search, or plain sampling from the whole vocabulary."""
    warm: dict[str, Any] = {"temperature": temperature, "top_k": 0} if temperature > 0 else {}
    ends = model.generation_config.eos_token_id
    made: Any = GenerationConfig
    settings: GenerationConfig = made(
        max_new_tokens=max_new_tokens, do_sample=temperature > 0, pad_token_id=pad, eos_token_id=ends, **warm
    )
    return settings


def _refuse_too_long(model: Any, tokens: int) -> None:
    """Learned positions end somewhere; refuse before the model fails in its own words."""
    peft = getattr(model, "active_peft_config", None)
    total = tokens + (getattr(peft, "num_virtual_tokens", None) or 0)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and total > limit:
        found = f"prompt and new tokens are {total} tokens, the model reads {limit}"
        raise BadInput("generate", found, "shorten one of them")


def generate(
    model: Any, tokenizer: Any, text: str, max_new_tokens: int = 32, temperature: float = 0.0, seed: int = 0
) -> str:
    """Continue a text; returns the new text alone, without special tokens.

    Args: model, a causal model of transformers, or a peft model (LoRA, prefix or prompt tuning) around one,
    left in the modes it had; text, at least one token; max_new_tokens, 1 or more (the end-of-text token
    stops earlier); temperature, 0 for greedy, above 0 to sample from softmax(logits / temperature), which
    `seed` decides. Raises: BadInput for a text of no tokens, or one too long for the model. Cost: one
    forward pass over the text and one a new token (keys and values are cached).
    """
    ids = torch.tensor([prompt_ids(tokenizer, text)], dtype=torch.long, device=next(model.parameters()).device)
    if not ids.numel():
        raise BadInput("generate", "the text has no tokens", "give some text to continue")
    _refuse_too_long(model, ids.shape[1] + max_new_tokens)
    settings = _settings(model, max_new_tokens, temperature, pad_id(tokenizer))
    with evaluating(model), torch.no_grad(), seeded(seed, "generation"), _only(settings, model):
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
