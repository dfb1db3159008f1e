"""Text from a model, plain or with an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from zofo.core.streams import seeded
from zofo.errors import BadInput
from zofo.kept import arguments, placed, recurrent
from zofo.scoring.batch import Encoded
from zofo.scoring.objective import computing, evaluating
from zofo.scoring.past import Past, base_of, spread
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


def ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: those that the model names, and the tokenizer's, which training closes answers with."""
    named = model.generation_config.eos_token_id
    own = named if isinstance(named, list) else [named]
    return sorted({k for k in (*own, tokenizer.eos_token_id) if k is not None})


def _settings(model: Any, tokenizer: Any, max_new_tokens: int, temperature: float) -> GenerationConfig:
    """Greedy search, or plain sampling from the whole vocabulary."""
    warm: dict[str, Any] = {"temperature": temperature, "top_k": 0} if temperature > 0 else {}
    made: Any = GenerationConfig
    settings: GenerationConfig = made(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=ends(model, tokenizer) or None,
        **warm,
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


def as_message(tokenizer: Any, text: str) -> str:
    """A text as a user's message by the tokenizer's chat template, the assistant's answer begun. Raises: BadInput where there is none, or it refuses."""
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput("--chat", "this model's tokenizer has no chat template", "leave it out")
    messages = [{"role": "user", "content": text}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template can raise whatever it likes
        raise BadInput("--chat", f"the chat template refuses the text ({str(error)[:160]})", "take --no-chat") from None


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
    refuse_states(model)
    settings = _settings(model, tokenizer, max_new_tokens, temperature)
    with evaluating(model), torch.no_grad(), seeded(seed, "generation"), _only(settings, model):
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


class Ended:
    """Stops a row once a token of it holds a newline (a stopping criterion of transformers)."""

    def __init__(self, breaks: Tensor) -> None:
        self.breaks = breaks

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows are done: (R,)."""
        return self.breaks.to(ids.device)[ids[:, -1]]


@lru_cache(maxsize=4)
def newlines(tokenizer: Any, vocabulary: int) -> Tensor:
    """Whether each token's text holds a newline: (V,). Cost: the vocabulary decoded once a tokenizer."""
    size = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[k] for k in range(size)])
    return torch.tensor(["\n" in text for text in texts] + [False] * (vocabulary - size))


def counts_padding(model: Any) -> bool:
    """Whether padding on the left would be seen: by a recurrent model's states, as positions by prompt tuning (peft drops
    their ids), and after a prefix by windows and by models that count places."""
    peft, base = getattr(model, "active_peft_config", None), base_of(model)
    if recurrent(base):
        return True
    if not getattr(peft, "num_virtual_tokens", None):
        return False
    return getattr(peft, "peft_type", None) != "PREFIX_TUNING" or not placed(base)


def refuse_states(model: Any) -> None:
    """Raise BadInput for a prompt on a recurrent model, whose states peft loses between new tokens."""
    if getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) and recurrent(base_of(model)):
        found = "of a recurrent model with virtual tokens peft loses the states between one new token and the next"
        raise BadInput("generate", found, "use LoRA, or a task whose answers are chosen")


def apart(model: Any, examples: Sequence[Encoded]) -> list[list[int]]:
    """Numbers of the examples that go together: all, those of equal length where padding would be seen, or each alone (an
    RWKV of transformers mixes the rows of a batch from the second new token on)."""
    if "state" in arguments(base_of(model)):
        return [[k] for k in range(len(examples))]
    return by_length(examples) if counts_padding(model) else [list(range(len(examples)))]


def by_length(examples: Sequence[Encoded]) -> list[list[int]]:
    """Numbers of the examples, those with contexts of equal length together."""
    found: dict[int, list[int]] = {}
    for k, example in enumerate(examples):
        found.setdefault(len(example.context), []).append(k)
    return list(found.values())


def answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Encoded],
    max_new_tokens: int,
    line: bool = True,
    past: Past | None = None,
    dtype: str = "fp32",
) -> list[str]:
    """Continue each example's context greedily, as a batch; returns the new texts, stripped, one line each if `line`.

    Args: examples, of which the contexts are read; max_new_tokens, at most; line, stop at a newline (the
    end-of-text token stops too); past, keys and values of what stands before all contexts. Raises: BadInput
    where a row is too long for the model. Cost: a forward pass over the contexts and one a new token (keys
    and values are cached); works while the model is being probed.
    """
    refuse_states(model)
    groups = apart(model, examples)
    if len(groups) > 1:
        parts = [
            answers(model, tokenizer, [examples[k] for k in group], max_new_tokens, line, past, dtype)
            for group in groups
        ]
        found_at = {
            k: text for group, part in zip(groups, parts, strict=True) for k, text in zip(group, part, strict=True)
        }
        return [found_at[k] for k in range(len(examples))]
    before = past.ids if past is not None else ()
    contexts = [example.context for example in examples]
    length, pad, device = max(map(len, contexts)), pad_id(tokenizer), next(model.parameters()).device
    _refuse_too_long(model, len(before) + length + max_new_tokens)
    ids = torch.tensor([before + (pad,) * (length - len(c)) + c for c in contexts], device=device)
    mask = torch.tensor(
        [(1,) * len(before) + (0,) * (length - len(c)) + (1,) * len(c) for c in contexts], device=device
    )
    more: dict[str, Any] = {"past_key_values": spread(past, len(contexts))} if past is not None else {}
    if line:
        more["stopping_criteria"] = [Ended(newlines(tokenizer, model.get_input_embeddings().num_embeddings))]
    settings = _settings(model, tokenizer, max_new_tokens, 0.0)
    with torch.no_grad(), computing(device, dtype), _only(settings, model):
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **more)
    texts = tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    return [(text.split("\n", 1)[0] if line else text).strip() for text in texts]
