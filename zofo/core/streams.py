"""One source of randomness: every random thing is a function of (run seed, stream name, step).

`key` hashes those into 64 bits; noise uses the key as it is, data order and the like a numpy
Philox generator made from it (`generator`). Code that can only use torch's global generator
(dropout, peft's initialisation) runs inside `seeded`, which saves, seeds and restores it, an accelerator's too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from zofo.core import devices


def key(seed: int, stream: str, *step: int) -> int:
    """Return 64 bits that depend on all of (seed, stream, step): BLAKE2b of their text.

    Args: seed, a run's seed (>= 0); stream, a name such as "noise"; step, whole numbers such as
    (outer, inner, task, micro-batch). Cost: none worth counting.
    """
    text = ":".join([str(seed), stream, *map(str, step)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, stream: str, *step: int) -> np.random.Generator:
    """Return a numpy generator (Philox) for one stream at one step."""
    return np.random.Generator(np.random.Philox(key=key(seed, stream, *step)))


@contextmanager
def seeded(seed: int, stream: str, *step: int) -> Iterator[None]:
    """Run a block with torch's global generators seeded, and put them back after (also on an exception)."""
    value, (kind, module, count) = key(seed, stream, *step), devices.accelerator()
    with torch.random.fork_rng(devices=list(range(count)), device_type="cuda" if module is None else kind):
        torch.default_generator.manual_seed(value)
        if module is not None:
            getattr(module, "manual_seed_all", module.manual_seed)(value)  # mps has one device, and no word for all
        yield
