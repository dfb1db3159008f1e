"""Rules: SGD changes nothing, ScalarAdaptive is blind to scale, Adam is torch's Adam on sum_i c_i z_i."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise, rules
from zofo.core.noise import LAWS, Law
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move

RULES = rules.RULES


def grad(*terms: tuple[int, float], law: Law = "gaussian") -> SeedGrad:
    """A SeedGrad of some terms."""
    return SeedGrad(law, terms)


@pytest.fixture
def leaves() -> tree.Leaves:
    """Leaves of a small fp64 layer."""
    return tree.find(nn.Linear(5, 4).double())


def test_sgd_is_the_identity(leaves: tree.Leaves) -> None:
    state, update = RULES["sgd"].step(RULES["sgd"].init(leaves), grad((1, 0.5), (2, -3.0)), leaves)
    assert update == grad((1, 0.5), (2, -3.0))
    assert state == rules.RuleState(t=1)


@pytest.mark.parametrize("c", [1e-30, -1e-3, 0.7, -56.0, 1e30])
def test_scalar_adaptives_first_update_is_z_or_minus_z(c: float, leaves: tree.Leaves) -> None:
    _, update = RULES["scalar-adaptive"].step(rules.RuleState(), grad((1, c)), leaves)
    assert isinstance(update, SeedGrad)
    assert update.terms == ((1, pytest.approx(math.copysign(1, c), rel=1e-14)),)


@pytest.mark.parametrize("scale", [1024.0, 1e-7, 3.3e5])
def test_scalar_adaptive_is_blind_to_the_scale_of_the_loss(scale: float, leaves: tree.Leaves) -> None:
    here = there = rules.RuleState()
    for step in range(30):
        terms = [(step, math.sin(step) + 0.2), (1000 + step, math.cos(3 * step))]
        here, a = RULES["scalar-adaptive"].step(here, grad(*terms), leaves)
        there, b = RULES["scalar-adaptive"].step(there, grad(*((k, scale * c) for k, c in terms)), leaves)
        assert a.coefficients == pytest.approx(b.coefficients, rel=1e-12)  # type: ignore[union-attr]


def test_scalar_adaptive_is_adams_second_moment_of_one_number(leaves: tree.Leaves) -> None:
    """v <- 0.99 v + 0.01 c^2, update c / sqrt(v / (1 - 0.99^t)); several probes: the mean of (q c_i)^2 / q."""
    state, v = rules.RuleState(), 0.0
    for t, cs in enumerate([(0.5, 1.0), (-2.0, 0.1), (0.0, 3.0)], 1):
        v = 0.99 * v + 0.01 * sum((2 * c) ** 2 for c in cs) / 2
        state, update = RULES["scalar-adaptive"].step(state, grad(*enumerate(cs)), leaves)
        want = [c / math.sqrt(v / (1 - 0.99**t)) for c in cs]
        assert update.coefficients == pytest.approx(want, rel=1e-12)  # type: ignore[union-attr]
    assert state.t == 3 and state.v == pytest.approx(v)


def test_scalar_adaptive_of_nothing_is_nothing(leaves: tree.Leaves) -> None:
    _, update = RULES["scalar-adaptive"].step(rules.RuleState(), grad((1, 0.0)), leaves)
    assert update == grad((1, 0.0))


def test_steps_do_not_change_the_state_given(leaves: tree.Leaves) -> None:
    """init and step are functions: the same state and estimate give the same update again."""
    for name in ("sgd", "scalar-adaptive"):
        state = rules.RuleState(t=3, v=0.2)
        assert RULES[name].step(state, grad((1, 2.0)), leaves) == RULES[name].step(state, grad((1, 2.0)), leaves)
        assert state == rules.RuleState(t=3, v=0.2)


@pytest.mark.parametrize("law", LAWS)
def test_adam_is_torchs_adam_of_the_estimate(law: Law, leaves: tree.Leaves) -> None:
    """g = sum_i c_i z_i, fp64: equal to torch.optim.Adam to a few roundings, with AdamW's decay."""
    twins = {leaf.name: nn.Parameter(leaf.data.clone()) for leaf in leaves}
    torchs = torch.optim.AdamW(twins.values(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    state = RULES["adam"].init(leaves)
    for step in range(6):
        estimate = grad((step, 0.3 * step - 1), (100 + step, math.sin(step)), law=law)
        state, update = RULES["adam"].step(state, estimate, leaves)
        move.apply(leaves, update, lr=0.01, decay=0.1)
        for leaf in leaves:
            twins[leaf.name].grad = dense(leaves, leaf, estimate)
        torchs.step()
    for leaf in leaves:
        assert torch.allclose(leaf.data, twins[leaf.name], rtol=1e-9, atol=1e-9)  # decay is kept in fp32
    assert state.t == 6


def dense(leaves: tree.Leaves, leaf: tree.Leaf, estimate: SeedGrad) -> Tensor:
    """sum_i c_i z_i on one leaf."""
    width = noise.columns(leaf.data)
    parts = [
        c * noise.draw(leaves.direction(estimate.law, key), leaf.tid, leaf.param.numel(), width=width)
        for key, c in estimate.terms
    ]
    return torch.stack(parts).sum(0).view(leaf.data.shape)


def test_adam_without_decay_is_tight(leaves: tree.Leaves) -> None:
    twins = {leaf.name: nn.Parameter(leaf.data.clone()) for leaf in leaves}
    torchs, state = torch.optim.Adam(twins.values(), lr=0.01), RULES["adam"].init(leaves)
    for step in range(4):
        state, update = RULES["adam"].step(state, grad((step, 1.5 - step)), leaves)
        move.apply(leaves, update, lr=0.01)
        for leaf in leaves:
            twins[leaf.name].grad = dense(leaves, leaf, grad((step, 1.5 - step)))
        torchs.step()
    for leaf in leaves:
        assert torch.allclose(leaf.data, twins[leaf.name], rtol=1e-13, atol=1e-13)


def test_adam_holds_two_copies_of_the_weights_and_the_others_nothing(tiny: Callable[..., nn.Module]) -> None:
    found = tree.find(tiny("gpt2"))
    held = RULES["adam"].init(found).moments
    assert sum(m.numel() * m.element_size() for m in held.values()) == 2 * 4 * found.count
    assert all(m.dtype == torch.float32 and not m.any() for m in held.values())
    assert not RULES["sgd"].init(found).moments and not RULES["scalar-adaptive"].init(found).moments


@pytest.mark.parametrize("name", RULES)
def test_a_state_goes_through_json_and_tensors(name: str, leaves: tree.Leaves) -> None:
    state = RULES[name].init(leaves)
    for step in range(3):
        state, update = RULES[name].step(state, grad((step, 0.1 + step)), leaves)
        move.apply(leaves, update, lr=0.01)
    numbers, moments = rules.to_dict(state)
    again = rules.from_dict(json.loads(json.dumps(numbers)), moments)
    assert (again.t, again.v) == (state.t, state.v)
    assert all(torch.equal(again.moments[key], tensor) for key, tensor in state.moments.items())
