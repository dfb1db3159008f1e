"""First-order learning of an adapter, or of all weights: a torch optimizer with clipping and a rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}  # without decay AdamW is Adam


def rate(t: int, lr: float, schedule: Literal["constant", "linear", "cosine"], warmup: int, total: int) -> float:
    """Return the learning rate of step t (from 0): linear warm-up, then constant, linear or cosine decay to 0.

    Args: t in [0, total); warmup, total, in steps of this learner.
    """
    if t < warmup:
        return lr * (t + 1) / warmup
    if schedule == "constant":
        return lr
    done = min(1.0, (t - warmup) / max(1, total - warmup))
    return lr * (1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)


class Learner:
    """An optimizer: `step(grads)` clips, sets the rate, and moves the parameters (torch.optim's AdamW or SGD).

    decay: decoupled weight decay, param <- (1 - rate decay) param - rate (...). Memory: Adam keeps two tensors a parameter.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        optimizer: str,
        lr: float,
        schedule: Any,
        warmup: int,
        total: int,
        clip: float,
        decay: float = 0.0,
    ) -> None:
        self.params, self.lr, self.schedule = list(params), lr, schedule
        self.warmup, self.total, self.clip, self.t = warmup, total, clip, 0
        # without a reference to this object: moments go with it, not at some later collection of garbage
        self.make: Callable[[], torch.optim.Optimizer] = partial(
            OPTIMIZERS[optimizer], self.params, lr=lr, weight_decay=decay
        )
        self.optimizer = self.make()

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return rate(self.t, self.lr, self.schedule, self.warmup, self.total)

    def begin_as(self, other: Learner) -> None:
        """Take another's moments, for parameters that were set to its (the rate schedule goes on)."""
        self.from_checkpoint({"t": self.t}, other.to_checkpoint(copy=False)[1])

    def skip(self) -> None:
        """Let a step pass, for which there is no gradient: the schedule goes on."""
        self.t += 1

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], finite: bool = True, given: bool = False) -> bool:
        """p <- p - rate * optimizer(clip(grads)). given: the gradients are not needed after it, and no copy is made.

        Returns False, and moves nothing, when a gradient (or its loss: `finite`) is not finite; the schedule goes on.
        """
        norm = torch.nn.utils.get_total_norm(list(grads))
        if not finite or not torch.isfinite(norm):
            self.skip()
            return False
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad if given else grad.clone()
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.params, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        torch.clear_autocast_cache()  # an autocast block around the caller holds half copies of the old values
        for param in self.params:
            param.grad = None
        self.skip()
        return True

    def to_checkpoint(self, copy: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Split into JSON numbers and tensors (copies, or the moments themselves)."""
        moments: dict[str, Tensor] = {}
        for i, held in self.optimizer.state_dict()["state"].items():
            moments |= {
                f"{i}.{name}": value.clone() if copy else value
                for name, value in held.items() if isinstance(value, Tensor)
            }  # fmt: skip
        return {"t": self.t}, moments

    def from_checkpoint(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up what `to_checkpoint` split."""
        self.t, self.optimizer = numbers["t"], self.make()
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            i, key = name.split(".", 1)
            state.setdefault(int(i), {})[key] = value.clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
