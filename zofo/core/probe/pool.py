"""Scratch memory that is kept between probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Pool:
    """Flat buffers, taken and given back like a stack."""

    free: list[Tensor] = field(default_factory=list)

    def take(self, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return (buffer, its first elements seen as `shape`), on the device of `like`, of its type where none is given.

        The smallest buffer that is large enough serves; where none is, the largest gives way to a new one,
        so that a small tensor does not hold a large buffer while a second one is made.
        """
        n, dtype = torch.Size(shape).numel(), dtype or like.dtype
        same = [i for i, b in enumerate(self.free) if b.dtype == dtype and b.device == like.device]
        same.sort(key=lambda i: self.free[i].numel())
        at = next((i for i in same if self.free[i].numel() >= n), None)
        if at is not None:
            buffer = self.free.pop(at)
            return buffer, buffer[:n].view(shape)
        if same:
            del self.free[same[-1]]
        buffer = torch.empty(n, dtype=dtype, device=like.device)
        return buffer, buffer.view(shape)

    def give(self, buffers: Sequence[Tensor]) -> None:
        """Take buffers back."""
        self.free.extend(buffers)
