"""Text into token ids, the same way for training, scoring and generation."""

from __future__ import annotations

from typing import Any

Ids = tuple[int, ...]


def pad_id(tokenizer: Any) -> int:
    """The id that fills up rows: the tokenizer's pad token, else its end-of-text token, else 0 (it is masked)."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    return 0


def bare_ids(tokenizer: Any, text: str) -> Ids:
    """Tokens of a text without special tokens (and without the tokenizer's remark on long texts)."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def leading_ids(tokenizer: Any) -> Ids:
    """The special tokens that the tokenizer puts before plain text: BOS for some, nothing for others."""
    full, bare = tuple(tokenizer("a")["input_ids"]), bare_ids(tokenizer, "a")
    starts = [k for k in range(len(full)) if full[k : k + len(bare)] == bare]
    return full[: starts[0]] if starts else ()


def prompt_ids(tokenizer: Any, text: str) -> Ids:
    """Tokens of a text that something is to follow: special tokens in front as the tokenizer does, none behind."""
    return leading_ids(tokenizer) + bare_ids(tokenizer, text)
