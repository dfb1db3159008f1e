"""A family of linear tasks whose best theta is known: what meta-training and Reptile are tested on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zofo.core import streams

N = 4
BEST = torch.randn(N, N, generator=torch.Generator().manual_seed(1)).double()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean square error of each row."""
    x, y = batch
    return (model(x) - y).square().mean(1)  # type: ignore[no-any-return]


class Rows:
    """`size` rows a batch of y = V x, where V is the best W and a matrix of rank one that is the task's own; what was `asked` for."""

    def __init__(self, name: str, size: int = 64) -> None:
        draw = torch.Generator().manual_seed(streams.key(0, f"task-{name}") % 2**31)
        u, v = torch.randn(N, 1, generator=draw).double(), torch.randn(1, N, generator=draw).double()
        self.name, self.size, self.asked, self.V = name, size, list[tuple[str, int]](), BEST + u @ v / 2

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Any]:
        self.asked.append((stream, step))
        draw = torch.Generator().manual_seed(streams.key(0, f"{self.name}-{stream}", step) % 2**31)
        x = torch.randn(self.size, N, generator=draw).double()
        return [(x, x @ self.V.t())] * micro

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Any]:
        return self.batch("mixed", stream, step, micro)
