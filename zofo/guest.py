"""zofo's functions in somebody else's program: what is theirs is as it was when a call ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from zofo.config import flatten
from zofo.errors import BadInput, ZofoError
from zofo.run.signals import Interrupted

FLAG = re.compile(r"(?<![\w-])--(no-)?([A-Za-z](?:[\w.-]*\w)?)( (?=\d|[A-Z]+\b))?")
"""An option as the command line writes it, and the space before a number or a word for a value."""
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
    asked = re.sub(r"^(\w+=) ", r"\1", spoken(error.asked))
    error.asked, error.found, error.do = asked.removesuffix("="), spoken(error.found), spoken(error.do)
    error.args = (error.asked, error.found, error.do)


def spoken(text: str) -> str:
    """A text with options as Python writes them, but for what stands in backticks."""
    parts = text.split("`")
    return "`".join(part if k % 2 else FLAG.sub(keyword, part) for k, part in enumerate(parts))


def keyword(flag: re.Match[str]) -> str:
    """An option as a keyword: `data__shots=` for `--data.shots`, `chat=False` for `--no-chat`."""
    name = OTHERWISE.get(flag[2], flag[2].replace("-", "_").replace(".", "__"))
    return f"{name}=False" if flag[1] else f"{name}="


def checkpoint(call: str, which: str) -> None:
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
    found = flatten({key.replace("__", ".", 1): value for key, value in options.items()}, "option")
    if idle := next((key for key in found if not reads(key)), None):
        do = f"give {instead[idle]}=" if instead and idle in instead else "leave it out"
        raise BadInput(f"--{idle} {found[idle]}", f"it has no effect on {doing}", do)
    return found
