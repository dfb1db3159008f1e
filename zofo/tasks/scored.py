"""What answers must be as tokens: some, and not another's."""

from __future__ import annotations

from collections.abc import Sequence

from zofo.errors import BadInput
from zofo.scoring.tokens import Ids


def refuse_empty(texts: Sequence[str], found: Sequence[tuple[Ids, int]], channel: bool, asked: str) -> None:
    """Raise BadInput where nothing is scored: an answer of no token, or (in the channel) an input of none."""
    for text, (ids, start) in zip(texts, found, strict=True):
        if start < len(ids):
            continue
        if channel:
            raise BadInput(asked, "the input has no token with this model's tokenizer", "drop or mend the row")
        empty = f"answer '{text.strip()}' becomes no token with this model's tokenizer"
        raise BadInput(asked, empty, "use another word")


def refuse_equal(texts: Sequence[str], ids: Sequence[Ids], asked: str) -> None:
    """Raise BadInput where two answers are the same tokens."""
    seen: dict[Ids, str] = {}
    for text, tokens in zip(texts, ids, strict=True):
        if tokens in seen:
            found = f"choices '{seen[tokens].strip()}' and '{text.strip()}' become the same tokens with this model's tokenizer"
            raise BadInput(asked, found, "use words that it can tell apart")
        seen[tokens] = text
