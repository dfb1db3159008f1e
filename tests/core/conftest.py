"""What the tests of the core share: comparing bits, watching a model for traces, plain functions to differentiate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.noise import Law
from zofo.core.weights import leaves as tree


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor: what "bit-equal" means (NaN and -0.0 included)."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="session")
def bits() -> Callable[[Tensor], bytes]:
    """The bytes of a tensor."""
    return raw


class Watch:
    """Everything of a model that probing must leave as it was; `check` compares."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.before = model, self.look(model)

    def look(self, model: nn.Module) -> list[tuple[Any, ...]]:
        """Parameters and buffers (identity and bits), hooks, an instance `forward`, padding_idx of every module."""
        return [
            (
                path,
                {name: (id(p), raw(p)) for name, p in module._parameters.items() if p is not None},
                {name: None if b is None else (id(b), raw(b)) for name, b in module._buffers.items()},
                list(module._forward_pre_hooks),
                list(module._forward_hooks),
                list(module._forward_hooks_always_called),
                module.__dict__.get("forward"),
                getattr(module, "padding_idx", None),
            )
            for path, module in model.named_modules()
        ]

    def check(self) -> None:
        """Fail when anything differs from the start."""
        for now, before in zip(self.look(self.model), self.before, strict=True):
            assert now == before, f"module {before[0]!r} was changed"


@pytest.fixture(scope="session")
def watch() -> type[Watch]:
    """`watch(model)` before, `.check()` after: the model has no trace of probing."""
    return Watch


@pytest.fixture(scope="session")
def moved() -> Callable[..., nn.Module]:
    """A deep copy of a model whose weights are really moved, rounded to nearest: `moved(model, law, (key, a), ...)`."""

    def make(model: nn.Module, law: Law, *terms: tuple[int, float]) -> nn.Module:
        twin = copy.deepcopy(model)
        leaves = tree.find(twin)
        with torch.no_grad():
            for leaf in leaves:
                for key, a in terms:
                    w = leaf.data.contiguous()
                    leaf.data.copy_(noise.perturb(torch.empty_like(w), w, leaves.direction(law, key), a, leaf.tid))
        return twin

    return make


class Bowl(nn.Module):
    """f(theta), smooth and not quadratic: sum of exp(w_i theta_i) + sin(theta_i), with its gradient in closed form, in fp64."""

    def __init__(self, d: int = 6, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(-0.7, 0.9, d, dtype=dtype))
        self.w = torch.linspace(0.4, 1.1, d, dtype=torch.float64)

    def forward(self) -> Tensor:
        theta = self.theta.double()
        return (torch.exp(self.w * theta) + torch.sin(theta)).sum()

    def gradient(self) -> Tensor:
        """f' at theta."""
        theta = self.theta.detach().double()
        return self.w * torch.exp(self.w * theta) + torch.cos(theta)


class Slope(nn.Module):
    """f(theta) = g . theta: central differences are exact at any eps, so only the law's randomness is left."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d))
        self.g = torch.linspace(-1.5, 2.0, d)

    def forward(self) -> Tensor:
        return (self.g.double() * self.theta.double()).sum()


@pytest.fixture
def bowl() -> Bowl:
    """A smooth function of six numbers in fp64."""
    return Bowl()


@pytest.fixture(scope="session")
def slope() -> Slope:
    """A linear function of eight numbers."""
    return Slope()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads`, put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
