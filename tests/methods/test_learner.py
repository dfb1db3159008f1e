"""A learner is torch's optimizer with clipping and a schedule."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

from zofo.methods.learner import Learner, rate


def test_rates() -> None:
    assert [rate(t, 1.0, "constant", 4, 10) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [rate(t, 1.0, "linear", 0, 4) for t in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    cosine = [rate(t, 2.0, "cosine", 0, 4) for t in range(5)]
    assert cosine[0] == 2.0 and cosine[2] == pytest.approx(1.0) and cosine[4] == pytest.approx(0.0)
    assert all(a > b for a, b in itertools.pairwise(cosine))


def learner(params: list[torch.nn.Parameter], clip: float = 0.0, kind: str = "adam") -> Learner:
    return Learner(params, kind, 1e-2, "constant", 0, 10, clip)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_steps_are_torchs(kind: str) -> None:
    mine, theirs = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]([theirs], lr=1e-2)
    own = learner([mine], kind=kind)
    for k in range(4):
        grad = torch.linspace(-1, 1, 5) * (k + 1)
        assert own.step([grad])
        theirs.grad = grad.clone()
        optimizer.step()
    assert torch.equal(mine, theirs)


def test_clipping_bounds_the_norm_over_all_tensors() -> None:
    params = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    own = Learner(params, "sgd", 1.0, "constant", 0, 1, 0.5)
    own.step([torch.full((3,), 4.0), torch.full((2,), -4.0)])
    moved = torch.cat([p.detach() for p in params])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(bad: float) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    own = learner([param], clip=1.0)
    assert not own.step([torch.tensor([1.0, bad, 0.0])])
    assert torch.equal(param, torch.ones(3)) and own.t == 1
    assert own.step([torch.ones(3)])


def test_checkpoints_continue_with_the_same_bits() -> None:
    one, two = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    first, second = learner([one]), learner([two])
    for k in range(3):
        first.step([torch.full((4,), 0.1 * (k + 1))])
    with torch.no_grad():
        two.copy_(one)
    second.from_checkpoint(*first.to_checkpoint())
    for own in (first, second):
        own.step([torch.full((4,), -0.3)])
    assert torch.equal(one, two)


def test_moments_go_with_the_learner_and_wait_for_no_collection() -> None:
    param = nn.Parameter(torch.zeros(3))
    learner = Learner([param], "adam", 1e-2, "constant", 0, 1, 0.0)
    learner.step([torch.ones(3)])
    moment = weakref.ref(learner.optimizer.state[param]["exp_avg"])
    gc.disable()
    try:
        del learner
        assert moment() is None
    finally:
        gc.enable()
