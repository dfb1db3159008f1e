"""Run a compiled span function on torch's own threads.

torch's OpenMP threads spin for a while after each operation; a pool of others would fight with them for the
cores. So a job is handed to the OpenMP library that torch has loaded (libgomp: torch on Linux), straight
from compiled code; elsewhere large jobs go to a pool, small ones run in the caller.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch  # noqa: F401  (loads its OpenMP library)
from numba import types
from numpy.typing import NDArray

Job = NDArray[np.int64]
"""Numbers and addresses; the first is the number of elements."""

ALIGN = 128  # elements: spans begin at multiples of it
WORTH = 1 << 20  # elements that are worth waking a thread of a pool


def openmp() -> ctypes.CDLL | None:
    """The libgomp that torch has loaded, its thread numbers known to compiled code, or None."""
    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        for name in ("omp_get_thread_num", "omp_get_num_threads"):
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
    except (OSError, AttributeError):  # another OpenMP, or another system
        return None
    return library


LIBRARY = openmp()
number = types.ExternalFunction("omp_get_thread_num", types.int32())
count = types.ExternalFunction("omp_get_num_threads", types.int32())


def run(span: Any, member: Any, job: Job, threads: int) -> None:
    """Call the compiled `span(job, low, high)` over 0..job[0], cut evenly over threads.

    member: the address of a compiled function of the job's address that does one thread's share (None where there is no OpenMP).
    """
    if threads == 1:
        span(job, 0, job[0])
    elif LIBRARY is not None and member is not None:
        LIBRARY.GOMP_parallel(member, job.ctypes.data, threads, 0)
    else:
        pooled(span, job, threads)


def pooled(span: Any, job: Job, threads: int) -> None:
    """The same on a pool of threads, where no OpenMP library can be had."""
    n = int(job[0])
    if n < WORTH:
        span(job, 0, n)
        return
    edges = [i * n // threads // ALIGN * ALIGN for i in range(threads)] + [n]
    rest = [pool(threads - 1).submit(span, job, edges[i], edges[i + 1]) for i in range(1, threads)]
    span(job, 0, edges[1])
    for future in rest:
        future.result()


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work."""
    return ThreadPoolExecutor(threads, thread_name_prefix="zofo-noise")
