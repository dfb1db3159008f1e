"""Text into token ids, the same way for training, scoring and generation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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


@functools.lru_cache(maxsize=4)
def leading_ids(tokenizer: Any) -> Ids:
    """The special tokens that the tokenizer puts before plain text: BOS for some, nothing for others."""
    full, bare = tuple(tokenizer("a")["input_ids"]), bare_ids(tokenizer, "a")
    starts = [k for k in range(len(full)) if full[k : k + len(bare)] == bare]
    return full[: starts[0]] if starts else ()


def starting_ids(tokenizer: Any) -> Ids:
    """What stands before an answer that has no prompt: the leading tokens, else BOS, else the end-of-text token."""
    known = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    return leading_ids(tokenizer) or tuple(int(i) for i in known if i is not None)[:1]


def prompt_ids(tokenizer: Any, text: str) -> Ids:
    """Tokens of a text that something is to follow: special tokens in front as the tokenizer does, none behind.

    A text that begins with the BOS token, as chat templates write it, gets no second.
    """
    begun = text.startswith(getattr(tokenizer, "bos_token", None) or "\0")
    return (() if begun else leading_ids(tokenizer)) + bare_ids(tokenizer, text)


def parted(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, int]]:
    """Tokens of prompt + answer as one text each, and the number of the first token that holds a part of the answer.

    A token that straddles the border (the tokenizer merged over it) belongs to the answer. Fast tokenizers say
    where a character's token is; for others the answer begins where the tokens leave those of the prompt alone.
    """
    if not pairs:
        return []
    made = tokenizer([prompt + answer for prompt, answer in pairs], add_special_tokens=False, verbose=False)
    ids = [tuple(row) for row in made["input_ids"]]
    if not getattr(tokenizer, "is_fast", False):
        alone = [bare_ids(tokenizer, prompt) for prompt, _ in pairs]
        return [(row, _shared(row, prompt)) for row, prompt in zip(ids, alone, strict=True)]
    sizes = [(len(prompt), len(answer)) for prompt, answer in pairs]
    return [(row, _border(made, k, *sizes[k], len(row))) for k, row in enumerate(ids)]


def _border(made: Any, k: int, start: int, length: int, tokens: int) -> int:
    """The first token of text k that holds a character from `start` on (`tokens`: none does)."""
    places = (made.char_to_token(k, at) for at in range(start, start + length))
    first = next((place for place in places if place is not None), None)
    if first is None:
        return tokens
    while first > 0 and (span := made.token_to_chars(k, first - 1)) is not None and _inside(span, start):
        first -= 1  # white space whose place the tokenizer trims away
    return int(first)


def _inside(span: Any, start: int) -> bool:
    """Whether a token's characters lie beyond `start`. One of no characters at `start` itself is the end of what was before."""
    return bool(span.start > start or (span.start == start and (span.end > start or start == 0)))


def _shared(one: Ids, other: Ids) -> int:
    """How many tokens two rows have in common at their beginning."""
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n


def common(rows: Sequence[Ids]) -> int:
    """How many tokens all rows have in common at their beginning."""
    low, high = min(rows), max(rows)  # all others lie between
    return _shared(low, high)
