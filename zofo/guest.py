"""zofo's functions in somebody else's program: what is theirs is as it was when a call ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from zofo.config import flatten
from zofo.errors import BadInput
from zofo.run.signals import Interrupted


@contextmanager
def guest() -> Iterator[None]:
    """A call of ours, in inference mode too: afterwards torch has the threads that it had, and Ctrl-C is raised as Python's own KeyboardInterrupt."""
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode(False):  # its tensors know no gradient
            yield
    except Interrupted as stopped:
        if stopped.signum != signal.SIGINT:
            raise
        raise KeyboardInterrupt(str(stopped)) from stopped
    finally:
        torch.set_num_threads(threads)


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
