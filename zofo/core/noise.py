"""The noise z: a pure function of (key; tensor id, element index), never stored.

Laws: `gaussian` (16-bit table of normal quantiles, unit variance), `rademacher` (+1 or -1, one bit an
element), `sphere` (a Gaussian z scaled to the norm sqrt(d), d the number of all elements), `low-rank-R`
(a matrix's z is U V^T / sqrt(R), U and V of R columns of signs; a vector's is Rademacher). The arithmetic is
fixed: a * z is rounded once to fp32 (fp64 for fp64 weights), then one add, rounded once to the type written.
Bits do not depend on device, kernel, threads or tiling: compiled kernels serve fp32, bf16 and fp16 on CPU and
CUDA, torch the rest.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zofo.core.kernels import cpu, cuda, reference

Law = str
LAWS: tuple[Law, ...] = ("gaussian", "rademacher", "sphere", "low-rank-8")  # low-rank of any rank up to MAX_RANK
MAX_RANK = 32
CHUNK = 1 << 20  # elements that the torch reference handles at a time


@dataclass(frozen=True)
class Direction:
    """One z: its law, its 64-bit key, and the factor that the Sphere law puts on it (1 for the others)."""

    law: Law
    key: int
    scale: float = 1.0


def known(law: Any) -> bool:
    """Whether a law is one of ours."""
    if not isinstance(law, str):
        return False
    low = law.removeprefix(reference.LOW_RANK)
    return law in LAWS or (low != law and low.isdecimal() and 1 <= int(low) <= MAX_RANK and low == str(int(low)))


def tensor_id(name: str) -> int:
    """Return the 64-bit id of a tensor: BLAKE2b of its name in the unwrapped base model."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def rounding_key(key: int) -> int:
    """The key of the bits that round a step along z(key) into half-precision weights: another stream than z's."""
    return int.from_bytes(
        hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8, person=b"rounding").digest(), "little"
    )


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


@functools.lru_cache(maxsize=16)
def scaled_table(how: int, a: float, rank: int = 0) -> cpu.Array:
    """Return fp32(a * z) for every value of z that a law has, in the form that the CPU kernels read."""
    a += 0.0  # a = -0.0 steps as 0.0 does, for the cache holds them equal
    with np.errstate(over="ignore"):
        if how == cpu.SIGNS:
            return (cpu.sign_rows() * np.float32(a)).view(np.uint64)
        if how == cpu.QUANTILES:
            return reference.table().numpy() * np.float32(a)
        return (rank - 2 * np.arange(33)).astype(np.float32) * np.float32(a / math.sqrt(rank))


def reading(law: Law, width: int) -> tuple[int, int]:
    """How a kernel reads a law's table for a tensor, and the law's rank."""
    rank = reference.rank_of(law)
    if rank and width:
        return cpu.PRODUCTS, rank
    return (cpu.SIGNS if rank or law == "rademacher" else cpu.QUANTILES), 0


def columns(w: Tensor) -> int:
    """The width that a tensor's low-rank noise goes by: its last dimension, or 0 for a vector."""
    return w.shape[-1] if w.dim() > 1 else 0


def perturb(
    out: Tensor,
    w: Tensor,
    z: Direction,
    a: float,
    tid: int,
    start: int = 0,
    *,
    width: int | None = None,
    minus: Tensor | None = None,
    rounding: int | None = None,
) -> Tensor:
    """Write w + a z into `out` (and w - a z into `minus`) and return `out`.

    Args: out, w, contiguous tensors of one shape (out may be w), of one type, or w fp32 and out a half type; a, the
    step along z; tid, the tensor's id; start, the flat index of w's first element in its whole tensor; width, that
    tensor's last dimension (None: w's own); rounding, a key: round to a half type stochastically, not to nearest.
    Cost: one read of w and a write of each output; no memory for fp32, bf16 and fp16 on CPU.
    """
    a, width = a * z.scale, columns(w) if width is None else width
    flat = [None if t is None else t.view(-1) for t in (out, w, minus)]
    if cpu.takes(w, out):
        how, rank = reading(z.law, width)
        table = scaled_table(how, a, rank)
        cpu.perturb(flat[0], flat[1], how, table, z.key, tid, start, width, rank, flat[2], rounding)  # type: ignore[arg-type]
        return out
    if w.is_cuda and cuda.available() and (w.dtype, out.dtype) in cuda.PAIRS:
        for there, sign in ((flat[0], 1.0), (flat[2], -1.0)):
            if there is not None:
                rank = reference.rank_of(z.law)
                cuda.perturb(there, flat[1], z.law, z.key, tid, sign * a, start, width, rank, rounding)  # type: ignore[arg-type]
        return out
    plainly(flat[1], z, a, tid, start, width, flat[0], flat[2], rounding)  # type: ignore[arg-type]
    return out


def plainly(
    w: Tensor, z: Direction, a: float, tid: int, start: int, width: int, out: Tensor, minus: Tensor | None, rounding: int | None
) -> None:  # fmt: skip
    """`perturb` by the torch reference, on flat tensors. Cost: 1M elements of memory."""
    for i in range(0, w.numel(), CHUNK):
        old = w[i : i + CHUNK].to(exact(w))
        index = torch.arange(start + i, start + i + old.numel(), device=w.device)
        step = reference.scaled(z.law, z.key, tid, index, a, old.dtype, width)
        if minus is not None:
            minus[i : i + CHUNK] = old - step  # rounded once to the type of `minus`
        new = old + step
        if rounding is not None and out.dtype != old.dtype:
            new = reference.stochastic(new, reference.halves(rounding, tid, index), out.dtype)
        out[i : i + CHUNK] = new


def exact(w: Tensor) -> torch.dtype:
    """The type that w + a z is formed in."""
    return torch.float64 if w.dtype == torch.float64 else torch.float32


def settle(out: Tensor, x: Tensor, tid: int, key: int) -> None:
    """Round fp32 x into `out`, of a half type, stochastically by the bits that `key` has for the tensor.

    Cost: 1M elements of memory.
    """
    flat, new = (out if out.is_contiguous() else out.contiguous()).view(-1), x.contiguous().view(-1)
    for i in range(0, new.numel(), CHUNK):
        index = torch.arange(i, min(i + CHUNK, new.numel()), device=x.device)
        bits = reference.halves(key, tid, index)
        flat[i : i + CHUNK] = reference.stochastic(new[i : i + CHUNK], bits, out.dtype)
    if not out.is_contiguous():
        out.copy_(flat.view(out.shape))


def perturb_rows(
    out: Tensor, w: Tensor, rows: Tensor, z: Direction, a: float, tid: int, minus: Tensor | None = None
) -> Tensor:
    """Write rows of w + a z into `out` (and of w - a z into `minus`) and return it: what an embedding needs of a large table.

    Args: out, (U, H); w, (V, H) contiguous; rows, (U,) row numbers. Raises: IndexError for a row that the table has not,
    as an embedding does (on the CPU: elsewhere it would wait for the device). Cost: U rows of work and memory.
    """
    width, rows = w.shape[1], rows.long()
    if rows.is_cpu and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < w.shape[0]:
        raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of a table of {w.shape[0]}")
    if cpu.takes(w, out) and rows.numel():
        how, rank = reading(z.law, width)
        table, rows = scaled_table(how, a * z.scale, rank), rows.contiguous()
        cpu.perturb(out, w, how, table, z.key, tid, 0, width, rank, minus, rows=rows)
        return out
    for i in range(0, rows.numel(), step := max(1, CHUNK // width)):
        some = rows[i : i + step]
        old, index = w[some].to(exact(w)), some[:, None] * width + torch.arange(width, device=w.device)
        moved = reference.scaled(z.law, z.key, tid, index, a * z.scale, exact(w), width)
        out[i : i + step] = old + moved
        if minus is not None:
            minus[i : i + step] = old - moved
    return out


def factors(z: Direction, tid: int, rows: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return U (rows, r) and V (width, r) of a matrix under a low-rank law, in the type and on the device of `like`.

    z = U V^T / sqrt(r). Cost: r (rows + width) numbers, as an adapter of that rank has.
    """
    rank = reference.rank_of(z.law)
    both = torch.zeros((width + rows) * rank, dtype=torch.float32)
    perturb(both, both, Direction("rademacher", z.key), 1.0, tid)
    both = both.view(-1, rank).to(like.device, like.dtype)
    return both[width:], both[:width]


def draw(z: Direction, tid: int, n: int, dtype: torch.dtype = torch.float64, start: int = 0, width: int = 0) -> Tensor:
    """Return z itself at elements start..start+n of a tensor whose last dimension is `width`, by the torch reference.

    Cost: n elements of memory.
    """
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return reference.scaled(z.law, z.key, tid, torch.arange(start, start + n), z.scale, kind, width).to(dtype)
