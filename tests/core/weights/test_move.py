"""Moving theta: by what was said, in the order it was said, and a journal of it gives the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise, rules
from zofo.core.kernels import reference
from zofo.core.noise import LAWS, Law
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move

TERMS = ((11, 0.7), (12, -1.3), (13, 0.1))
TOLERANCE = {torch.float32: 1e-6, torch.float64: 3e-8, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # a is kept in fp32
HALF = [torch.bfloat16, torch.float16]


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 7), nn.LayerNorm(7), nn.Linear(7, 5)).to(dtype)


def mixed(dtype: torch.dtype) -> nn.Module:
    """The same with its matrices in a half type, and its vectors in fp32."""
    model = net()
    for p in model.parameters():
        p.data = p.data.to(dtype) if p.dim() > 1 else p.data
    return model


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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("law", LAWS)
def test_theta_goes_down_the_update(law: Law, dtype: torch.dtype) -> None:
    """theta - lr sum c z, with decay (1 - lr decay) theta first."""
    model = net(dtype)
    before = weights(model)
    move.apply(tree.find(model), SeedGrad(law, TERMS), lr=0.05, decay=0.2)
    want = 0.99 * before - 0.05 * directions(model, law, TERMS)
    tolerance = TOLERANCE[dtype]
    assert torch.allclose(weights(model), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [*TOLERANCE, "mixed"])
@pytest.mark.parametrize("law", LAWS)
def test_replaying_what_apply_returned_gives_the_same_bits(law: Law, dtype: torch.dtype | str) -> None:
    here, there = (mixed(torch.bfloat16) if isinstance(dtype, str) else net(dtype) for _ in range(2))
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


# ---- half-precision weights: a step is rounded stochastically ------------------------------------------------


def stepped(w: Tensor, leaf: tree.Leaf, z: noise.Direction, a: float) -> Tensor:
    """w + a z rounded by the bits of z's rounding key: by the reference, in the open."""
    index = torch.arange(w.numel())
    step = reference.scaled(z.law, z.key, leaf.tid, index, a * z.scale, torch.float32, noise.columns(w))
    bits = reference.halves(noise.rounding_key(z.key), leaf.tid, index)
    return reference.stochastic(w.float().view(-1) + step, bits, w.dtype).view_as(w)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("law", LAWS)
def test_every_term_is_rounded_stochastically_by_a_key_of_its_own(law: Law, dtype: torch.dtype) -> None:
    model, nearest = net(dtype), net(dtype)
    leaves = tree.find(model)
    want = {leaf.name: leaf.data.clone() for leaf in leaves}
    for key, a in TERMS:
        want = {leaf.name: stepped(want[leaf.name], leaf, leaves.direction(law, key), a) for leaf in leaves}
    move.replay(leaves, law, TERMS)
    assert all(torch.equal(leaf.data, want[leaf.name]) for leaf in leaves)
    for leaf in tree.find(nearest):
        for key, a in TERMS:
            move.add(leaf, leaves.direction(law, key), a)
    assert not torch.equal(weights(model), weights(nearest)), "as probing by the inplace policy rounds"


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("by_leaf", [False, True])
def test_decay_is_rounded_stochastically_too(dtype: torch.dtype, by_leaf: bool) -> None:
    """By bits of its own, which hang on the first term's key; an update by leaf is rounded once with its decay.

    Two steps of 0 leave what the type holds exactly as it is.
    """
    model, third = net(dtype), float(np.float32(1 / 3))
    leaves, still = tree.find(model), SeedGrad("gaussian", ((11, 0.0), (12, 0.0)))
    before, key = tree.snapshot(leaves), noise.rounding_key(11)
    update = move.LeafUpdate(still, lambda leaf: torch.zeros_like(leaf.data)) if by_leaf else still
    move.apply(leaves, update, lr=1.0, decay=third)
    for leaf in leaves:
        bits = reference.halves(key if by_leaf else noise.rounding_key(key), leaf.tid, torch.arange(leaf.data.numel()))
        shrunk = before[leaf.name].float().view(-1) * (1.0 - third)
        assert torch.equal(leaf.data, reference.stochastic(shrunk, bits, dtype).view_as(leaf.data))


class Ones(nn.Module):
    """A matrix of ones, and a vector."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(256, 256, dtype=dtype))
        self.vector = nn.Parameter(torch.ones(64))


def moved_share(model: Ones, want: Tensor) -> float:
    """How far the matrix has gone along a wanted change, in shares of it (least squares)."""
    change = model.matrix.detach().double() - 1
    return float((change * want).sum() / want.square().sum())


@pytest.mark.parametrize("dtype", HALF)
def test_steps_that_nearest_rounding_loses_move_the_weights_in_expectation(dtype: torch.dtype) -> None:
    """100 steps of a fifth of a unit in the last place. Rounding's noise makes the share that was gone uncertain by
    sqrt(0.2 x 0.8 x 100 / (0.04 x 100)) / 256 = 0.008."""
    model, lost, a = Ones(dtype), Ones(dtype), 0.2 * torch.finfo(dtype).eps
    leaves, want = tree.find(model), torch.zeros(256, 256, dtype=torch.float64)
    for key in range(100):
        move.replay(leaves, "rademacher", ((key, a),))
        z = leaves.direction("rademacher", key)
        for leaf in tree.find(lost):
            move.add(leaf, z, a)
        want += a * noise.draw(z, noise.tensor_id("matrix"), 65536).view(256, 256)
    assert torch.equal(lost.matrix, torch.ones_like(lost.matrix))
    assert abs(moved_share(model, want) - 1) < 5 * 0.008


@pytest.mark.parametrize("dtype", HALF)
def test_decay_that_nearest_rounding_loses_shrinks_the_weights_in_expectation(dtype: torch.dtype) -> None:
    model, unit = Ones(dtype), torch.finfo(dtype).eps / 2  # the spacing below 1
    for key in range(100):
        move.replay(tree.find(model), "rademacher", ((key, 0.0),), decay=float(np.float32(unit / 50)))
    gone = float((1 - model.matrix.detach().double()).mean()) / unit
    assert abs(gone - 2) < 5 * (100 / 50) ** 0.5 / 256 + 0.01 * 2  # what is taken shrinks with the weights
    assert torch.allclose(model.vector, torch.full((64,), (1 - unit / 50) ** 100), rtol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("law", LAWS)
def test_vectors_in_fp32_beside_half_matrices_take_their_steps_exactly(law: Law, dtype: torch.dtype) -> None:
    model, full = mixed(dtype), net()
    assert {p.dtype for p in model.parameters() if p.dim() == 1} == {torch.float32}
    leaves = tree.find(model)
    before = tree.snapshot(leaves)
    move.replay(leaves, law, TERMS[:1], decay=0.25)
    directions = tree.find(full)  # sphere: scaled by the elements, whatever they are held in
    move.replay(directions, law, TERMS[:1], decay=0.25)
    for leaf, twin in zip(leaves, directions, strict=True):
        if leaf.data.dim() == 1:
            assert torch.equal(leaf.data, twin.data)
            continue
        key = noise.rounding_key(noise.rounding_key(TERMS[0][0]))
        bits = reference.halves(key, leaf.tid, torch.arange(leaf.data.numel()))
        shrunk = reference.stochastic(before[leaf.name].float().view(-1) * 0.75, bits, dtype).view_as(leaf.data)
        assert torch.equal(leaf.data, stepped(shrunk, leaf, leaves.direction(law, TERMS[0][0]), TERMS[0][1]))


@pytest.mark.parametrize("dtype", HALF)
def test_adam_over_half_weights_is_fp32s_adam_rounded_once(dtype: torch.dtype) -> None:
    """Moments in fp32; (1 - d) w - lr m / sqrt(v) in fp32; then one stochastic rounding with the first probe's key."""
    model = mixed(dtype)
    leaves = tree.find(model)
    state = rules.RULES["adam"].init(leaves)
    assert {m.dtype for m in state.moments.values()} == {torch.float32}
    for step in range(3):
        twins = {leaf.name: nn.Parameter(leaf.data.float()) for leaf in leaves}
        grad = SeedGrad("gaussian", ((10 + step, 0.5), (20 + step, -1.0)))
        moments = {name: m.clone() for name, m in state.moments.items()}
        other = tree.collect((leaf.name, twins[leaf.name], ()) for leaf in leaves)
        before, update = rules.RULES["adam"].step(rules.RuleState(t=step, moments=moments), grad, other)
        move.apply(other, update, lr=0.01, decay=0.5)  # the same step of fp32 weights that begin there
        state, update = rules.RULES["adam"].step(state, grad, leaves)
        assert not move.apply(leaves, update, lr=0.01, decay=0.5).replay
        for leaf in leaves:
            want = twins[leaf.name].detach()
            if move.half(leaf):
                bits = reference.halves(noise.rounding_key(10 + step), leaf.tid, torch.arange(want.numel()))
                want = reference.stochastic(want.view(-1), bits, dtype).view_as(want)
            assert torch.equal(leaf.data, want)
        assert all(torch.equal(m, before.moments[name]) for name, m in state.moments.items())


@pytest.mark.parametrize("dtype", HALF)
def test_adams_steps_that_nearest_rounding_loses_move_half_weights_in_expectation(dtype: torch.dtype) -> None:
    model, unit = Ones(dtype), torch.finfo(dtype).eps / 2
    for key in range(100):
        update = move.LeafUpdate(SeedGrad("gaussian", ((key, 1.0),)), lambda leaf: torch.ones(leaf.data.shape))
        move.apply(tree.find(model), update, lr=unit / 50)
    gone = float((1 - model.matrix.detach().double()).mean()) / unit
    assert abs(gone - 2) < 5 * (100 / 50) ** 0.5 / 256


@pytest.mark.parametrize("dtype", HALF)
def test_half_leaves_that_are_not_contiguous_move_alike(dtype: torch.dtype) -> None:
    plain, turned = nn.Linear(6, 4).to(dtype), nn.Linear(6, 4).to(dtype)
    turned.load_state_dict(plain.state_dict())
    turned.weight = nn.Parameter(plain.weight.detach().t().contiguous().t())
    for model in (plain, turned):
        move.apply(tree.find(model), SeedGrad("gaussian", TERMS), lr=0.1, decay=0.3)
        update = move.LeafUpdate(SeedGrad("gaussian", TERMS), lambda leaf: torch.ones_like(leaf.data) / 3)
        move.apply(tree.find(model), update, lr=0.1, decay=0.3)
    assert torch.equal(plain.weight, turned.weight) and not turned.weight.is_contiguous()
