"""The noise stream compiled for CPUs by numba: the bits of `reference`, one pass over the weights.

A span of elements is done in chunks that live in the first cache: Philox words, the steps a z that they
mean (read from a table that was scaled by a, so there is no multiply), then w + step, rounded once into
the type that is wanted. z is never stored. Spans run on torch's own threads (`team`); a span's bits do
not depend on the cut.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor, nn

from zofo.core.kernels import team

Array = NDArray[np.float32]
CHUNK = 2048  # elements done at a time
SMALL = 1 << 15  # elements; fewer are not worth a second thread
SIGNS, QUANTILES, PRODUCTS = 0, 1, 2  # how a law's table is read: by eight bits, by sixteen, by rank and patterns
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
FIELDS = 17  # of a job
SIZE, START, TID, KEY, HOW, TABLE, WIDTH, RANK, W, W_KIND, OUT, OUT_KIND, MINUS, ROUNDING, ROUNDING_KEY, HALVES, ROWS = range(FIELDS)  # fmt: skip
NEAREST, STOCHASTIC = 0, 1


@intrinsic  # type: ignore[untyped-decorator]
def _address(context: Any, number: Any) -> Any:
    """An integer as a pointer, for `carray`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, number: Any) -> Any:
    """The bits of an fp32 number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


address: Any = _address
bits_of: Any = _bits


@njit(nogil=True, cache=True, inline="always")
def draw(words, block, runs, tid, key):  # type: ignore[no-untyped-def]
    """Fill words[4 i .. 4 i + 4] with Philox-4x32-10 of block + i, for i < runs."""
    m = np.uint64(0xFFFFFFFF)
    s = np.uint64(32)
    for i in range(runs):
        b = np.uint64(block) + np.uint64(i)
        c0, c1, c2, c3 = b & m, b >> s, tid & m, tid >> s
        k0, k1 = key & m, key >> s
        for _ in range(10):
            p0 = np.uint64(0xD2511F53) * c0
            p1 = np.uint64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (p1 >> s) ^ c1 ^ k0, p1 & m, (p0 >> s) ^ c3 ^ k1, p0 & m
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & m, (k1 + np.uint64(0xBB67AE85)) & m
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = c0, c1, c2, c3


@njit(nogil=True, cache=True)
def signs(step, words, table, at, n, tid, key):  # type: ignore[no-untyped-def]
    """step[skip + i] = a z of element at + i, z = +1 or -1; returns skip. table: (256, 4) pairs of fp32, row by byte."""
    block, skip = at >> 7, at & 127
    runs = (skip + n + 127) >> 7
    draw(words, block, runs, tid, key)
    pairs = step.view(np.uint64)
    for q in range(4 * runs):
        word = words[q]
        for j in range(4):
            row = table[word >> np.uint32(8 * j) & np.uint32(0xFF)]
            p0, p1, p2, p3 = row[0], row[1], row[2], row[3]
            k = 16 * q + 4 * j
            pairs[k], pairs[k + 1], pairs[k + 2], pairs[k + 3] = p0, p1, p2, p3
    return skip


@njit(nogil=True, cache=True)
def quantiles(step, words, table, at, n, tid, key):  # type: ignore[no-untyped-def]
    """step[skip + i] = table[the 16 bits of element at + i]; returns skip. table: the quantiles times a."""
    block, skip = at >> 3, at & 7
    runs = (skip + n + 7) >> 3
    draw(words, block, runs, tid, key)
    bits = words.view(np.uint16)
    for i in range(8 * runs):
        step[i] = table[bits[i]]
    return skip


@njit(nogil=True, cache=True)
def patterns(out, first, rank, tid, key):  # type: ignore[no-untyped-def]
    """out[i] = sign bits first + i rank .. first + (i + 1) rank of a tensor's stream, as one number."""
    words, held = np.empty(4, np.uint32), np.int64(-1)
    for i in range(out.size):
        pattern = np.uint32(0)
        for k in range(rank):
            bit = first + i * rank + k
            if bit >> 7 != held:
                held = bit >> 7
                draw(words, held, 1, tid, key)
            pattern |= (words[(bit & 127) >> 5] >> np.uint32(bit & 31) & np.uint32(1)) << np.uint32(k)
        out[i] = pattern


@njit(nogil=True, cache=True)
def products(step, v, table, at, n, width, rank, tid, key):  # type: ignore[no-untyped-def]
    """step[i] = a (U V^T)_i / sqrt(r) of element at + i. v: V's patterns; table: by how many of r signs differ."""
    u, done = np.empty(1, np.uint32), 0
    while done < n:
        row, j = (at + done) // width, (at + done) % width
        run = min(width - j, n - done)
        patterns(u, (width + row) * rank, rank, tid, key)
        mine, theirs, pattern = step[done : done + run], v[j : j + run], u[0]
        for i in range(run):
            x = np.uint32(pattern ^ theirs[i])
            x = np.uint32(x - (x >> np.uint32(1) & np.uint32(0x55555555)))
            x = np.uint32((x & np.uint32(0x33333333)) + (x >> np.uint32(2) & np.uint32(0x33333333)))
            x = np.uint32(x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
            mine[i] = table[np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24)]
        done += run
    return 0


@njit(nogil=True, cache=True)
def load(x, job, source, n):  # type: ignore[no-untyped-def]
    """x[i] = w[source + i] in fp32, exactly. (A slice first: a sum as an index may be negative, and is not vectorised.)"""
    if job[W_KIND] == 0:
        old = carray(address(job[W]), (source + n,), np.float32)[source:]
        for i in range(n):
            x[i] = old[i]
    elif job[W_KIND] == 1:
        half, bits = carray(address(job[W]), (source + n,), np.uint16)[source:], x.view(np.uint32)
        for i in range(n):
            bits[i] = np.uint32(half[i]) << np.uint32(16)
    else:
        half = carray(address(job[W]), (source + n,), np.uint16)[source:]
        table = carray(address(job[HALVES]), (65536,), np.float32)
        for i in range(n):
            x[i] = table[half[i]]


@njit(nogil=True, cache=True, inline="always")
def nearest_bf16(b):  # type: ignore[no-untyped-def]
    """The bits of fp32 rounded to bf16, to nearest even."""
    odd = np.uint32(np.uint32(b >> np.uint32(16)) & np.uint32(1))
    near = np.uint32(np.uint32(np.uint32(b + np.uint32(0x7FFF)) + odd) >> np.uint32(16))
    nan = np.uint32(b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.uint16(np.uint32(0x7FC0) if nan else near)


@njit(nogil=True, cache=True)
def to_bf16(out, x, chance, rounding):  # type: ignore[no-untyped-def]
    """Round fp32 to bf16: to nearest even, or up with the probability of what is cut off (`chance`: 16 bits each)."""
    bits, n = x.view(np.uint32), out.size
    if rounding:
        for i in range(n):
            b = bits[i]
            size = np.uint32(b & np.uint32(0x7FFFFFFF))
            up = np.uint32(np.uint32(b + np.uint32(chance[i])) >> np.uint32(16))
            kept = np.uint32(b >> np.uint32(16))
            out[i] = np.uint16(up if size < np.uint32(0x7F800000) else kept)
            if size > np.uint32(0x7F800000):
                out[i] = np.uint16(0x7FC0)
    else:
        for i in range(n):
            out[i] = nearest_bf16(bits[i])


@njit(nogil=True, cache=True)
def to_fp16(out, x, chance, rounding):  # type: ignore[no-untyped-def]
    """Round fp32 to fp16, as `to_bf16` does; below 2^-14 the spacing is 2^-24."""
    bits = x.view(np.uint32)
    for i in range(out.size):
        sign, b = bits[i] >> np.uint32(16) & np.uint32(0x8000), bits[i] & np.uint32(0x7FFFFFFF)
        if b >= np.uint32(0x7F800000):
            half = np.uint32(0x7E00) if b > np.uint32(0x7F800000) else np.uint32(0x7C00)
        elif b >= np.uint32(0x38800000):
            low = (
                np.uint32(chance[i]) & np.uint32(0x1FFF)
                if rounding
                else np.uint32(0xFFF) + (b >> np.uint32(13) & np.uint32(1))
            )
            half = min(((b + low) >> np.uint32(13)) - np.uint32(112 << 10), np.uint32(0x7C00))
        else:
            y = abs(x[i]) * np.float32(16777216.0)
            if rounding:
                below = np.floor(y)
                half = np.uint32(below) + np.uint32(np.float32(chance[i]) < (y - below) * np.float32(65536.0))
            else:
                half = np.uint32(np.rint(y))
        out[i] = np.uint16(sign | half)


@njit(nogil=True, cache=True)
def store(job, where, kind, x, chance, at, n):  # type: ignore[no-untyped-def]
    """where[at + i] = x[i], rounded once to the type wanted."""
    if kind == 0:
        new = carray(address(where), (job[SIZE],), np.float32)[at : at + n]
        for i in range(n):
            new[i] = x[i]
    else:
        half = carray(address(where), (job[SIZE],), np.uint16)[at : at + n]
        if kind == 1:
            to_bf16(half, x, chance, job[ROUNDING] == STOCHASTIC)
        else:
            to_fp16(half, x, chance, job[ROUNDING] == STOCHASTIC)


@njit(nogil=True, cache=True)
def fp32_only(job, step, source, at, n):  # type: ignore[no-untyped-def]
    """w + step (and w - step) where everything is fp32."""
    here = carray(address(job[OUT]), (job[SIZE],), np.float32)[at : at + n]
    if job[W] == job[OUT]:
        for i in range(n):
            here[i] += step[i]
        return
    was = carray(address(job[W]), (source + n,), np.float32)[source:]
    for i in range(n):
        here[i] = was[i] + step[i]
    if job[MINUS]:
        there = carray(address(job[MINUS]), (job[SIZE],), np.float32)[at : at + n]
        for i in range(n):
            there[i] = was[i] - step[i]


@njit(nogil=True, cache=True)
def fp32_to_bf16(job, step, source, at, n):  # type: ignore[no-untyped-def]
    """The same from fp32 to bf16, rounded to nearest: nothing in between."""
    was = carray(address(job[W]), (source + n,), np.float32)[source:]
    here = carray(address(job[OUT]), (job[SIZE],), np.uint16)[at : at + n]
    if job[MINUS]:
        there = carray(address(job[MINUS]), (job[SIZE],), np.uint16)[at : at + n]
        for i in range(n):
            here[i] = nearest_bf16(bits_of(was[i] + step[i]))
            there[i] = nearest_bf16(bits_of(was[i] - step[i]))
    else:
        for i in range(n):
            here[i] = nearest_bf16(bits_of(was[i] + step[i]))


@njit(nogil=True, cache=True)
def half_types(job, step, x, chance, source, at, n):  # type: ignore[no-untyped-def]
    """The same where a half type is read or written: by way of x, in fp32."""
    load(x, job, source, n)
    if job[MINUS]:
        for i in range(n):
            x[i] -= step[i]
        store(job, job[MINUS], job[OUT_KIND], x, chance, at, n)
        load(x, job, source, n)
    for i in range(n):
        x[i] += step[i]
    store(job, job[OUT], job[OUT_KIND], x, chance, at, n)


@njit(nogil=True, cache=True)
def steps(step, words, v, job, begin, n):  # type: ignore[no-untyped-def]
    """step[skip + i] = a z of element begin + i of the whole tensor, for i < n; returns skip."""
    tid, key = np.uint64(job[TID]), np.uint64(job[KEY])
    if job[HOW] == SIGNS:
        return signs(step, words, carray(address(job[TABLE]), (256, 4), np.uint64), begin, n, tid, key)
    if job[HOW] == QUANTILES:
        return quantiles(step, words, carray(address(job[TABLE]), (65536,), np.float32), begin, n, tid, key)
    return products(step, v, carray(address(job[TABLE]), (33,), np.float32), begin, n, job[WIDTH], job[RANK], tid, key)


@njit(nogil=True, cache=True)
def span(job, low, high):  # type: ignore[no-untyped-def]
    """out = w + a z over elements low..high of a job (and minus = w - a z, where wanted)."""
    step, x, chance = np.empty(CHUNK + 128, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.uint16)
    words, width = np.empty(CHUNK // 2 + 8, np.uint32), job[WIDTH]
    v = np.empty(width if job[HOW] == PRODUCTS else 0, np.uint32)
    patterns(v, 0, job[RANK], np.uint64(job[TID]), np.uint64(job[KEY]))
    rows = carray(address(job[ROWS]), (high // width + 1 if job[ROWS] else 0,), np.int64)
    at, source = low, low
    while at < high:
        n, begin = min(CHUNK, high - at), job[START] + at
        if job[ROWS]:
            n = min(n, width - at % width)
            begin = source = rows[at // width] * width + at % width
        skip = steps(step, words, v, job, begin, n)
        if job[W_KIND] == 0 and job[OUT_KIND] == 0:
            fp32_only(job, step[skip : skip + n], source, at, n)
        elif job[W_KIND] == 0 and job[OUT_KIND] == 1 and job[ROUNDING] == NEAREST:
            fp32_to_bf16(job, step[skip : skip + n], source, at, n)
        else:
            if job[ROUNDING] == STOCHASTIC:
                blocks = ((begin & 7) + n + 7) >> 3
                draw(words, begin >> 3, blocks, np.uint64(job[TID]), np.uint64(job[ROUNDING_KEY]))
                chance[:n] = words.view(np.uint16)[begin & 7 : (begin & 7) + n]
            half_types(job, step[skip : skip + n], x, chance, source, at, n)
        at += n
        source += n


@njit(nogil=True, cache=True)
def squares(start, n, tid, key, table):  # type: ignore[no-untyped-def]
    """Sum of table[bits[start + i]] for i < n, in 64-bit integers."""
    words, total, done = np.empty(CHUNK // 2 + 8, np.uint32), np.int64(0), 0
    while done < n:
        count, skip = min(CHUNK, n - done), (start + done) & 7
        draw(words, (start + done) >> 3, (skip + count + 7) >> 3, tid, key)
        bits = words.view(np.uint16)
        for i in range(skip, skip + count):
            total += table[bits[i]]
        done += count
    return total


number: Any = team.number
count: Any = team.count


def member(data: Any) -> None:
    """One OpenMP thread's share of a job."""
    job = carray(data, (FIELDS,), np.int64)
    i, k = np.int64(number()), np.int64(count())
    low = i * job[SIZE] // k // team.ALIGN * team.ALIGN
    high = job[SIZE] if i == k - 1 else (i + 1) * job[SIZE] // k // team.ALIGN * team.ALIGN
    span(job, low, high)


@cache
def share() -> int | None:
    """The address of `member` compiled, or None where there is no OpenMP to call it."""
    signature = cast(Any, types.void)(types.voidptr)
    return None if team.LIBRARY is None else cast(int, cfunc(signature, cache=True)(member).address)


@cache
def sign_rows() -> Array:
    """The (256, 8) table whose row `byte` holds the signs that its bits mean, lowest bit first."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return (2 * bits - 1).astype(np.float32)


@cache
def halves() -> Array:
    """Every fp16 number as fp32, by its bits."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    widened: Array = bits.view(torch.float16).float().numpy()
    return widened


PLAIN = {Tensor, nn.Parameter}  # others may have no memory of their own (fake tensors): a kernel would read anything


def takes(w: Tensor, out: Tensor) -> bool:
    """Whether these kernels do w and out: plain tensors on CPU, and fp32, one half type, or fp32 into a half type."""
    kinds = w.dtype in KINDS and out.dtype in KINDS and (w.dtype == out.dtype or w.dtype == torch.float32)
    return kinds and w.device.type == "cpu" and {type(w), type(out)} <= PLAIN


def perturb(
    out: Tensor, w: Tensor, how: int, table: Array, key: int, tid: int, start: int, width: int = 0, rank: int = 0,
    minus: Tensor | None = None, rounding_key: int | None = None, rows: Tensor | None = None,
) -> None:  # fmt: skip
    """out = w + a z over flat contiguous tensors (out may be w), elements start.. of tensor `tid`; minus = w - a z.

    Args: how, table, the way a law reads its table, times a; width, rank, of a low-rank law; rounding_key, round
    stochastically by the bits of this key (half types, in place); rows, (U,) int64: w is a whole table of `width`
    columns, and out gets these rows of it. Cost: one read of w, one write of out (and minus).
    """
    assert out.numel() == w.numel() or rows is not None, "out and w differ in size"
    wide = halves()
    values = (
        out.numel(), start, tid, key, how, table.ctypes.data, width, rank, w.data_ptr(), KINDS[w.dtype], out.data_ptr(),
        KINDS[out.dtype], 0 if minus is None else minus.data_ptr(), int(rounding_key is not None), rounding_key or 0, wide.ctypes.data,
        0 if rows is None else rows.data_ptr(),
    )  # fmt: skip
    job = np.array(values, np.uint64)
    team.run(span, share(), job.view(np.int64), torch.get_num_threads() if out.numel() > SMALL else 1)


def sum_of_squares(key: int, tid: int, start: int, stop: int, table: NDArray[np.int64]) -> int:
    """Return sum of z_i^2 2^20 over elements start..stop of a tensor, exactly."""
    return int(squares(start, stop - start, np.uint64(tid), np.uint64(key), table))
