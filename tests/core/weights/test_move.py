"""Moving theta: by what was said, in the order it was said, and a journal of it gives the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.noise import LAWS, Law
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move

TERMS = ((11, 0.7), (12, -1.3), (13, 0.1))


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 7), nn.LayerNorm(7), nn.Linear(7, 5)).to(dtype)


def weights(model: nn.Module) -> Tensor:
    """All weights in one fp64 vector."""
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def directions(model: nn.Module, law: Law, terms: tuple[tuple[int, float], ...]) -> Tensor:
    """sum_i c_i z_i as one fp64 vector, straight from the noise."""
    leaves = tree.find(model)
    parts = []
    for leaf in leaves:
        n, width = leaf.param.numel(), noise.columns(leaf.data)
        zs = [c * noise.draw(leaves.direction(law, key), leaf.tid, n, width=width) for key, c in terms]
        parts.append(torch.stack(zs).sum(0))
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_theta_goes_down_the_update(law: Law, dtype: torch.dtype) -> None:
    """theta - lr sum c z, with decay (1 - lr decay) theta first."""
    model = net(dtype)
    before = weights(model)
    move.apply(tree.find(model), SeedGrad(law, TERMS), lr=0.05, decay=0.2)
    want = 0.99 * before - 0.05 * directions(model, law, TERMS)
    tolerance = {torch.float32: 1e-6, torch.float64: 3e-8, torch.bfloat16: 2e-2}[dtype]  # a is kept in fp32
    assert torch.allclose(weights(model), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_replaying_what_apply_returned_gives_the_same_bits(law: Law, dtype: torch.dtype) -> None:
    here, there = net(dtype), net(dtype)
    for step in range(3):
        grad = SeedGrad(law, tuple((key + 100 * step, c / 3) for key, c in TERMS))
        done = move.apply(tree.find(here), grad, lr=0.1 / 3, decay=1 / 7)
        assert done.replay and done.law == law
        assert [key for key, _ in done.terms] == [key for key, _ in grad.terms]
        assert all(float(np.float32(a)) == a for _, a in done.terms), "every a is an fp32 number"
        assert float(np.float32(done.decay)) == done.decay
        move.replay(tree.find(there), done.law, done.terms, done.decay)
        assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_terms_are_added_one_by_one_in_their_order() -> None:
    model = net()
    leaves = tree.find(model)
    want = {}
    for leaf in leaves:
        w = leaf.data.clone()
        for key, a in TERMS:
            noise.perturb(w, w, leaves.direction("gaussian", key), a, leaf.tid)
        want[leaf.name] = w
    backwards = net()
    move.replay(tree.find(backwards), "gaussian", TERMS[::-1])
    move.replay(leaves, "gaussian", TERMS)
    assert all(torch.equal(leaf.data, want[leaf.name]) for leaf in leaves)
    assert not torch.equal(weights(model), weights(backwards)), "rounding shows the order"


def test_decay_shrinks_before_the_step() -> None:
    model = net()
    before = tree.snapshot(tree.find(model))
    move.replay(tree.find(model), "gaussian", (), decay=0.25)
    assert all(torch.equal(leaf.data, before[leaf.name] * 0.75) for leaf in tree.find(model))


def test_a_rate_of_zero_moves_nothing(watch: type) -> None:
    model = net()
    seen = watch(model)
    move.apply(tree.find(model), SeedGrad("gaussian", TERMS), lr=0.0, decay=0.5)
    seen.check()


def test_a_leaf_that_is_not_contiguous_moves_alike() -> None:
    """Noise goes by the logical index: a transposed tensor moves as its contiguous copy does."""
    plain, turned = nn.Linear(6, 4), nn.Linear(6, 4)
    turned.load_state_dict(plain.state_dict())
    turned.weight = nn.Parameter(plain.weight.detach().t().contiguous().t())
    assert not turned.weight.is_contiguous()
    storage = turned.weight.data_ptr()
    for model in (plain, turned):
        move.apply(tree.find(model), SeedGrad("gaussian", TERMS), lr=0.1)
    assert torch.equal(plain.weight, turned.weight)
    assert turned.weight.data_ptr() == storage and not turned.weight.is_contiguous()


def test_parameters_stay_the_same_objects(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("llama-tied")
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    move.apply(tree.find(model), SeedGrad("rademacher", TERMS), lr=0.1)
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == before
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tied_weights_move_once(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("llama-tied")
    before = model.lm_head.weight.detach().clone()
    move.replay(tree.find(model), "rademacher", ((3, 0.25),))
    change = (model.lm_head.weight.detach().double() - before.double()).abs()
    assert torch.allclose(change, torch.tensor(0.25, dtype=torch.float64), atol=1e-6)


def test_an_update_by_leaf_is_applied_once_to_each_and_says_that_it_cannot_be_replayed() -> None:
    model, seen = net(), []

    def direction(leaf: tree.Leaf) -> Tensor:
        seen.append(leaf.name)
        return torch.full_like(leaf.data, 2.0)

    before = tree.snapshot(tree.find(model))
    done = move.apply(tree.find(model), move.LeafUpdate(SeedGrad("gaussian", TERMS), direction), lr=0.5, decay=0.5)
    assert seen == [leaf.name for leaf in tree.find(model)]
    assert not done.replay and done.decay == 0.25
    assert all(torch.equal(leaf.data, before[leaf.name] * 0.75 - 1) for leaf in tree.find(model))


def test_an_autocast_block_around_sees_the_new_weights() -> None:
    """torch keeps half copies of fp32 weights for as long as an autocast block lasts."""
    model, x = net(), torch.ones(2, 9)
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        move.apply(tree.find(model), SeedGrad("gaussian", TERMS), lr=0.5)
        after = model(x)
    move.apply(tree.find(twin), SeedGrad("gaussian", TERMS), lr=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, twin(x))
