"""zofo's functions in somebody else's program: what is theirs is as it was when a call ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from zofo.config import flatten, keys
from zofo.errors import BadInput, ZofoError
from zofo.run.signals import Interrupted

FLAG = re.compile(r"(?<![\w/-])--(no-)?([A-Za-z](?:[\w.-]*\w)?)( (?=\d|[A-Z]+\b))?")
"""An option as the command line writes it, and the space before a number or a word for a value."""
SHORT = {
    "dtype": "model.dtype", "batch": "data.batch", "channel": "data.channel", "objective": "method.objective",
    "memory_cap": "run.memory_cap",
}  # fmt: skip
"""Options that every function takes under a short name too, as commands do."""
ARGUMENTS = {
    "model", "task", "preset", "mixture", "shots", "draws", "steps", "seconds", "seed", "lr", "run", "which", "slot", "adapter", "split", "side",
    "samples", "out", "merge", "start", "chat", "dir", "max-new-tokens", "temperature", "auto-lr", "memory-cap", *SHORT,
}  # fmt: skip
"""What commands call arguments of our functions."""
OTHERWISE = {"config": "config_file"}
"""Options that an argument of ours has another name for."""


@contextmanager
def guest() -> Iterator[None]:
    """A call of ours, in inference mode too: afterwards torch has the threads that it had, Ctrl-C is raised as Python's own KeyboardInterrupt,
    and errors name options as Python writes them."""
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode(False):  # its tensors know no gradient
            yield
    except ZofoError as error:
        respell(error)
        raise
    except Interrupted as stopped:
        if stopped.signum != signal.SIGINT:
            raise
        raise KeyboardInterrupt(str(stopped)) from stopped
    finally:
        torch.set_num_threads(threads)


def respell(error: ZofoError) -> None:
    """Write the options in an error as Python has them: `data__shots=-1` for `--data.shots -1`. Commands in backticks stay."""
    first = FLAG.match(error.asked)
    name = keyword(first) if first else None
    if first and name:
        rest = spoken(error.asked[first.end() :].removeprefix(" "))
        error.asked = f"{name}={rest}" if rest and not rest.startswith(("and ", ": ")) else f"{name} {rest}".strip()
    else:
        error.asked = spoken(error.asked)
    error.found, error.do = spoken(error.found), spoken(error.do)
    error.args = (error.asked, error.found, error.do)


def spoken(text: str) -> str:
    """A text with options as Python writes them, but for what stands in backticks."""
    parts = text.split("`")
    return "`".join(part if k % 2 else FLAG.sub(word, part) for k, part in enumerate(parts)) if len(parts) % 2 else text


def word(flag: re.Match[str]) -> str:
    """An option in a sentence: `data__shots`, or with the number or the word for a value that follows data__shots=3."""
    name = keyword(flag)
    if name is None:
        return flag[0]
    return f"{name}=" if flag[3] else name if flag[1] else f"`{name}`"


def keyword(flag: re.Match[str]) -> str | None:
    """An option as a keyword: `data__shots` for `--data.shots`, `chat=False` for `--no-chat`; None for what is no option of ours."""
    if flag[2] not in keys() and flag[2] not in ARGUMENTS and flag[2] not in OTHERWISE:
        return None
    name = OTHERWISE.get(flag[2], flag[2].replace("-", "_").replace(".", "__"))
    return f"{name}=False" if flag[1] else name


def refuse_checkpoint(call: str, which: str) -> None:
    """Raise BadInput for what is no checkpoint of a run's. Args: call, the function of ours that was called."""
    if which not in ("best", "last"):
        raise BadInput(f"{call}(which={which!r})", "unknown", "choose one of: best, last")


def given(
    options: Mapping[str, Any], reads: Callable[[str], bool], doing: str, instead: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Options in Python's form (`adapter__r`) by dotted key.

    Args: reads, whether an option has an effect on what is done; doing, the word for that; instead, arguments that say the same as an option.
    Raises: BadInput for one that is not known, or without effect.
    """
    try:
        found = flatten({SHORT.get(key, key.replace("__", ".", 1)): value for key, value in options.items()}, "option")
    except BadInput as error:
        asked, do = (re.sub(r"(\w)\.(\w)", r"\1__\2", part) for part in (error.asked, error.do))
        raise BadInput(asked, error.found, do) from None
    if idle := next((key for key in found if not reads(key)), None):
        do = f"give {instead[idle]}=" if instead and idle in instead else "leave it out"
        raise BadInput(f"--{idle} {found[idle]}", f"it has no effect on {doing}", do)
    return found
