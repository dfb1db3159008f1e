"""The kinds of step compute the same rows and positions, share the weights, and are what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM

from zofo.bench import kinds
from zofo.bench.kinds import KINDS, How, batch, chosen
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import snapshot
from zofo.scoring.objective import row_losses

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


@pytest.fixture
def model(folder: str) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def lora(model: nn.Module) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(kinds.twin(model), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16))  # type: ignore[arg-type]


def test_all_losses_are_the_same_number(model: nn.Module) -> None:
    made = batch(model, 3, 9)
    assert made.input_ids.shape == (3, 9)
    with torch.no_grad():
        exact = row_losses(model, made)
        torch.testing.assert_close(How(full=True).losses(model, made), exact)
        for loss in (kinds.labelled, kinds.at_positions):
            torch.testing.assert_close(loss(lora(model), made), exact.mean())
        half = How("bf16", full=True).losses(model, made)
        assert not torch.equal(half, exact)
        torch.testing.assert_close(half, row_losses(model, made, "bf16"), atol=2e-2, rtol=0)


def test_a_twin_shares_the_weights_and_nothing_else(model: nn.Module) -> None:
    other = kinds.twin(model)
    assert other.lm_head.weight is other.model.embed_tokens.weight  # type: ignore[union-attr]
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one is not two and one.data_ptr() == two.data_ptr() and one.requires_grad and not two.requires_grad
    lora(model)
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("how", [How(), pytest.param(How("bf16", full=True), marks=pytest.mark.slow)])
def test_each_kind_takes_steps(model: nn.Module, name: str, how: How) -> None:
    made = batch(model, 2, 8)
    before = snapshot(tree.find(model))
    step = KINDS[name].make(model, made, how)
    step(), step()
    after = snapshot(tree.find(model))
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    moves = name.split("-")[0] in ("zofo", "mezo", "upper", "iteration", "sketch") and not name.endswith("plain")
    assert (moved > 1e-9) == moves and moved < 1e-3  # a pass of noise alone is of 1e-12


def test_both_first_order_kinds_descend_alike(model: nn.Module) -> None:
    """The same adapter, optimizer and loss: only the adapter's start differs."""
    from zofo.bench.kinds import Method

    made, how = batch(model, 4, 8), How()
    ours, plain = kinds.first_order(model, made, how), kinds.peft_loop(model, made, how)
    for _ in range(60):
        ours(), plain()
    method: Method = ours.__self__  # type: ignore[attr-defined]
    held = {cell: c.cell_contents for cell, c in zip(plain.__code__.co_freevars, plain.__closure__, strict=True)}  # type: ignore[attr-defined]
    with torch.no_grad():
        start, a = how.losses(model, made).mean(), how.losses(method.problem.model, made).mean()
        b = how.losses(held["lora"], made).mean()
    assert a < start - 0.01 and b < start - 0.01 and abs(a - b) < 0.5 * (start - min(a, b))
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (method.problem.model, held["lora"])]
    assert counts[0] == counts[1]


def test_the_walk_is_mezos() -> None:
    """theta ends at theta - lr c z, up to the rounding that walking costs."""
    weight = torch.nn.Linear(3, 1, bias=False).double()
    before = weight.weight.detach().clone()
    walk = kinds.Walk(weight, lambda: (weight.weight**2).sum(), eps=1e-3, lr=1e-2)
    walk.step()
    z = torch.randn(before.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    c = 2 * (before * z).sum()
    torch.testing.assert_close(weight.weight.detach(), before - 1e-2 * c * z, atol=1e-6, rtol=0)


def test_the_references_are_always_among_those_chosen() -> None:
    labels = [label for label, _, _ in chosen(["zofo"], ["rademacher", "sphere"], How("bf16"))]
    assert labels == [
        "plain forward", "plain forward, logits at all positions", "zofo step, rademacher", "zofo step, sphere",
    ]  # fmt: skip
    assert [how.law for _, kind, how in chosen(["zofo"], ["sphere"], How()) if kind.laws] == ["sphere"]
    assert len(list(chosen([], [], How()))) == 2


@pytest.mark.parametrize("kind", ["peft", "upper-plain"])
def test_peft_is_given_the_layers_of_an_architecture_that_it_knows_none_of(kind: str) -> None:
    shape: dict[str, Any] = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = Olmo2ForCausalLM(Olmo2Config(**shape, num_attention_heads=2, pad_token_id=0))
    KINDS[kind].make(model, batch(model, 2, 8), How())()
