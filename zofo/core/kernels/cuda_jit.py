"""The Triton kernels themselves. `cuda` imports this when it is used, for this needs triton at import.

Written so that any GPU and Triton's interpreter give the bits of `reference`. One sum is all that is
done in floats: steps come from tables scaled by a, so a compiler has no product to fuse into it, and
bf16 and stochastic rounding are integers. 32-bit sums that may wrap are done in 64 bits, since the
interpreter refuses a wrap. Key and tensor id come as signed 64-bit words.
"""

from __future__ import annotations

import triton
import triton.language as tl

MASK = tl.constexpr(0xFFFFFFFF)
GROUP = tl.constexpr(128)  # elements; a program begins at a multiple of it, so at a whole block of every law
INFINITY = tl.constexpr(0x7F800000)  # fp32 bits; larger magnitudes are NaN


@triton.jit
def philox(c0, c1, c2, c3, key):  # type: ignore[no-untyped-def]
    """Return the four words of Philox-4x32-10: uint32 counter, uint64 key."""
    k0 = key & MASK
    k1 = key >> 32
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1.to(tl.uint32)
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        k0 = (k0 + 0x9E3779B9) & MASK
        k1 = (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


@triton.jit
def draw(key, tid, block):  # type: ignore[no-untyped-def]
    """Return the four words of each stream block (int64): the counter is (block, tensor id)."""
    t = tid.to(tl.uint64)
    b = block.to(tl.uint64)
    return philox(b.to(tl.uint32), (b >> 32).to(tl.uint32), t.to(tl.uint32), (t >> 32).to(tl.uint32), key.to(tl.uint64))


@triton.jit
def words(key, tid, block, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the words of BLOCKS stream blocks from `block` on, in the stream's order: uint32, 4 BLOCKS."""
    w0, w1, w2, w3 = draw(key, tid, block + tl.arange(0, BLOCKS))
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (4 * BLOCKS,))


@triton.jit
def halves(key, tid, group, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the 16 bits of TILE elements from a group's first on."""
    drawn = words(key, tid, group * (GROUP // 8), TILE // 8)
    return tl.reshape(tl.join(drawn & 0xFFFF, drawn >> 16), (TILE,))


@triton.jit
def signs(key, tid, group, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the one bit of TILE elements from a group's first on."""
    drawn = words(key, tid, group, TILE // GROUP)
    lane = tl.arange(0, 32).to(tl.uint32)
    return tl.reshape((drawn[:, None] >> lane[None, :]) & 1, (TILE,))


@triton.jit
def word(key, tid, number):  # type: ignore[no-untyped-def]
    """Return single words of the stream by number (int64), each drawn on its own."""
    w0, w1, w2, w3 = draw(key, tid, number >> 2)
    return tl.where(number & 2 == 0, tl.where(number & 1 == 0, w0, w1), tl.where(number & 1 == 0, w2, w3))


@triton.jit(do_not_specialize=["width", "row", "count", "key", "tid"])
def factors(codes, width, row, count, key, tid, RANK: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the RANK signs of each row of V and, from U's row `row` on, of U, as one 32-bit code each."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    number = tl.where(place < width, place, place + row)
    bit = number * RANK
    pair = word(key, tid, (bit >> 5) + 1).to(tl.uint64) << 32 | word(key, tid, bit >> 5).to(tl.uint64)
    code = (pair >> (bit & 31).to(tl.uint64)) & ((1 << RANK) - 1)
    tl.store(codes + place, code.to(tl.uint32).to(tl.int32, bitcast=True), mask=place < count)


@triton.jit
def ones(x):  # type: ignore[no-untyped-def]
    """Return how many bits of a uint32 are one."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x & 0x0F0F0F0F) + ((x >> 4) & 0x0F0F0F0F)
    x = x + (x >> 8)
    return (x + (x >> 16)) & 63


@triton.jit
def unequal(codes, origin, width, row, inside, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return in how many signs U's row and V's row differ, for TILE elements from flat index `origin` on."""
    first = origin // width
    column = (origin - first * width).to(tl.int32) + tl.arange(0, TILE)
    down = column // width.to(tl.int32)
    v = tl.load(codes + (column - down * width.to(tl.int32)), mask=inside, other=0)
    u = tl.load(codes + width + (first - row) + down, mask=inside, other=0)
    return ones((u ^ v).to(tl.uint32, bitcast=True))


@triton.jit
def widened(w):  # type: ignore[no-untyped-def]
    """Return w in fp32, exactly."""
    if w.dtype == tl.bfloat16:
        wide = (w.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = w.to(tl.float32)
    return wide


@triton.jit
def as_bfloat16(x, random, STOCHASTIC: tl.constexpr):  # type: ignore[no-untyped-def]
    """Round fp32 to bf16: to nearest even, or up with the probability of what is cut off, by 16 random bits."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    addend = random if STOCHASTIC else 0x7FFF + ((magnitude >> 16) & 1)
    half = tl.where(magnitude > INFINITY, 0x7FC0, (magnitude + addend) >> 16)
    return (((bits >> 16) & 0x8000) | half).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def as_float16(x, random):  # type: ignore[no-untyped-def]
    """Round fp32 to fp16 stochastically: 13 random bits for normal halves, 16 for subnormal ones."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    small = magnitude < (113 << 23)  # |x| < 2^-14
    normal = (tl.where(small, 113 << 23, magnitude + (random & 0x1FFF)) >> 13) - (112 << 10)
    exponent = tl.where(small, tl.maximum(magnitude >> 23, 1), 112)
    mantissa = tl.where(magnitude < (1 << 23), magnitude, (magnitude & 0x7FFFFF) | (1 << 23)).to(tl.uint64)
    shift = tl.minimum(126 - exponent, 41).to(tl.uint64)  # |x| 2^24 = mantissa / 2^shift; beyond 41 nothing changes
    rest = mantissa & ((1 << shift) - 1)
    up = (random.to(tl.uint64) << shift) < (rest << 16)  # random / 65536 < the fraction cut off
    tiny = (mantissa >> shift).to(tl.uint32) + up.to(tl.uint32)
    half = tl.where(small, tiny, tl.minimum(normal, 0x7C00))
    half = tl.where(magnitude > INFINITY, 0x7E00, half)
    return (((bits >> 16) & 0x8000) | half).to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def rounded(x, like, key, tid, group, STOCHASTIC: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return fp32 x in the type `like` points to; stochastically, by the stream's 16 bits of each element."""
    if like.dtype.element_ty == tl.float32:
        new = x
    elif like.dtype.element_ty == tl.bfloat16:
        new = as_bfloat16(x, halves(key, tid, group, TILE) if STOCHASTIC else 0, STOCHASTIC)
    else:
        new = as_float16(x, halves(key, tid, group, TILE)) if STOCHASTIC else x.to(tl.float16)
    return new


@triton.jit(do_not_specialize=["group", "width", "row", "key", "tid", "rounding"])
def perturb(  # type: ignore[no-untyped-def]
    out, w, steps, codes, group, skip, n, width, row, key, tid, rounding,
    LAW: tl.constexpr, STOCHASTIC: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out = w + a z for n elements, the first of which is the element `skip` of group `group`.

    Args: steps, a z by what the stream says (16 bits, a sign, or the signs that differ); codes, width,
    row, of the low-rank law: what `factors` wrote, the matrix's width, and U's first row in it.
    """
    begin = tl.program_id(0).to(tl.int64) * TILE
    place = begin - skip + tl.arange(0, TILE)
    inside = (place >= 0) & (place < n)
    here = group + begin // GROUP
    if LAW == "gaussian":
        index = halves(key, tid, here, TILE)
    elif LAW == "rademacher":
        index = signs(key, tid, here, TILE)
    else:
        index = unequal(codes, here * GROUP, width, row, inside, TILE)
    old = widened(tl.load(w + place, mask=inside))
    new = old + tl.load(steps + index)
    tl.store(out + place, rounded(new, out, rounding, tid, here, STOCHASTIC, TILE), mask=inside)
