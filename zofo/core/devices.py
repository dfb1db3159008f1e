"""What devices differ in: one has no fp64, another draws dropout from a generator of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NARROW = {"mps"}
"""Kinds of device without fp64."""


def wide(t: Tensor) -> Tensor:
    """A tensor in fp64, on the CPU where its device has none. Cost: a copy."""
    return (t.cpu() if t.device.type in NARROW else t).double()


def accelerator() -> tuple[str, Any, int]:
    """This machine's kind of accelerator, torch's module for it, and how many there are: ("cpu", None, 0) where none is in use yet."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    module = None if kind is None else torch.get_device_module(kind)
    if kind is None or not getattr(module, "is_initialized", lambda: True)():  # mps has no such question
        return "cpu", None, 0
    return kind.type, module, torch.accelerator.device_count()


def finish() -> None:
    """Wait until an accelerator in use has done what it was given: a clock that is read before tells nothing."""
    _, module, _ = accelerator()
    if module is not None:
        module.synchronize()
