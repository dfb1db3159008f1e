"""Norms of several points in one run: the bits of one run a point, and only for classes that do it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core.probe import broadcast
from zofo.core.probe.stand import owned
from zofo.core.weights import leaves as tree

Tiny = Callable[..., nn.Module]


class PlainRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class FusedRMSNorm(PlainRMSNorm):
    """Its weight must have the shape of a row."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight)


class FlatRMSNorm(PlainRMSNorm):
    """What it makes of a weight of two rows has another value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.mean()


class Scale(PlainRMSNorm):
    """It would do, but is not called a norm."""


@pytest.mark.parametrize(("kind", "does"), [(PlainRMSNorm, True), (FusedRMSNorm, False), (FlatRMSNorm, False), (Scale, False)])  # fmt: skip
def test_a_class_is_tried(kind: type[PlainRMSNorm], does: bool) -> None:
    module = kind(8)
    weight, before = module.weight, module.weight.detach().clone()
    (own,) = owned(tree.find(module)).values()
    assert broadcast.suits(module, own) is does
    assert module._parameters["weight"] is weight and torch.equal(weight, before)


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen2", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 5), (6, 1), (2, 3, 7)])
def test_one_run_has_the_bits_of_one_a_point(arch: str, dtype: torch.dtype, shape: tuple[int, ...], tiny: Tiny) -> None:
    model = tiny(arch)
    norms = [(m, own) for m, own in owned(tree.find(model)).items() if type(m).__name__.endswith("RMSNorm")]
    assert norms
    for module, own in norms:
        assert broadcast.suits(module, own)
        weight = module._parameters["weight"]
        assert weight is not None
        x = torch.randn(*shape, weight.numel()).to(dtype)
        weights = [weight.detach() + torch.randn(weight.shape) for _ in range(2)]
        with torch.no_grad():
            together = broadcast.once(module, module.forward, x, weights)
            for part, found, w in zip(x.chunk(2), together.chunk(2), weights, strict=True):
                module._parameters["weight"] = w  # type: ignore[assignment]
                assert torch.equal(found, module(part))
        module._parameters["weight"] = weight
