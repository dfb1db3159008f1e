"""Sketches of backward passes against autograd's own gradients, on every architecture; nothing is left on the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from zofo.core.sketch import Projection, Side
from zofo.core.sketch.capture import Capture, capturing
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.errors import BadInput

Tiny = Callable[..., nn.Module]
SIDES: tuple[Side, ...] = ("input", "smaller")


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).mean()


def sketched(model: nn.Module, leaves: Leaves, ids: Tensor, projection: Projection, weights: Any = (1.0,)) -> SketchGrad:  # fmt: skip
    """The sketch of sum_w w loss, a pass for each weight."""
    with capturing(leaves, projection) as capture:
        for weight in weights:
            torch.autograd.grad(loss(model, ids), [capture.anchor])
            capture.close(weight)
    return capture.grad()


def exact(model: nn.Module, leaves: Leaves, ids: Tensor) -> dict[str, Tensor]:
    """autograd's gradients, by leaf."""
    for leaf in leaves:
        leaf.param.requires_grad_(True)
    grads = torch.autograd.grad(loss(model, ids), [leaf.param for leaf in leaves])
    for leaf in leaves:
        leaf.param.requires_grad_(False)
    return {leaf.name: torch.zeros_like(leaf.data) if g is None else g for leaf, g in zip(leaves, grads, strict=True)}


def made(tiny: Tiny, arch: str) -> tuple[nn.Module, dict[str, float]]:
    """A model in fp64 and how near its numbers come (torch has no grouped products of experts in fp64)."""
    model = tiny(arch).requires_grad_(False)
    if arch == "mixtral":
        return model, {"rtol": 1e-3, "atol": 1e-4}
    return model.double(), {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """R of n rows, R^T R = I, for every matrix: then Q R is the gradient."""

    def signs(self: Projection, leaf: Leaf, dtype: torch.dtype | None = None) -> Tensor:
        n = self.width(leaf)
        drawn = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(leaf.tid % 1000))
        return (torch.linalg.qr(drawn).Q * self.rank**0.5).to(leaf.dtype)

    monkeypatch.setattr(Projection, "signs", signs)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.usefixtures("orthogonal")
def test_with_an_orthogonal_r_it_is_autograds_gradient(arch: str, side: Side, tiny: Tiny, rows: Tensor) -> None:
    """On every architecture: linear layers, Conv1D, tied heads, norms, biases, positions, experts."""
    model, near = made(tiny, arch)
    leaves = tree.find(model)
    found = sketched(model, leaves, rows, Projection("rademacher", 1, 8, side))
    want = exact(model, leaves, rows)
    for leaf in leaves:
        torch.testing.assert_close(found.dense(leaf), want[leaf.name], **near)
    assert found.finite


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("side", SIDES)
def test_it_is_the_gradient_times_r(arch: str, law: Any, side: Side, tiny: Tiny, rows: Tensor) -> None:
    """Against explicit matrices: Q R = G R^T R, and R^T Q = R^T R G; terms add with their weights; one R for all."""
    model, near = made(tiny, arch)
    leaves, projection = tree.find(model), Projection(law, 77, 4, side)
    found = sketched(model, leaves, rows, projection, weights=(1.0, 10.0, -2.0))
    gradients = exact(model, leaves, rows)
    for leaf in leaves:
        want = G = 9.0 * gradients[leaf.name]
        if len(leaf.shape) > 1:
            # an embedding's own rows are exact; the head's part, of a tied one, is sketched
            E = torch.zeros_like(G)
            if leaf.name in found.rows:
                numbers, values = found.rows[leaf.name]
                E[numbers] = values
            R, rest = projection.matrix(leaf), (G - E).reshape(-1, G.shape[-1])
            want = E + (rest @ R.t() @ R if projection.right(leaf) else R.t() @ R @ rest).view_as(G)
        torch.testing.assert_close(found.dense(leaf), want, **near)
    dense = sum(float(found.dense(leaf).square().sum()) for leaf in leaves)
    assert found.norm(leaves) == pytest.approx(dense**0.5, rel=1e-6)
    assert found.folded(leaves).norm(leaves) > 0 and not found.folded(leaves).rows


def test_a_norm_of_what_is_no_number_is_none(tiny: Tiny) -> None:
    leaves = tree.find(tiny("llama"))
    vector = next(leaf for leaf in leaves if len(leaf.shape) == 1)
    held = {vector.name: torch.full(vector.shape, torch.nan)}
    assert math.isnan(SketchGrad(Projection("rademacher", 7, 4), {}, held, {}).norm(leaves))


def test_sides(tiny: Tiny) -> None:
    """The output side only where outputs are fewer; a Conv1D is stored the other way round; an embedding's width."""
    for name, down, up in (
        ("llama", "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("gpt2", "transformer.h.0.mlp.c_proj.weight", "transformer.h.0.mlp.c_fc.weight"),
    ):
        leaves = {leaf.name: leaf for leaf in tree.find(tiny(name))}
        wide = max(leaves[down].shape)
        narrow = min(leaves[down].shape)
        assert narrow < wide
        for leaf in (leaves[down], leaves[up]):
            assert Projection("gaussian", 1, 4, "smaller").width(leaf) == narrow
        assert Projection("gaussian", 1, 4, "input").width(leaves[down]) == wide
        assert Projection("gaussian", 1, 4, "input").width(leaves[up]) == narrow


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_beside_an_adapter_the_passes_give_its_gradient_too(arch: str, tiny: Tiny, rows: Tensor) -> None:
    model = tiny(arch).double().requires_grad_(False)
    targets = ["c_attn", "c_fc"] if arch == "gpt2" else ["q_proj", "up_proj"]
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False, fan_in_fan_out=arch == "gpt2"))  # fmt: skip
    leaves = tree.find(lora, lambda p: not p.requires_grad)
    params = [p for p in lora.parameters() if p.requires_grad]
    want = torch.autograd.grad(loss(lora, rows), params)
    projection = Projection("rademacher", 3, 4)
    with capturing(leaves, projection) as capture:
        *found, _ = torch.autograd.grad(loss(lora, rows), [*params, capture.anchor])
        capture.close(1.0)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    G = exact(lora, leaves, rows)
    grad = capture.grad()
    for leaf in leaves:
        if leaf.name in grad.matrices and leaf.name not in grad.rows:
            torch.testing.assert_close(grad.matrices[leaf.name], projection.sketch(leaf, G[leaf.name]), rtol=1e-9, atol=1e-12)  # fmt: skip


def test_in_bf16_it_is_near(tiny: Tiny, rows: Tensor) -> None:
    model = tiny("llama").requires_grad_(False)
    leaves, projection = tree.find(model), Projection("rademacher", 3, 4)
    want = sketched(model, leaves, rows, projection)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found = sketched(model, leaves, rows, projection)
    for name, Q in want.matrices.items():
        assert found.matrices[name].dtype == torch.float32
        assert float((found.matrices[name] - Q).norm() / Q.norm()) < 0.05, name


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(error: type[BaseException], arch: str, tiny: Tiny, rows: Tensor) -> None:
    model = tiny(arch).requires_grad_(False)
    leaves = tree.find(model)
    before = tree.snapshot(leaves)
    held = {module: dict(vars(module)) for module in model.modules()}
    params = {module: dict(module._parameters) for module in model.modules()}
    middle = [m for m in model.modules() if not list(m.children())][-2]

    def fail(*_: Any) -> None:
        raise error

    with pytest.raises(error), capturing(leaves, Projection("rademacher", 1, 4)):
        handle = middle.register_forward_hook(fail)
        try:
            loss(model, rows)
        finally:
            handle.remove()
    for module in model.modules():
        assert "forward" not in vars(module) and params[module] == dict(module._parameters)
        assert getattr(module, "padding_idx", None) == held[module].get("padding_idx")
    assert all(torch.equal(leaf.data, before[leaf.name]) for leaf in leaves)
    assert all(not leaf.param.requires_grad and leaf.param.grad is None for leaf in leaves)


def test_a_module_that_never_runs_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    model = Two().requires_grad_(False)
    with capturing(tree.find(model), Projection("rademacher", 1, 4)) as capture:
        torch.autograd.grad(model(torch.ones(2, 3)).sum(), [capture.anchor])
    with pytest.raises(BadInput, match=r"unused\.weight, unused\.bias"):
        capture.grad()


@pytest.mark.parametrize("law", ["rademacher", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_a_sketch_is_unbiased_and_varies_as_the_formula_says(law: Literal["rademacher", "gaussian"]) -> None:
    """Over 2,000 R's: mean within 5 standard errors of G, mean square error within 5 % of (n -+ 1) / r |G|^2, both sides."""
    from zofo.core.sketch import variance

    torch.manual_seed(0)
    linear = nn.Linear(24, 12, bias=False, dtype=torch.float64).requires_grad_(False)
    leaves = tree.find(linear)
    (leaf,) = leaves
    G = torch.randn(12, 24, dtype=torch.float64)
    for side in SIDES:
        capture = Capture(leaves, Projection(law, 0, 4, side))
        n, total, square = capture.projection.width(leaf), torch.zeros_like(G), 0.0
        assert n == (24 if side == "input" else 12)
        for key in range(2000):
            projection = Projection(law, key, 4, side)
            Q, R = projection.sketch(leaf, G), projection.matrix(leaf)
            estimate = Q @ R if projection.right(leaf) else R.t() @ Q
            total += estimate
            square += float((estimate - G).square().sum())
        predicted = variance(law, n, 4)
        assert square / 2000 / float(G.square().sum()) == pytest.approx(predicted, rel=0.05)
        error = float((total / 2000 - G).square().sum() / G.square().sum())
        assert error < 4 * predicted / 2000
