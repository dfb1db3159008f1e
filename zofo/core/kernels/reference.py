"""The noise stream in plain torch, on any device and in any float dtype: what every kernel must equal.

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on the counter
(block, tensor id) with a 64-bit key. Integers only, so the bits are the same everywhere.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TABLE = Path(__file__).parents[1] / "tables" / "normal16.f32"
TABLE_SHA256 = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
GAUSSIAN_PER_BLOCK = 8  # elements a Philox block of 128 bits gives: 16 bits each
RADEMACHER_PER_BLOCK = 128  # one bit each
SQUARE_BITS = 20  # fixed point of squared table entries, for the Sphere law's norm
MASK = 0xFFFFFFFF


@functools.cache
def table(device: str = "cpu") -> Tensor:
    """Return the 65,536 normal quantiles, fp32, after checking the file's SHA-256."""
    data = TABLE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == TABLE_SHA256, f"{TABLE} is damaged: install zofo again"
    values: Tensor = torch.tensor(np.frombuffer(data, dtype="<f4"), device=device)
    return values


@functools.cache
def squares() -> Tensor:
    """Return round(z^2 2^20) of every table entry, int64: the Sphere norm is a sum of these."""
    scaled: Tensor = (table().double() ** 2 * 2**SQUARE_BITS).round()
    return scaled.long()


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return Philox-4x32-10 of four int64 tensors that hold 32-bit words, under a key of two words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wrap to 64 bits, as wanted
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(key: int, tid: int, block: Tensor) -> Tensor:
    """Return the four 32-bit words of each block, int64, shape (blocks, 4)."""
    full = torch.full_like(block, tid & MASK), torch.full_like(block, tid >> 32 & MASK)
    counter = (block & MASK, block >> 32 & MASK, *full)
    return torch.stack(philox(counter, (key & MASK, key >> 32 & MASK)), dim=-1)


def halves(key: int, tid: int, index: Tensor) -> Tensor:
    """Return the 16 bits of each element index, as an index into the table."""
    block = index // GAUSSIAN_PER_BLOCK
    low, high = int(block.min()), int(block.max())
    drawn = words(key, tid, torch.arange(low, high + 1, device=index.device))
    lane = index % GAUSSIAN_PER_BLOCK
    return drawn[block - low, lane // 2] >> (16 * (lane % 2)) & 0xFFFF


def signs(key: int, tid: int, index: Tensor) -> Tensor:
    """Return the one bit of each element index (1 means z = +1)."""
    block = index // RADEMACHER_PER_BLOCK
    low, high = int(block.min()), int(block.max())
    drawn = words(key, tid, torch.arange(low, high + 1, device=index.device))
    lane = index % RADEMACHER_PER_BLOCK
    return drawn[block - low, lane // 32] >> (lane % 32) & 1


def scaled(law: str, key: int, tid: int, index: Tensor, a: float, dtype: torch.dtype) -> Tensor:
    """Return a * z at flat element indices, rounded once to `dtype` (fp32 or fp64)."""
    factor = torch.tensor(a, dtype=dtype, device=index.device)
    if law == "rademacher":
        return torch.where(signs(key, tid, index) == 1, factor, -factor)
    return table(str(index.device)).to(dtype)[halves(key, tid, index)] * factor


def sum_of_squares(key: int, tid: int, start: int, stop: int) -> int:
    """Return sum of z_i^2 2^20 over elements start..stop of a tensor, exactly, as an integer."""
    return int(squares()[halves(key, tid, torch.arange(start, stop))].sum()) if stop > start else 0
