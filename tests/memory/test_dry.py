"""Dry passes hold, byte for byte, what real ones hold: all architectures, adapters, dtypes, recomputed activations, tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from zofo import models
from zofo.adapters.slots import attach, learning
from zofo.bench.kinds import batch
from zofo.bench.peak import allocated
from zofo.config import build
from zofo.core.probe import Point, affine
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.memory import dry
from zofo.scoring.objective import row_losses

CLOSE = 0.005  # of the bytes: what an operator takes within itself, small constants


def skeleton(model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        return hf.AutoModelForCausalLM.from_config(model.config)


def loss_in(dtype: str) -> dry.Loss:
    return lambda model, made: row_losses(model, made, dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_forward_pass(tiny, arch: str, dtype: str) -> None:
    model, loss = tiny(arch), loss_in(dtype)
    made = batch(model, 3, 9)

    @torch.no_grad()
    def real() -> torch.Tensor:
        return loss(model, made)

    real()
    found = dry.forward(dry.hollow(skeleton(model), build({}), ()), loss, made)
    assert sum(found.values()) == pytest.approx(allocated(real), rel=CLOSE)
    assert (dry.COPIES in found) <= (dtype == "bf16") and dry.SLOPES not in found


@pytest.mark.filterwarnings("ignore:Adapter name")
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_of_an_adapter(tiny, arch: str, kind: str, checkpointing: bool) -> None:
    if kind == "prefix" and checkpointing:
        pytest.skip("peft refuses it")
    config, base, bare = build({"adapter.kind": kind}), tiny(arch), skeleton(tiny(arch))
    if checkpointing:
        models.recompute(base), models.recompute(bare)
    made, loss = batch(base, 3, 9), loss_in("fp32")
    slots = attach(base, config.adapter, ("p",), 0)

    def real() -> tuple[torch.Tensor, ...]:
        held = [torch.zeros_like(p) for p in slots.list("p")]
        with learning(slots.model, True):
            found = torch.autograd.grad(loss(slots.model, made).sum(), slots.list("p"))
        del held
        return found

    real()
    found = dry.backward(dry.hollow(bare, config, ("p",)), loss, made)
    assert sum(found.values()) == pytest.approx(allocated(real), rel=CLOSE)
    assert found[dry.LAYERS] > 0 and found[dry.SLOPES] > 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_large_layers_in_tiles(tiny, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(affine, "TILE", 1024)
    model, loss = tiny("llama", hidden_size=64, intermediate_size=200), loss_in(dtype)
    made, leaves = batch(model, 3, 9), tree.find(model)
    probe, z = Scratch(model, leaves), leaves.direction("rademacher", 1)

    def real() -> Any:
        probe.pool.free.clear()
        return probe(lambda: loss(model, made).mean(), [Point(z, 1e-3)])

    real()
    bare = skeleton(model)
    pieces = 4 * max(tile(module) for module in bare.modules())
    found = dry.forward(dry.hollow(bare, build({}), ()), loss, made, tiles=True)
    assert sum(found.values()) + pieces == pytest.approx(
        allocated(real), rel=0.03
    )  # the largest piece may not be the first
    assert all("forward" not in vars(module) for module in bare.modules())


def tile(module: nn.Module) -> int:
    from zofo.memory.sizes import piece

    return piece(module, 27, affine.TILE)


def test_no_weights_are_there(tiny) -> None:
    bare = skeleton(tiny("llama-tied"))
    made = dry.hollow(bare, build({}), ("p", "s"))
    assert len(made.params) == 8 and all(p.requires_grad for p in made.params)
    base = made.model.get_base_model()  # type: ignore[operator, union-attr]
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert all(isinstance(p, FakeTensor) and p.device.type == "cpu" for p in base.model.parameters())
    assert base.lm_head.weight.untyped_storage().device.type == "meta"
