"""The noise stream on GPUs, by Triton: the bits of `reference`, one pass over the weights, z never stored.

Triton is needed only when something here is called. There has been no GPU to run this on: its tests
run the kernels in Triton's interpreter on a CPU, and compile them for GPUs without running them.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zofo.core.kernels import reference

TILE = 1024  # elements a program handles
GROUP = 128  # elements; a tile begins at a multiple of it: a whole number of Philox blocks in every law
PAIRS = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float16),
         (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)}  # fmt: skip


def available() -> bool:
    """Return whether the kernels can run here: triton, and a GPU or triton's interpreter (TRITON_INTERPRET=1)."""
    runs = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and importlib.util.find_spec("triton") is not None


def jit() -> Any:
    """Return the module of kernels; triton reads TRITON_INTERPRET at this first import."""
    from zofo.core.kernels import cuda_jit

    return cuda_jit


def kind(law: str, width: int) -> str:
    """Return the kernel's name of a law: a Sphere is a Gaussian, a vector of a low-rank law (no width) Rademacher."""
    if law.startswith("low-rank"):
        return "low-rank" if width else "rademacher"
    assert law in ("gaussian", "sphere", "rademacher"), f"no kernel of the law {law!r}"
    return "gaussian" if law == "sphere" else law


@functools.lru_cache(maxsize=8)
def steps(law: str, a: float, rank: int, device: str) -> Tensor:
    """Return every value that a z can take, rounded to fp32, by what the stream says of an element."""
    a += 0.0  # a = -0.0 steps as 0.0 does, for the cache holds them equal
    if law == "low-rank":  # by the number of signs that differ, k: (r - 2 k) a / sqrt(r)
        counts: Tensor = torch.arange(rank, -rank - 1, -2, dtype=torch.float32, device=device)
        return counts * float(np.float32(a / math.sqrt(rank)))
    if law == "rademacher":
        return torch.tensor([-a, a], dtype=torch.float32, device=device)
    return reference.table(device) * float(np.float32(a))


def signed(word: int) -> int:
    """Return a 64-bit word as the signed integer of the same bits."""
    return word - 2**64 if word >= 2**63 else word


def factors(key: int, tid: int, rank: int, width: int, first: int, last: int, device: torch.device) -> Tensor:
    """Return the low-rank law's signs, a 32-bit code for each row of V, then for U's rows first..last (both in)."""
    count = width + last - first + 1
    codes: Tensor = torch.empty(count, dtype=torch.int32, device=device)
    jit().factors[(-(-count // TILE),)](codes, width, first, count, signed(key), signed(tid), RANK=rank, TILE=TILE)
    return codes


def perturb(
    out: Tensor, w: Tensor, law: str, key: int, tid: int, a: float, start: int, width: int, rank: int,
    rounding: int | None,
) -> None:  # fmt: skip
    """out = w + a z over flat contiguous tensors (out may be w), elements start.. of tensor `tid`.

    Args: law, `gaussian`, `sphere` (its scale is in a), `rademacher`, or `low-rank...` of `rank` <= 32 over
    a matrix of `width` columns (0: a vector; other laws read neither); rounding, a key for stochastic
    rounding, or None: to nearest even. The sum is formed in fp32, and an fp32 `out` takes it as it is.
    Cost: one read and one write of the weights; the low-rank law 4 bytes a row and a column of memory.
    """
    assert (w.dtype, out.dtype) in PAIRS, f"no kernel from {w.dtype} to {out.dtype}: use the reference"
    law, n = kind(law, width), out.numel()
    if n == 0:
        return
    with torch.cuda.device_of(w):
        table = codes = steps(law, a, rank, str(w.device))
        if law == "low-rank":
            codes = factors(key, tid, rank, width, start // width, (start + n - 1) // width, w.device)
        jit().perturb[(-(-(start % GROUP + n) // TILE),)](
            out, w, table, codes, start // GROUP, start % GROUP, n, width, start // max(width, 1),
            signed(key), signed(tid), signed(rounding or 0),
            LAW=law, STOCHASTIC=rounding is not None, TILE=TILE,
        )  # fmt: skip
