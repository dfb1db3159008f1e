"""zofo's first-order kind learns as peft's does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zofo.bench.how import How, batch
from zofo.bench.ours import Method, first_order
from zofo.bench.plain import peft_loop

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


def test_both_first_order_kinds_descend_alike(model: nn.Module) -> None:
    """The same adapter, optimizer and loss: only the adapter's start differs."""
    made, how = batch(model, 4, 8), How()
    ours, plain = first_order(model, made, how), peft_loop(model, made, how)
    for _ in range(60):
        ours(), plain()
    method: Method = ours.__self__  # type: ignore[attr-defined]
    held = {cell: c.cell_contents for cell, c in zip(plain.__code__.co_freevars, plain.__closure__, strict=True)}  # type: ignore[attr-defined]
    with torch.no_grad():
        start, a = how.losses(model, made).mean(), how.losses(method.problem.model, made).mean()
        b = how.losses(held["lora"], made).mean()
    assert a < start - 0.01 and b < start - 0.01 and abs(a - b) < 0.5 * (start - min(a, b))
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (method.problem.model, held["lora"])]
    assert counts[0] == counts[1]
