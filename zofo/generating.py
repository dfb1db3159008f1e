"""`zofo.generate`: how a run, a model or a saved adapter continues a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zofo import loading, models, named, sources
from zofo.adapting import folder
from zofo.config import load
from zofo.errors import BadInput
from zofo.guest import guest, refuse_checkpoint
from zofo.named import Found
from zofo.scoring import generation
from zofo.tasks import mixture


@dataclass(frozen=True)
class How:
    """What continues a text (as `zofo.load` has it), how, and whether the text is a user's message."""

    max_new_tokens: int = 40
    temperature: float = 0.0
    chat: bool | None = None
    seed: int = 0
    which: str = "best"
    slot: str | None = None
    adapter: str | None = None


@guest()
def generate(
    target: str | Path,
    text: str,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    chat: bool | None = None,
    seed: int = 0,
    which: str = "best",
    slot: str | None = None,
    adapter: str | Path | None = None,
    dir: str | Path = "runs",
) -> str:
    """Continue a text, as `zofo generate` does; returns the new text alone. For many texts `zofo.load` once is cheaper.

    Args: target, a run or a model (name or path); max_new_tokens, 1 or more; temperature, 0 for the likeliest token, else 0.001 or more: sampled from softmax(logits /
    temperature), which seed decides; chat, whether the text is a user's message, by the tokenizer's chat template (None: where a run was trained on messages);
    which, slot, adapter, dir, as `zofo.load`. Raises: BadInput. Cost: the weights in memory, a forward pass over the text and one a new token.
    """
    refuse_checkpoint("generate", which)
    by = None if adapter is None else str(adapter)
    how = How(max_new_tokens, temperature, chat, seed, which, slot, by)
    return generated(named.find(str(target), str(dir)), text, how, loading.warned)


def generated(found: Found, text: str, how: How, say: Callable[[str], None]) -> str:
    """As `generate`, of what was found under a name. Everything is checked before weights are read."""
    refuse(text, how)
    named.refuse_which(found, how.which)
    asked = prompt(found, text, how, say)
    model, tokenizer = loading.opened(found, how.which, how.slot, how.adapter, say)
    return generation.generate(
        model, tokenizer, asked, max_new_tokens=how.max_new_tokens, temperature=how.temperature, seed=how.seed
    )


def refuse(text: str, how: How) -> None:
    """Raise BadInput for numbers out of range, or a text that no tokenizer reads."""
    if how.max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens {how.max_new_tokens}", "not 1 or more", "give a number of tokens")
    if not (how.temperature == 0 or 1e-3 <= how.temperature < float("inf")):
        found = "neither 0 (the likeliest token) nor 0.001 or more"
        raise BadInput(f"--temperature {how.temperature}", found, "give 0, or 0.7, say")
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="backslashreplace").decode()
        raise BadInput(f"TEXT {shown}", "it holds bytes that are no UTF-8", "give it in UTF-8") from None


def prompt(found: Found, text: str, how: How, say: Callable[[str], None]) -> str:
    """The text as it is, or as a user's message: where that is asked for, or what was trained on messages writes. A model that could is told of in a note."""
    source = found.source if found.run is None else sources.find(load(found.run.config).model.name)
    tokenizer = models.load_tokenizer(source)
    if how.chat or (how.chat is None and on_messages(found, how.adapter)):
        return generation.as_message(tokenizer, text)
    if (how.chat, found.run, how.adapter) == (None, None, None) and getattr(tokenizer, "chat_template", None):
        said = (
            "the text is continued as it stands; --chat would use this tokenizer's chat template (--no-chat: no note)"
        )
        say(f"note: {said}")
    return text


def on_messages(found: Found, adapter: str | None) -> bool:
    """Whether a run, or a saved adapter, was trained on chat messages."""
    held = found.run.task if found.run is not None else None
    if adapter is not None:
        held = folder.find(adapter).path / folder.TASK
    if held is None or not held.is_file():
        return False
    task = mixture.reread(held, str(held))
    trained = task.train if isinstance(task, mixture.Mixture) else (task,)
    return bool(trained) and all(one.chat is not None for one in trained)
