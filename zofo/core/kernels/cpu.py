"""The noise stream compiled for CPUs by numba: the bits of `reference`, one pass over the weights.

A kernel draws a run of Philox blocks into a small buffer and expands it at once, so z is never
stored. Work is cut into spans that run on as many threads as torch uses; a span's bits do not
depend on the cut. There is no multiply in the inner loops: values are read from a table that was
scaled by a, eight signs at a time or one normal quantile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
RUN = 64  # Philox blocks drawn at a time: 1 KiB of words, held in the first cache
SPAN = 1 << 15  # elements; smaller pieces are not worth a thread


@njit(nogil=True, cache=True, inline="always")
def draw(words, block, runs, tid, key):  # type: ignore[no-untyped-def]
    """Fill words[4, RUN] with Philox-4x32-10 of blocks block..block+runs."""
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
        words[0, i], words[1, i], words[2, i], words[3, i] = c0, c1, c2, c3


@njit(nogil=True, cache=True)
def rademacher(out, w, start, n, tid, key, scaled):  # type: ignore[no-untyped-def]
    """out[i] = w[i] + a z[start + i] for i < n, z = +1 or -1: eight bits at a time from a table of 256 rows."""
    words = np.empty((4, RUN), np.uint32)
    done = 0
    while done < n:
        block = (start + done) >> 7
        skip = (start + done) & 127
        runs = min(RUN, (skip + n - done + 127) >> 7)
        draw(words, block, runs, tid, key)
        for b in range(runs):
            at = done + b * 128 - skip
            if at >= done and at + 128 <= n:
                for j in range(16):
                    row = scaled[words[j >> 2, b] >> np.uint32(8 * (j & 3)) & np.uint32(0xFF)]
                    new, old = out[at + 8 * j : at + 8 * j + 8], w[at + 8 * j : at + 8 * j + 8]
                    for i in range(8):
                        new[i] = old[i] + row[i]
            else:
                for lane in range(max(0, done - at), min(128, n - at)):
                    byte = words[lane >> 5, b] >> np.uint32(lane & 24) & np.uint32(0xFF)
                    out[at + lane] = w[at + lane] + scaled[byte, lane & 7]
        done += runs * 128 - skip


@njit(nogil=True, cache=True)
def gaussian(out, w, start, n, tid, key, scaled):  # type: ignore[no-untyped-def]
    """out[i] = w[i] + scaled[bits[start + i]] for i < n, scaled = a times the table."""
    words = np.empty((4, RUN), np.uint32)
    done = 0
    while done < n:
        block = (start + done) >> 3
        skip = (start + done) & 7
        runs = min(RUN, (skip + n - done + 7) >> 3)
        draw(words, block, runs, tid, key)
        for b in range(runs):
            at = done + b * 8 - skip
            if at >= done and at + 8 <= n:
                for j in range(4):
                    word = words[j, b]
                    out[at + 2 * j] = w[at + 2 * j] + scaled[word & np.uint32(0xFFFF)]
                    out[at + 2 * j + 1] = w[at + 2 * j + 1] + scaled[word >> np.uint32(16)]
            else:
                for lane in range(max(0, done - at), min(8, n - at)):
                    half = words[lane >> 1, b] >> np.uint32(16 * (lane & 1)) & np.uint32(0xFFFF)
                    out[at + lane] = w[at + lane] + scaled[half]
        done += runs * 8 - skip


@njit(nogil=True, cache=True)
def squares(start, n, tid, key, table):  # type: ignore[no-untyped-def]
    """Sum of table[bits[start + i]] for i < n, in 64-bit integers."""
    words = np.empty((4, RUN), np.uint32)
    total = np.int64(0)
    done = 0
    while done < n:
        block = (start + done) >> 3
        skip = (start + done) & 7
        runs = min(RUN, (skip + n - done + 7) >> 3)
        draw(words, block, runs, tid, key)
        for b in range(runs):
            at = done + b * 8 - skip
            for lane in range(max(0, done - at), min(8, n - at)):
                total += table[words[lane >> 1, b] >> np.uint32(16 * (lane & 1)) & np.uint32(0xFFFF)]
        done += runs * 8 - skip
    return total


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Return the worker threads that share a kernel's spans (the caller does one span itself)."""
    return ThreadPoolExecutor(threads, thread_name_prefix="zofo-noise")


def spans(n: int, work: Callable[[int, int], None]) -> None:
    """Run `work(begin, end)` over 0..n, cut evenly (at multiples of 128) over torch's threads."""
    threads = min(torch.get_num_threads(), -(-n // SPAN))
    if threads <= 1:
        return work(0, n)
    edges = [i * n // threads // 128 * 128 for i in range(threads)] + [n]
    rest = [pool(threads - 1).submit(work, *pair) for pair in itertools.pairwise(edges[1:])]
    work(edges[0], edges[1])
    for future in rest:
        future.result()
    return None


@cache
def sign_table() -> Array:
    """Return the (256, 8) table whose row `byte` holds the signs that its bits mean, lowest bit first."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return (2 * bits - 1).astype(np.float32)


def perturb(out: Array, w: Array, law: str, start: int, tid: int, key: int, scaled: Array) -> None:
    """out = w + a z over flat fp32 arrays (out may be w), elements start.. of tensor `tid`.

    Args: scaled, the law's table times a, rounded to fp32: `sign_table` (256, 8) or the quantiles (65536,).
    Cost: one read and one write of the weights; no memory.
    """
    kernel, tid64, key64 = (rademacher if law == "rademacher" else gaussian), np.uint64(tid), np.uint64(key)
    spans(out.size, lambda i, j: kernel(out[i:j], w[i:j], start + i, j - i, tid64, key64, scaled))


def sum_of_squares(key: int, tid: int, start: int, stop: int, table: NDArray[np.int64]) -> int:
    """Return sum of z_i^2 2^20 over elements start..stop of a tensor, exactly."""
    return int(squares(start, stop - start, np.uint64(tid), np.uint64(key), table))
