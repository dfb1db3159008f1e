"""The machine that numbers come from: in half types the bits of a pass hang on its processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@cache
def machine() -> str:
    """System, processor and the vector instructions that torch uses, in words: what a run's bits depend on beside its versions."""
    parts = [f"{platform.system()} {platform.machine()}", processor(), torch.backends.cpu.get_cpu_capability()]
    return ", ".join(part for part in parts if part and part != "DEFAULT")


def processor() -> str:
    """The processor's name as the system gives it; empty where it gives none."""
    try:
        held = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in held if line.startswith("model name")), "")
