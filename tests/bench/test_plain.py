"""What zofo's kinds are compared with: MeZO's loop is MeZO's, and peft is given layers of any architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from zofo.bench.how import How, batch
from zofo.bench.kinds import KINDS
from zofo.bench.plain import Walk

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


def test_the_walk_is_mezos() -> None:
    """theta ends at theta - lr c z, up to the rounding that walking costs."""
    weight = torch.nn.Linear(3, 1, bias=False).double()
    before = weight.weight.detach().clone()
    walk = Walk(weight, lambda: (weight.weight**2).sum(), eps=1e-3, lr=1e-2)
    walk.step()
    z = torch.randn(before.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    c = 2 * (before * z).sum()
    torch.testing.assert_close(weight.weight.detach(), before - 1e-2 * c * z, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["peft", "upper-plain"])
def test_peft_is_given_the_layers_of_an_architecture_that_it_knows_none_of(kind: str) -> None:
    shape: dict[str, Any] = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = Olmo2ForCausalLM(Olmo2Config(**shape, num_attention_heads=2, pad_token_id=0))
    KINDS[kind].make(model, batch(model, 2, 8), How())()
