"""The noise z: a pure function of (key; tensor id, element index), never stored.

Laws: `gaussian` (16-bit table of normal quantiles, unit variance), `rademacher` (+1 or -1, one bit an
element), `sphere` (a Gaussian z scaled to the norm sqrt(d), d the number of all elements). The
arithmetic is fixed: a * z is rounded once to the weights' type (fp32 for half types), then one add.
Bits do not depend on device, kernel, threads or tiling; a CPU kernel serves fp32, torch the rest.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zofo.core.kernels import cpu, reference

Law = Literal["gaussian", "rademacher", "sphere"]
LAWS: tuple[Law, ...] = ("gaussian", "rademacher", "sphere")
CHUNK = 1 << 20  # elements that the torch reference handles at a time


@dataclass(frozen=True)
class Direction:
    """One z: its law, its 64-bit key, and the factor that the Sphere law puts on it (1 for the others)."""

    law: Law
    key: int
    scale: float = 1.0


def tensor_id(name: str) -> int:
    """Return the 64-bit id of a tensor: BLAKE2b of its name in the unwrapped base model."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=64)
def sphere_scale(key: int, tensors: tuple[tuple[int, int], ...]) -> float:
    """Return sqrt(d) / |z| for tensors given as (id, elements); |z|^2 is summed in integers.

    Cost: one pass over the noise. Kept for the keys in use.
    """
    table = reference.squares().numpy()
    total = sum(cpu.sum_of_squares(key, tid, 0, n, table) for tid, n in tensors)
    return math.sqrt(sum(n for _, n in tensors) * 2**reference.SQUARE_BITS / max(total, 1))


def direction(law: Law, key: int, tensors: Iterable[tuple[int, int]]) -> Direction:
    """Return the direction of a key over tensors given as (id, elements). Cost: one noise pass for Sphere, else none."""
    return Direction(law, key, sphere_scale(key, tuple(tensors)) if law == "sphere" else 1.0)


@functools.lru_cache(maxsize=8)
def scaled_table(signs: bool, a: float) -> cpu.Array:
    """Return fp32(a * table) of a law, the form that the CPU kernels read."""
    table = cpu.sign_table() if signs else reference.table().numpy()
    return table * np.float32(a)


def perturb(out: Tensor, w: Tensor, z: Direction, a: float, tid: int, start: int = 0) -> Tensor:
    """Write w + a z into `out` and return it.

    Args: out, w, contiguous tensors of one shape (out may be w); a, the step along z; tid, the
    tensor's id; start, the flat index of w's first element in its whole tensor.
    Cost: one read and one write of w; no memory for fp32 on CPU.
    """
    a, flat_out, flat_w = a * z.scale, out.view(-1), w.view(-1)
    if w.device.type == "cpu" and w.dtype == out.dtype == torch.float32:
        table = scaled_table(z.law == "rademacher", float(np.float32(a)))
        cpu.perturb(flat_out.numpy(), flat_w.numpy(), z.law, start, tid, z.key, table)
        return out
    exact = torch.float64 if w.dtype == torch.float64 else torch.float32
    for i in range(0, w.numel(), CHUNK):
        old = flat_w[i : i + CHUNK]
        index = torch.arange(start + i, start + i + old.numel(), device=w.device)
        step = reference.scaled(z.law, z.key, tid, index, a, exact)
        flat_out[i : i + CHUNK] = (old.to(exact) + step).to(out.dtype)
    return out


def perturb_rows(out: Tensor, w: Tensor, rows: Tensor, z: Direction, a: float, tid: int) -> Tensor:
    """Write rows of w + a z into `out` and return it: what an embedding needs of a large table.

    Args: out, (U, H); w, (V, H) contiguous; rows, (U,) row numbers. Cost: U rows of work and memory.
    """
    width = w.shape[1]
    for place, row in enumerate(rows.tolist()):
        perturb(out[place], w[row], z, a, tid, row * width)
    return out


def draw(z: Direction, tid: int, n: int, dtype: torch.dtype = torch.float64, start: int = 0) -> Tensor:
    """Return z itself at elements start..start+n, by the torch reference: for tests and for Adam's tiles.

    Cost: n elements of memory.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return reference.scaled(z.law, z.key, tid, torch.arange(start, start + n), z.scale, exact).to(dtype)
