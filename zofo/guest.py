"""zofo's functions in somebody else's program: what is theirs is as it was when a call ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
