"""Rules over sketches against the same rules with explicit matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from zofo.core.rules import ADAM_EPS, BETA1, BETA2, RuleState
from zofo.core.sketch import Projection
from zofo.core.sketch.grad import SketchGrad
from zofo.core.sketch.rules import SKETCH_RULES, carried, clipped
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.leaves import Leaves


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.linear = nn.Linear(6, 5)


def leaves_of() -> Leaves:
    torch.manual_seed(0)
    return tree.find(Model().double().requires_grad_(False))


def gradient(leaves: Leaves, key: int, seed: int) -> SketchGrad:
    """A random gradient, as a sketch: rows of the embedding, Q of the layer, its bias."""
    projection, drawn = Projection("rademacher", key, 3), torch.Generator().manual_seed(seed)
    rows = torch.tensor([1, 4]), torch.randn(2, 6, dtype=torch.float64, generator=drawn)
    linear = next(leaf for leaf in leaves if leaf.name == "linear.weight")
    Q = projection.sketch(linear, torch.randn(5, 6, dtype=torch.float64, generator=drawn))
    bias = torch.randn(5, dtype=torch.float64, generator=drawn)
    return SketchGrad(projection, {"linear.weight": Q}, {"linear.bias": bias}, {"embed.weight": rows})


def dense(grad: SketchGrad, leaves: Leaves) -> Tensor:
    return torch.cat([grad.dense(leaf).flatten() for leaf in leaves])


def test_normalised_is_of_length_one() -> None:
    leaves = leaves_of()
    grad = gradient(leaves, 1, 1)
    _, update = SKETCH_RULES["normalised"].step(RuleState(), grad, leaves)  # type: ignore[arg-type]
    want = dense(grad, leaves)
    torch.testing.assert_close(dense(update, leaves), want / want.norm())  # type: ignore[arg-type]


def test_a_gradient_of_nothing_moves_nothing() -> None:
    leaves = leaves_of()
    _, update = SKETCH_RULES["normalised"].step(RuleState(), gradient(leaves, 1, 1).scaled(0.0), leaves)  # type: ignore[arg-type]
    assert not dense(update, leaves).any()  # type: ignore[arg-type]


def test_momentum_adds_unit_gradients_while_r_stays() -> None:
    leaves, state, want = leaves_of(), RuleState(), None
    for seed in range(3):
        g = gradient(leaves, 5, seed).folded(leaves)
        unit = dense(g, leaves) / dense(g, leaves).norm()
        want = (1 - BETA1) * unit if want is None else BETA1 * want + (1 - BETA1) * unit
        state, update = SKETCH_RULES["momentum"].step(state, gradient(leaves, 5, seed), leaves)  # type: ignore[arg-type]
        torch.testing.assert_close(dense(update, leaves), want / want.norm())  # type: ignore[arg-type]
    state, update = SKETCH_RULES["momentum"].step(state, gradient(leaves, 6, 9), leaves)  # type: ignore[arg-type]
    fresh = dense(gradient(leaves, 6, 9).folded(leaves), leaves)
    torch.testing.assert_close(dense(update, leaves), fresh / fresh.norm())  # type: ignore[arg-type]
    assert state.t == 1, "a new R: from the beginning"


def test_adam_is_torchs_in_the_sketchs_coordinates() -> None:
    leaves, state = leaves_of(), RuleState()
    first = gradient(leaves, 5, 0).folded(leaves)
    held = {name: nn.Parameter(torch.zeros_like(v)) for name, v in {**first.matrices, **first.vectors}.items()}
    adam = torch.optim.Adam(held.values(), lr=1.0, betas=(BETA1, BETA2), eps=ADAM_EPS)
    for seed in range(4):
        g, before = gradient(leaves, 5, seed).folded(leaves), {n: p.detach().clone() for n, p in held.items()}
        for name, value in {**g.matrices, **g.vectors}.items():
            held[name].grad = value
        adam.step()
        state, update = SKETCH_RULES["adam"].step(state, gradient(leaves, 5, seed), leaves)  # type: ignore[arg-type]
        for name, value in {**update.matrices, **update.vectors}.items():  # type: ignore[attr-defined]
            torch.testing.assert_close(value, before[name] - held[name].detach())


def test_transfer_is_unbiased_and_grows_as_it_is_said() -> None:
    """E[M R_old R_new^T R_new] = M R_old; |.|^2 grows by 1 + (n - 1) / r for Rademacher."""
    leaves = leaves_of()
    grad = gradient(leaves, 1, 1).folded(leaves)
    linear = next(leaf for leaf in leaves if leaf.name == "linear.weight")
    M, old = grad.matrices["linear.weight"], grad.projection
    state, target = RuleState(t=2, key=1, moments={"m.linear.weight": M}), M @ old.matrix(linear)
    total, square = torch.zeros_like(target), 0.0
    for key in range(2, 4002):
        new = replace(old, key=key)
        after = carried(state, old, new, leaves)
        moved = after.moments["m.linear.weight"] @ new.matrix(linear)
        total, square = total + moved, square + float(moved.square().sum())
        assert (after.key, after.t) == (key, 2)
    growth = 1 + (6 - 1) / 3
    assert square / 4000 / float(target.square().sum()) == pytest.approx(growth, rel=0.05)
    assert float((total / 4000 - target).square().sum() / target.square().sum()) < 4 * growth / 4000


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_theta_moves_by_minus_lr_q_r(decay: float) -> None:
    leaves, before = leaves_of(), None
    grad = gradient(leaves, 3, 3)
    before, step = torch.cat([leaf.data.flatten().clone() for leaf in leaves]), dense(grad, leaves)
    moved = move.apply(leaves, grad, 0.5, decay)
    shrink = 1 - moved.decay
    torch.testing.assert_close(torch.cat([leaf.data.flatten() for leaf in leaves]), shrink * before - 0.5 * step)
    assert moved.terms == ((3, -0.5),) and not moved.replay and move.fits(grad, 0.5)
    broken = replace(grad, vectors={"linear.bias": torch.tensor([float("nan")] * 5)})
    assert not move.fits(broken, 0.5)


def test_a_step_into_half_types_is_rounded_once_and_stochastically() -> None:
    """A step of a hundredth of a unit moves bf16 weights in the mean."""
    torch.manual_seed(0)
    linear = nn.Linear(512, 512, bias=False).requires_grad_(False)
    linear.weight.data = torch.ones(512, 512, dtype=torch.bfloat16)
    leaves = tree.find(linear)
    (leaf,) = leaves
    grad = SketchGrad(Projection("rademacher", 1, 1), {"weight": torch.ones(512, 1)}, {}, {})
    signs = grad.projection.matrix(leaf)[0]
    move.apply(leaves, grad, 1e-4)
    change = (leaf.data.float() - 1).mean(0) * -signs  # units are 2^-7 above 1 and 2^-8 below
    assert float(change.mean()) == pytest.approx(1e-4, rel=0.1)
    assert set(((leaf.data.float() - 1) * 256).unique().tolist()) <= {-1.0, 0.0, 2.0}


def test_a_clipped_gradient_is_the_formulas() -> None:
    """g min(1, 2 level / |g|); level from the first |g|, then 0.9 of it and 0.1 of what was kept."""
    leaves, state, level = leaves_of(), RuleState(), None
    for seed, factor in enumerate((1.0, 0.01, 1.5, 1000.0, 1.0, 0.0, 1.0)):
        grad = gradient(leaves, 5, seed).scaled(factor)
        norm = grad.norm(leaves)
        state, kept = clipped(state, grad, leaves, 2.0)
        level = level or norm
        want = min(norm, 2 * level)
        torch.testing.assert_close(dense(kept, leaves), dense(grad, leaves) * (want / norm if norm else 1.0))
        level = 0.9 * level + 0.1 * want if norm else level
        assert state.level == pytest.approx(level)


def test_one_long_gradient_neither_carries_adam_away_nor_holds_it() -> None:
    """One of 1,000 times the length: theta goes along it for ten steps, and then hardly moves, for v has its square. Clipped, neither."""

    def went(limit: float) -> tuple[float, float]:
        leaves, state, updates = leaves_of(), RuleState(), []
        for seed in range(200):
            grad = gradient(leaves, 5, seed).scaled(1000.0 if seed == 120 else 1.0)
            if limit:
                state, grad = clipped(state, grad, leaves, limit)
            state, update = SKETCH_RULES["adam"].step(state, grad, leaves)  # type: ignore[arg-type]
            updates.append(dense(update, leaves))  # type: ignore[arg-type]
        long = dense(gradient(leaves, 5, 120).folded(leaves), leaves)
        return float(torch.stack(updates[120:131]).sum(0) @ (long / long.norm())), float(updates[-1].norm())

    (far, slow), (near, usual) = went(0.0), went(2.0)
    assert far > 3 * abs(near)
    assert slow < 0.1 * usual
