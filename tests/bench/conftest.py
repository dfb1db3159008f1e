"""A model to take steps on, and a job whose adapters stand apart, for what measures G."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from zofo.bench import estimate
from zofo.job import Job

LAM = 10.0
SMALL = {
    "data.task": "reviews", "data.train_rows": "12", "data.validation_rows": "4", "data.test_rows": "4", "data.batch": "2",
    "data.max_length": "60", "adapter.r": "2", "method.lam": str(LAM), "method.lam_every": "1",
}  # fmt: skip


@pytest.fixture
def model(folder: str) -> nn.Module:
    """The tiny llama."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def small() -> dict[str, str]:
    """Options of a small run with lambda 10."""
    return SMALL


@pytest.fixture
def apart() -> Callable[[Job], None]:
    """Move p and s of a job, each to a place of its own."""

    def move(job: Job) -> None:
        assert job.slots is not None
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for param in [*job.slots.list("p"), *job.slots.list("s")]:
                param.add_(torch.randn(param.shape, generator=generator), alpha=0.1)

    return move


@pytest.fixture
def held(folder: str, small: dict[str, str], apart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job at its start on the tiny llama, but for p and s, which are moved apart, so that G is not A."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    made = estimate.at_start({"model.name": folder, **small}, "bilevel-lora")
    apart(made)
    return made
