"""Peak memory of a call above what stood before it: resident, and as torch allocates. Each misses what the other has.

`resident` is what the machine must have: everything, but also what malloc keeps in reserve and how that breaks up
(glibc, SmolLM2-135M at 8 x 64 tokens: 35 to 65 % more than is allocated in first-order steps, 2 to 25 MB more in forward
passes, other each time; within 2 % with MALLOC_MMAP_THRESHOLD_=65536 in the environment, for about a third more time). What a library has kept
since an earlier call stands before and is not in it, so call once before measuring.

`allocated` is the same number each time: bytes of the tensors alive together, on any device (`zofo.memory.live`). It
does not see workspaces within an operator (attention's, under 1 % here), nor what numpy, numba, MKL and oneDNN take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zofo.memory import resident
from zofo.memory.live import Live


@dataclass(frozen=True)
class Peak:
    """Bytes above what stood before: resident, and allocated by torch; `by`, how the first was measured."""

    resident: int
    allocated: int
    by: str


def peak(run: Callable[[], Any], device: torch.device | str = "cpu") -> Peak:
    """Measure a call both ways. Cost: it runs twice, the second time some 20 microseconds an operator slower.

    What the call returns is held until the measure is taken. On CUDA `resident` is the most that the allocator gave out.
    """
    most, by = above(run, device)
    return Peak(most, allocated(run), by)


def above(run: Callable[[], Any], device: torch.device | str = "cpu") -> tuple[int, str]:
    """Resident bytes that a call takes at its peak above those that stood before, and how they were measured."""
    gauge = resident.of(device)
    resident.settle()
    before = gauge.now()
    gauge.start()
    held = run()
    most = gauge.peak()
    del held
    return max(0, most - before), gauge.by


def allocated(run: Callable[[], Any]) -> int:
    """Bytes of the tensors that a call makes, at the most that are alive together."""
    live = Live()
    with live:
        held = run()
    del held
    return live.peak
