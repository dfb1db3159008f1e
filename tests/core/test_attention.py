"""Attention in fp32 in a block, on a CPU, for half types."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zofo.core.attention import Wide


def tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 9, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_half_types_are_attended_in_fp32(autocast: bool, mask: Any) -> None:
    """The bits of attention of widened tensors, rounded once; the same with what autocast would make of fp32 tensors."""
    q, k, v = tensors(torch.float32 if autocast else torch.bfloat16)
    options: dict[str, Any] = {"scale": 0.3}
    if mask:
        seen = torch.ones(9, 9, dtype=torch.bool).tril()
        options["attn_mask"] = seen if mask == "bool" else torch.zeros(9, 9, dtype=torch.bfloat16).masked_fill(~seen, -1e4)  # fmt: skip
    want_options = {key: value.float() if isinstance(value, Tensor) and mask == "float" else value for key, value in options.items()}  # fmt: skip
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **want_options).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext(), Wide():
        found = F.scaled_dot_product_attention(q, k, v, **options)
    assert found.dtype == torch.bfloat16 and torch.equal(found, want)
    found.float().sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_fp32_is_left_alone_and_the_block_ends() -> None:
    q, k, v = tensors(torch.float32)
    want = F.scaled_dot_product_attention(q, k, v)
    with Wide():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v), want)
        assert torch.equal(F.scaled_dot_product_attention(query=q, key=k, value=v), want)
    half = [t.detach().to(torch.bfloat16) for t in (q, k, v)]
    plain = F.scaled_dot_product_attention(*half)
    with pytest.raises(KeyboardInterrupt), Wide():
        raise KeyboardInterrupt
    assert torch.equal(F.scaled_dot_product_attention(*half), plain)
