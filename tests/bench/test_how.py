"""All ways to compute give the same losses; a twin shares the weights and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zofo.bench.how import How, batch, twin
from zofo.bench.plain import at_positions, labelled
from zofo.scoring.objective import row_losses

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


def lora(model: nn.Module) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(twin(model), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16))  # type: ignore[arg-type]


def test_all_losses_are_the_same_number(model: nn.Module) -> None:
    made = batch(model, 3, 9)
    assert made.input_ids.shape == (3, 9)
    with torch.no_grad():
        exact = row_losses(model, made)
        torch.testing.assert_close(How(full=True).losses(model, made), exact)
        for loss in (labelled, at_positions):
            torch.testing.assert_close(loss(lora(model), made), exact.mean())
        half = How("bf16", full=True).losses(model, made)
        assert not torch.equal(half, exact)
        torch.testing.assert_close(half, row_losses(model, made, "bf16"), atol=2e-2, rtol=0)


def test_a_twin_shares_the_weights_and_nothing_else(model: nn.Module) -> None:
    other = twin(model)
    assert other.lm_head.weight is other.model.embed_tokens.weight  # type: ignore[union-attr]
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one is not two and one.data_ptr() == two.data_ptr() and one.requires_grad and not two.requires_grad
    lora(model)
    assert not any("lora" in name for name, _ in model.named_parameters())
