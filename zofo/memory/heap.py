"""glibc's malloc, told to keep what it has: a training step asks for the same pieces again and again.

By default malloc gives the kernel large pieces back when they are free, and the kernel zeroes every page of the next
one: some 50,000 page faults a zeroth-order step of SmolLM2-135M. Kept, a piece is used again. What is freed stays with
the process until `resident.settle`. Pieces above `LARGE` go back all the same: rows of a run differ in length, a kept piece
that is a little too small serves nobody. For the same reason oneDNN, which torch's products on a CPU go through, remembers
fewer of the kernels that it has made, one for each shape: its own 1,024 came to hundreds of MB in a run of a hundred steps.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

TRIM, MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
MOST = 2**31 - 1
LARGE = 1 << 25  # bytes; what older versions take at most
DEFAULT = 128 * 1024
KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"  # read once, at the first product
FEW = "128"


def keep() -> bool:
    """Keep freed memory for the next step, in pieces of `LARGE` bytes at most, and `FEW` kernels. False where malloc is not glibc's."""
    os.environ.setdefault(KERNELS, FEW)
    option = tuner()
    return option is not None and bool(option(TRIM, MOST) and option(MAP, LARGE))


def give_back() -> bool:
    """Give large pieces back as soon as they are free: less than malloc keeps by default (its threshold grows), and slower."""
    option = tuner()
    return option is not None and bool(option(TRIM, DEFAULT) and option(MAP, DEFAULT))


def tuner() -> Callable[[int, int], int] | None:
    """mallopt, where malloc is glibc's."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (musl has none, and its mallopt does nothing)
        return library.mallopt  # type: ignore[no-any-return]
    except (OSError, AttributeError, TypeError):
        return None
