"""The noise stream in plain torch (a few blocks in plain numpy), on any device and in any float dtype: what every kernel must equal.

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on the counter
(block, tensor id) with a 64-bit key. Integers only, so the bits are the same everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TABLE = Path(__file__).parents[1] / "tables" / "normal16.f32"
TABLE_SHA256 = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
GAUSSIAN_PER_BLOCK = 8  # elements a Philox block of 128 bits gives: 16 bits each
RADEMACHER_PER_BLOCK = 128  # one bit each
SQUARE_BITS = 20  # fixed point of squared table entries, for the Sphere law's norm
FEW = 4096  # blocks; on so few numpy's operators cost less than torch's, and their integers are the same
MASK = 0xFFFFFFFF
LOW_RANK = "low-rank-"

Words = Tensor | NDArray[np.int64]


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


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Return Philox-4x32-10 of four int64 tensors (or numpy arrays) that hold 32-bit words, under a key of two words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wrap to 64 bits, as wanted
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(key: int, tid: int, block: Tensor) -> Tensor:
    """Return the four 32-bit words of each block of a 1-d tensor, int64, shape (blocks, 4)."""
    few = block.device.type == "cpu" and block.numel() <= FEW
    b: Words = block.numpy() if few else block
    counter = (b & MASK, b >> 32 & MASK, b * 0 + (tid & MASK), b * 0 + (tid >> 32 & MASK))
    drawn = philox(counter, (key & MASK, key >> 32 & MASK))
    return torch.stack([torch.as_tensor(word) for word in drawn], dim=-1)


def halves(key: int, tid: int, index: Tensor) -> Tensor:
    """Return the 16 bits of each element index, as an index into the table; consecutive along the last dimension."""
    drawn, place = located(key, tid, index, GAUSSIAN_PER_BLOCK)
    lane = index % GAUSSIAN_PER_BLOCK
    return drawn[place, lane // 2] >> (16 * (lane % 2)) & 0xFFFF


def signs(key: int, tid: int, index: Tensor) -> Tensor:
    """Return the one bit of each element index (1 means z = +1); consecutive along the last dimension."""
    drawn, place = located(key, tid, index, RADEMACHER_PER_BLOCK)
    lane = index % RADEMACHER_PER_BLOCK
    return drawn[place, lane // 32] >> (lane % 32) & 1


def located(key: int, tid: int, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the words of all blocks of `size` elements that indices fall into, and in which of its rows each index finds its own.

    No number is read from the index, which may be on a device: how many blocks a run of indices can touch, its length says.
    """
    block = index // size
    first, count = block[..., :1], touched(index.shape[-1], size)
    blocks = (first + torch.arange(count, device=index.device)).reshape(-1)
    runs = torch.arange(0, blocks.numel(), count, device=index.device).view(first.shape)
    return words(key, tid, blocks), block - first + runs


def touched(n: int, size: int) -> int:
    """How many blocks of `size` elements n consecutive ones touch at the most."""
    return (n + size - 2) // size + 1


def products(key: int, tid: int, index: Tensor, width: int, rank: int) -> Tensor:
    """Return sum_k U_ik V_jk of each element (i, j) of a matrix, integers between -rank and rank; consecutive along the last dimension.

    V_jk is sign number j rank + k of the tensor's stream, U_ik sign number (width + i) rank + k.
    """
    first, count = index[..., :1] // width, touched(index.shape[-1], width)
    rows = width + first + torch.arange(count, device=index.device)
    u = factor(key, tid, rows, rank)
    v = factor(key, tid, torch.arange(width, device=index.device), rank)
    runs = torch.arange(0, rows.numel(), count, device=index.device).view(first.shape)
    return (u[index // width - first + runs] * v[index % width]).sum(-1)


def factor(key: int, tid: int, rows: Tensor, rank: int) -> Tensor:
    """Return the signs of rows of U and V, shape (rows, rank)."""
    number = rows[..., None] * rank + torch.arange(rank, device=rows.device)
    return 2 * signs(key, tid, number.flatten(-2)).view(-1, rank) - 1


def rank_of(law: str) -> int:
    """The rank of a low-rank law, "low-rank-8" say; 0 for other laws."""
    return int(law.removeprefix(LOW_RANK)) if law.startswith(LOW_RANK) else 0


def scaled(law: str, key: int, tid: int, index: Tensor, a: float, dtype: torch.dtype, width: int = 0) -> Tensor:
    """Return a * z at flat element indices (consecutive along the last dimension), rounded once to `dtype` (fp32 or fp64).

    width: the last dimension of a matrix, which a low-rank law needs; 0 for a vector, whose z it takes from Rademacher.
    a = -0.0 counts as 0.0, so that the kernels may keep their tables by a.
    """
    a += 0.0
    rank = rank_of(law)
    step = torch.full((), a / math.sqrt(rank) if rank and width else a, dtype=dtype, device=index.device)
    if rank and width:
        return products(key, tid, index, width, rank).to(dtype) * step
    if rank or law == "rademacher":
        return torch.where(signs(key, tid, index) == 1, step, -step)
    return table(str(index.device)).to(dtype)[halves(key, tid, index)] * step


def stochastic(x: Tensor, bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Round fp32 to bf16 or fp16, up in size with the probability of what is cut off; `bits`, 16 a number, decide.

    E = x where 16 bits resolve what is cut off (bf16: all 16; fp16: 13, and below 2^-14 to 2^-40).
    """
    raw = x.contiguous().view(torch.int32).long() & MASK
    sign, size = raw >> 16 & 0x8000, raw & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        half = torch.where(size < 0x7F800000, raw + bits >> 16, raw >> 16 | (size > 0x7F800000).long() << 6)
    else:
        y = x.abs() * 2**24  # exact where it is read, below 2^-14
        normal = ((size + (bits & 0x1FFF) >> 13) - (112 << 10)).clamp(max=0x7C00)
        below = y.clamp(max=2**30).floor()
        tiny = below.long() + (bits < (y.clamp(max=2**30) - below) * 65536)
        half = sign | torch.where(size >= 0x38800000, normal, tiny)
        half = torch.where(size > 0x7F800000, sign | 0x7E00, torch.where(size == 0x7F800000, sign | 0x7C00, half))
    return half.to(torch.int32).to(torch.int16).view(dtype)


def sum_of_squares(key: int, tid: int, start: int, stop: int) -> int:
    """Return sum of z_i^2 2^20 over elements start..stop of a tensor, exactly, as an integer."""
    return int(squares()[halves(key, tid, torch.arange(start, stop))].sum()) if stop > start else 0
