"""Attention in fp32 where a backward pass goes through it on a CPU: torch's half-precision kernel is slow there.

Its backward kernel took 6.8 ms a layer of SmolLM2-135M at 8 x 64 in bf16, a quarter of a LoRA step; in fp32 all of
attention takes less than that at 64 and at 256 tokens, and is more exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

HALF = (torch.bfloat16, torch.float16)


class Wide(TorchFunctionMode):
    """A block in which scaled dot product attention of half-precision tensors on a CPU is computed in fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, attention in fp32; its result has the type it would have."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not args or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else args[0].dtype
        if kind not in HALF:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = func(*map(widened, args), **{key: widened(value) for key, value in kwargs.items()})
        return out.to(kind)


def widened(value: Any) -> Any:
    """A half-precision tensor in fp32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value
