"""Weights that other modules read: found in one pass, stood on there, and sketched; those that nothing reads are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core import noise
from zofo.core.probe import Point
from zofo.core.probe.readers import bypassed, surveyed
from zofo.core.probe.scratch import Scratch
from zofo.core.sketch import Projection
from zofo.core.sketch.capture import capturing
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput

KEY, EPS = 7, 0.01
IDS = torch.tensor([[3, 5, 7, 9, 5], [2, 4, 6, 8, 10]])
SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
KINDS: dict[str, Callable[[], Any]] = {
    "mamba": lambda: hf.MambaConfig(**SHAPE | {"state_size": 4}),  # convolution, and a linear layer's weight by hand
    "lfm2": lambda: hf.Lfm2Config(**SHAPE, num_key_value_heads=1, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "gemma3n": lambda: hf.Gemma3nTextConfig(  # a module that is never run, whose vector its layer takes
        **SHAPE | {"intermediate_size": [16, 16]}, num_key_value_heads=1, head_dim=8, vocab_size_per_layer_input=40,
        hidden_size_per_layer_input=4, num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"],
        laurel_rank=2, activation_sparsity_pattern=[0.0, 0.0],
    ),
}  # fmt: skip


def made(kind: str) -> nn.Module:
    """A tiny model in fp64, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = hf.AutoModelForCausalLM.from_config(KINDS[kind]()).eval().double()
        for param in model.parameters():
            if param.dim() < 2:
                param.data += 0.1 * torch.randn_like(param)
    return model.requires_grad_(False)


def loss(model: nn.Module) -> Tensor:
    out: Tensor = model(input_ids=IDS, use_cache=False).logits[:, :-1].log_softmax(-1)
    return -out.gather(2, IDS[:, 1:, None]).mean()


def moved(model: nn.Module, leaves: Leaves, a: float) -> nn.Module:
    """A copy whose weights are really moved."""
    twin, z = copy.deepcopy(model), leaves.direction("gaussian", KEY)
    for leaf in tree.find(twin):
        w = leaf.data.contiguous()
        leaf.data.copy_(noise.perturb(torch.empty_like(w), w, z, a, leaf.tid))
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_is_the_model_with_its_weights_moved(kind: str) -> None:
    model = made(kind)
    leaves = surveyed(model, tree.find(model))
    z, before = leaves.direction("gaussian", KEY), copy.deepcopy(model.state_dict())
    got = Scratch(model, leaves)(lambda: loss(model), [Point(z, EPS), Point(z, -EPS), Point()])[:, 0]
    with torch.no_grad():
        want = torch.stack([loss(moved(model, leaves, a)) for a in (EPS, -EPS, 0.0)]).double()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)  # parts of these models compute in fp32 whatever they are
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(m) or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_has_the_gradients_of_vectors_that_others_read(kind: str) -> None:
    """Vectors come whole, and matrices with the sketch of their own gradient."""
    model = made(kind)
    leaves, projection = surveyed(model, tree.find(model)), Projection("rademacher", 1, 4, "input")
    with capturing(leaves, projection) as capture:
        torch.autograd.grad(loss(model), [capture.anchor])
        capture.close(1.0)
    found = capture.grad()
    model.requires_grad_(True)
    loss(model).backward()  # type: ignore[no-untyped-call]
    for leaf in leaves:
        want = leaf.param.grad if leaf.param.grad is not None else torch.zeros_like(leaf.data)
        if len(leaf.shape) > 1 and leaf.name not in found.rows:
            R, flat = projection.matrix(leaf), want.reshape(-1, want.shape[-1])
            want = (flat @ R.t() @ R if projection.right(leaf) else R.t() @ R @ flat).view_as(want)
        if leaf.name not in found.rows:
            torch.testing.assert_close(found.dense(leaf), want, rtol=1e-4, atol=1e-6)


def test_what_is_found_has_two_owners_and_other_leaves_one(tiny: Callable[..., nn.Module]) -> None:
    model = made("mamba")
    foreseen = {leaf.name for leaf in tree.find(model) if len(leaf.owners) > 1} - {"backbone.embeddings.weight"}
    found = {leaf.name for leaf in surveyed(model, tree.find(model)) if len(leaf.owners) > 1} - foreseen
    assert {name.split("mixer.")[1] for name in foreseen} == {"conv1d.weight", "conv1d.bias"}
    assert {name.split("mixer.")[-1] for name in found} == {
        "dt_proj.weight",
        "dt_proj.bias",
        "backbone.embeddings.weight",
    }
    plain = tiny("llama")
    assert [leaf.owners for leaf in surveyed(plain, tree.find(plain))] == [leaf.owners for leaf in tree.find(plain)]


def test_a_module_that_others_compute_for_is_bypassed(tiny: Callable[..., nn.Module]) -> None:
    model = made("mamba")
    paths = {module: name for name, module in model.named_modules()}
    found = {paths[module].split("mixer.")[-1] for module in bypassed(model)}
    assert found == {"dt_proj"} and not bypassed(tiny("llama")) and not bypassed(model.to("meta"))


class Part(nn.Module):
    """Has weights and no `forward`; the model around it takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))


class Whole(nn.Module):
    """Takes weights of parts that are not run, one of them in a list, and runs a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part, self.list, self.conv = Part(), nn.ParameterList([torch.ones(3)]), nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.conv1d(x[..., None], self.conv.weight, self.conv.bias)[..., 0] + self.conv(x[..., None])[..., 0]
        return torch.tanh(mixed * self.part.scale + self.list[0]).sum()


def test_modules_that_are_not_run_are_foreseen_without_a_pass() -> None:
    """As `zofo.ZO` finds the weights of any module."""
    model, x = Whole().double().requires_grad_(False), torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    leaves = tree.find(model)
    z = leaves.direction("gaussian", KEY)
    got = Scratch(model, leaves)(lambda: model(x), [Point(z, EPS), Point(z, -EPS)])[:, 0]
    want = torch.stack([moved(model, leaves, a)(x) for a in (EPS, -EPS)])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_a_convolution_that_is_run_by_hand_is_found_where_it_runs() -> None:
    """The model around it does not run: its own module does."""
    model, x = Whole().double().requires_grad_(False), torch.ones(1, 3, 1, dtype=torch.float64)
    leaves = tree.find(model, keep=lambda p: p is model.conv.weight or p is model.conv.bias)
    z = leaves.direction("gaussian", KEY)
    got = Scratch(model, leaves)(lambda: model.conv(x).sum(), [Point(z, EPS)])
    twin = Whole().double().requires_grad_(False)
    for leaf in tree.find(twin.conv):
        name = f"conv.{leaf.name}"
        tid = next(own.tid for own in leaves if own.name == name)
        leaf.data.copy_(noise.perturb(torch.empty_like(leaf.data), leaf.data, z, EPS, tid))
    torch.testing.assert_close(got[0, 0], twin.conv(x).sum(), rtol=1e-12, atol=0)


def test_weights_that_nothing_reads_are_refused_before_a_run(folder: str, tmp_path: Path) -> None:
    """A decoder taken out of an encoder-decoder has layers that look at an encoder, and nothing to look at."""
    import zofo

    bart = hf.BartConfig(
        vocab_size=257, d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, encoder_layers=1,
        encoder_attention_heads=2, encoder_ffn_dim=16, max_position_embeddings=128, pad_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf.BartForCausalLM(bart).save_pretrained(tmp_path / "bart")
    hf.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bart")
    with pytest.raises(BadInput, match=r"never ran .*encoder_attn.*; train an adapter"):
        zofo.train(
            tmp_path / "bart", "reviews", "mezo", steps=1, run__dir=tmp_path / "runs", data__train_rows=6,
            data__validation_rows=2, data__test_rows=2, data__max_length=32, batch=2,
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()
