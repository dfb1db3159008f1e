"""`zofo bench drift`: whether weights have the bits they had after many estimates, and what MeZO's walk leaves of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from zofo import models, sources
from zofo.bench.how import batch
from zofo.config import ModelConfig
from zofo.core.devices import wide
from zofo.core.estimate import central
from zofo.core.probe import Probe
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves
from zofo.machine import machine
from zofo.scoring.objective import row_losses

Weights = Literal["fp32", "bf16", "fp16"]


def changed(leaves: Leaves, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """Weights whose bits differ, and the size of the difference beside that of the weights."""
    bits = gap = norm = 0.0
    for leaf in leaves:
        old, new = before[leaf.name], leaf.data
        bits += float((old != new).sum())
        gap += float((wide(new) - wide(old)).square().sum())
        norm += float(wide(old).square().sum())
    return {"changed": int(bits), "share": bits / leaves.count, "drift": (gap / norm) ** 0.5}


def estimates(model: nn.Module, leaves: Leaves, probe: Probe, n: int, dtype: str) -> dict[str, float]:
    """Take n estimates on a row of four tokens, and say what they left."""
    made, before = batch(model, 1, 4), tree.snapshot(leaves)
    for key in range(n):
        central(probe, lambda: row_losses(model, made, dtype).mean(), [leaves.direction("gaussian", key)], 1e-3)
    return changed(leaves, before)


def main(
    model: str = "smollm2-135m", weights: Sequence[Weights] = ("fp32", "bf16"), n: int = 1000, walks: int = 200
) -> dict[str, Any]:
    """Count the weights that n estimates by scratch, and fewer by MeZO's walk, leave with other bits.

    Cost: 2 n forward passes of a row of four tokens, and the weights twice in memory.
    """
    found: dict[str, Any] = {}
    for kind in weights:
        loaded = models.load(sources.find(model), ModelConfig(name=model, weights=kind))
        leaves = tree.find(loaded)
        found[f"{kind}, exact"] = {"estimates": n, **estimates(loaded, leaves, Scratch(loaded, leaves), n, kind)}
        found[f"{kind}, MeZO's walk"] = {"estimates": walks, **estimates(loaded, leaves, Inplace(leaves), walks, kind)}
    about = {"model": model, "torch": torch.__version__, "machine": machine()}
    return {**about, "results": found}
