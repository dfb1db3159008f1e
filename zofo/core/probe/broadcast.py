"""Norms at several points in one run: a weight of shape (n, 1, H) over rows in n equal shares (H width).

It serves modules that multiply by their weight and take everything else from the last dimension, as the RMSNorms of
transformers do. Which do is tried, not assumed: one of each class runs both ways on random rows, and the bits must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zofo.core.probe.stand import Owned
from zofo.core.weights.stored import StoredLeaf

TRIED: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()


def suits(module: nn.Module, own: Owned) -> bool:
    """Whether a module is a norm in memory whose class takes a weight a point. Cost: three runs of the first of a class."""
    if set(own) != {"weight"} or len(own["weight"].shape) != 1 or isinstance(own["weight"], StoredLeaf):
        return False
    kind = type(module)
    if kind not in TRIED:
        TRIED[kind] = kind.__name__.endswith("RMSNorm") and agrees(module)
    return TRIED[kind]


def agrees(module: nn.Module) -> bool:
    """Whether both ways have the same bits."""
    param = module._parameters["weight"]
    assert param is not None
    noise = torch.randn(4, 3, param.numel(), generator=torch.Generator().manual_seed(0)).to(param)
    weights, x = [param + noise[2 + i, 0] for i in range(2)], noise[:2]
    try:
        with torch.no_grad():
            apart = []
            for i, w in enumerate(weights):
                module._parameters["weight"] = w  # type: ignore[assignment]
                apart.append(type(module).forward(module, x[i : i + 1]))
            return torch.equal(
                once(module, lambda rows: type(module).forward(module, rows), x, weights), torch.cat(apart)
            )
    except Exception:  # whatever a class does with a weight of another shape
        return False
    finally:
        module._parameters["weight"] = param


def once(module: nn.Module, run: Any, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The norm of x, its rows in equal shares, each with its weight; the weight is left in place. Cost: a copy of the weights."""
    module._parameters["weight"] = torch.stack(list(weights)).unsqueeze(1)  # type: ignore[assignment]
    out: Tensor = run(x.reshape(len(weights), -1, x.shape[-1]))
    return out.view(x.shape)
