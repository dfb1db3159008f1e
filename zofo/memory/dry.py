"""A step's passes over a model without weights and without arithmetic: what would stand at their peak.

The weights are fake tensors (torch's own: shapes, types, a device, no numbers); token ids and masks are real, and
everything else is the code that a run goes through: model, adapter, scoring path, autograd. So it holds for any
architecture, adapter, dtype and activation checkpointing, and costs a second or so for a model of any size.
Counted as on a CPU: an accelerator's attention kernels may hold more or less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F

from zofo.adapters.slots import attach, learning
from zofo.config import Config
from zofo.core.probe import affine
from zofo.memory.live import Live
from zofo.scoring.objective import output_head

LAYERS = "activations"
HEAD = "logits, and what the loss makes of them"
SLOPES = "gradients"
COPIES = "half-precision copies of weights"

Loss = Callable[[nn.Module, Any], Tensor]
Parts = dict[str, int]  # bytes at the peak by LAYERS, HEAD, SLOPES, COPIES


@dataclass(frozen=True)
class Hollow:
    """A model whose weights are fake, with the adapter that it computes with, and that adapter's parameters."""

    model: nn.Module
    params: list[nn.Parameter]


def hollow(skeleton: nn.Module, config: Config, names: tuple[str, ...]) -> Hollow:
    """Put adapters on a skeleton (meta device), and fake tensors where it has none (in place, both)."""
    model, params = skeleton.eval(), list[nn.Parameter]()
    if names:
        slots = attach(model, config.adapter, names[:1], 0)
        model, params = slots.model, slots.list(names[0])
    mode, made = FakeTensorMode(allow_non_fake_inputs=True), dict[int, Tensor]()
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = made.setdefault(id(tensor), faked(mode, tensor))  # type: ignore[assignment]
    return Hollow(model, [cast(nn.Parameter, made[id(p)]) for p in params])


def faked(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A fake tensor of the same shape and type that says it is on the CPU (real ones stay as they are)."""
    if tensor.device.type != "meta":
        return tensor
    fake = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def watched(made: Hollow, live: Live, stack: ExitStack) -> None:
    """Enter a counter; from the output head on, what is made counts to HEAD."""
    head = output_head(made.model)
    if head is not None:
        handle = head.register_forward_pre_hook(lambda *_: setattr(live, "part", HEAD))
        stack.callback(handle.remove)
    stack.enter_context(live)


def forward(made: Hollow, loss: Loss, batch: Any, tiles: bool = False) -> Parts:
    """A pass without gradients; `tiles`, with large layers in tiles as exact probing computes them."""
    live = Live(LAYERS, COPIES)
    with ExitStack() as stack:
        if tiles:
            in_tiles(made.model, stack)
        stack.enter_context(torch.no_grad())
        watched(made, live, stack)
        loss(made.model, batch)
    return dict(live.at_peak)


def backward(made: Hollow, loss: Loss, batch: Any) -> Parts:
    """A forward and a backward pass of the adapter, as `zofo.methods.losses.gradient` makes them."""
    live = Live(SLOPES, COPIES)
    with ExitStack() as stack:
        stack.enter_context(learning(made.model, True))
        watched(made, live, stack)
        held = [torch.zeros_like(param) for param in made.params]
        with live.during(LAYERS):
            total = loss(made.model, batch).sum()
        parts = torch.autograd.grad(total, made.params)
    del held, parts
    return dict(live.at_peak)


def in_tiles(model: nn.Module, stack: ExitStack) -> None:
    """Let large linear layers compute a tile at a time until the stack is closed."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() > affine.TILE and "forward" not in vars(module):
            module.forward = functools.partial(tiled, module)  # type: ignore[method-assign]
            stack.callback(vars(module).pop, "forward", None)


def tiled(module: nn.Linear, x: Tensor) -> Tensor:
    """`zofo.core.probe.affine` without noise."""
    height = max(1, affine.TILE // module.in_features)
    pieces = [module.weight[at : at + height] for at in range(0, module.out_features, height)]
    return torch.cat([F.linear(x, piece) for piece in pieces], dim=-1)
