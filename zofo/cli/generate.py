"""`zofo generate`: text from a run or a model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from zofo.cli.adapted import Adapter
from zofo.cli.evaluate import Slot, Which
from zofo.cli.output import line
from zofo.cli.problems import complain
from zofo.cli.target import Dir, Target, find, refuse_which
from zofo.errors import BadInput


def generate(
    target: Target,
    text: Annotated[str, Parameter(help="what to continue", allow_leading_hyphen=True)],
    /,
    *,
    max_new_tokens: Annotated[int, Parameter(help="tokens at most")] = 40,
    temperature: Annotated[float, Parameter(help="0: always the likeliest token")] = 0.0,
    seed: Annotated[int, Parameter(help="seed, for a temperature above 0")] = 0,
    which: Which = "best",
    slot: Slot = None,
    adapter: Adapter = None,
    dir: Dir = "runs",
) -> int:
    """Continue a text; the text itself is not printed again."""
    if max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens {max_new_tokens}", "not 1 or more", "give a number of tokens")
    if not (temperature == 0 or 1e-3 <= temperature < float("inf")):
        raise BadInput(
            f"--temperature {temperature}", "neither 0 (the likeliest token) nor 0.001 or more", "give 0, or 0.7, say"
        )
    found = find(target, dir)
    refuse_which(found, which)
    from zofo import loading
    from zofo.scoring.generation import generate as write

    model, tokenizer = loading.opened(found, which, slot, adapter, complain)
    line(write(model, tokenizer, text, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
    return 0
