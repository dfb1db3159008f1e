"""`zofo generate`: text from a run or a model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from zofo.cli.output import line, plain
from zofo.cli.problems import complain
from zofo.cli.target import Adapter, Dir, Found, Slot, Target, Which, find, refuse_which
from zofo.errors import BadInput


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
    if max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens {max_new_tokens}", "not 1 or more", "give a number of tokens")
    if not (temperature == 0 or 1e-3 <= temperature < float("inf")):
        raise BadInput(
            f"--temperature {temperature}", "neither 0 (the likeliest token) nor 0.001 or more", "give 0, or 0.7, say"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"TEXT {plain(text)}", "it holds bytes that are no UTF-8", "give it in UTF-8") from None
    found = find(target, dir)
    refuse_which(found, which)
    from zofo import loading
    from zofo.scoring.generation import generate as write

    text = prompt(found, adapter, chat, text)
    model, tokenizer = loading.opened(found, which, slot, adapter, complain)
    line(write(model, tokenizer, text, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
    return 0


def prompt(found: Found, adapter: str | None, chat: bool | None, text: str) -> str:
    """The text as it is, or as a user's message: where that is asked for, or what was trained on messages writes. A model that could is told of in a note."""
    from zofo import models, sources
    from zofo.config import load
    from zofo.scoring.generation import as_message

    source = found.source if found.run is None else sources.find(load(found.run.config).model.name)
    tokenizer = models.load_tokenizer(source)
    if chat or (chat is None and on_messages(found, adapter)):
        return as_message(tokenizer, text)
    if chat is None and found.run is None and adapter is None and getattr(tokenizer, "chat_template", None):
        complain(
            "note: the text is continued as it stands; --chat would use this tokenizer's chat template (--no-chat: no note)"
        )
    return text


def on_messages(found: Found, adapter: str | None) -> bool:
    """Whether a run, or a saved adapter, was trained on chat messages."""
    from zofo.adapting import folder
    from zofo.tasks import mixture

    held = found.run.task if found.run is not None else None
    if adapter is not None:
        held = folder.find(adapter).path / folder.TASK
    if held is None or not held.is_file():
        return False
    task = mixture.reread(held, str(held))
    trained = task.train if isinstance(task, mixture.Mixture) else (task,)
    return bool(trained) and all(one.chat is not None for one in trained)
