"""Cutting rows that are too long: a text at its end, a prompt in tokens at its beginning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids


def shorter(tokenizer: Any, text: str, tokens: int) -> str:
    """A text less about so many tokens at its end (at least one character less)."""
    ids = bare_ids(tokenizer, text)
    keep = str(tokenizer.decode(ids[: max(0, len(ids) - tokens)], skip_special_tokens=True))
    size = len(keep) if text.startswith(keep) else int(len(text) * max(0, len(ids) - tokens) / max(1, len(ids)))
    return text[: min(size, len(text) - 1)].rstrip() if text else ""


def cut_on_the_left(made: Encoded, first: int, over: int, asked: str, shown: bool) -> Encoded:
    """The example less `over` tokens of its own prompt, at the beginning: what stands before token `first` (special tokens, demonstrations) stays.

    Raises: BadInput where nothing would stand before the answer, or (`shown`) demonstrations alone.
    """
    if len(made.context) - over - (first if shown else 0) < 1 or len(made.context) - over < first:
        raise BadInput(asked, "no room for a prompt beside the answer", "raise it")
    return replace(made, context=made.context[:first] + made.context[first + over :], cut=True)


def cut_behind(made: Encoded, over: int, asked: str) -> Encoded:
    """An example of the channel less `over` tokens of its input, at the beginning; the choices before it stay."""
    skip = made.skip or (0,) * len(made.answers)
    if min(len(answer) - own for answer, own in zip(made.answers, skip, strict=True)) <= over:
        raise BadInput(asked, "no room for an input beside the choice", "raise it")
    answers = tuple(answer[:own] + answer[own + over :] for answer, own in zip(made.answers, skip, strict=True))
    return replace(made, answers=answers, cut=True)
