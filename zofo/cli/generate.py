"""`zofo generate`: text from a run or a model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from zofo.cli.output import line
from zofo.cli.problems import complain
from zofo.cli.target import Adapter, Dir, Slot, Target, Which, find


def generate(
    target: Target,
    text: Annotated[str, Parameter(help="what to continue", allow_leading_hyphen=True)],
    /,
    *,
    max_new_tokens: Annotated[int, Parameter(help="tokens at most")] = 40,
    temperature: Annotated[float, Parameter(help="0: always the likeliest token")] = 0.0,
    chat: Annotated[
        bool | None,
        Parameter(
            help="the text is a user's message, by the tokenizer's chat template (default: where a run was trained on messages)"
        ),
    ] = None,
    seed: Annotated[int, Parameter(help="seed, for a temperature above 0")] = 0,
    which: Which = "best",
    slot: Slot = None,
    adapter: Adapter = None,
    dir: Dir = "runs",
) -> int:
    """Continue a text; the text itself is not printed again."""
    found = find(target, dir)
    from zofo.generating import How, generated

    how = How(max_new_tokens, temperature, chat, seed, which, slot, adapter)
    line(generated(found, text, how, complain))
    return 0
