"""Estimators as mathematics: bias order, mean, variance of each law, signs, cost in forward passes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.estimate import ESTIMATORS, Estimate, central, forward
from zofo.core.noise import LAWS, Direction, Law
from zofo.core.probe import Point
from zofo.core.probe.scratch import Scratch
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights import move

SIGMAS = 5  # all draws are fixed


def directions(model: nn.Module, law: Law, keys: Sequence[int]) -> list[Direction]:
    """Directions over a model's leaves."""
    leaves = tree.find(model)
    return [leaves.direction(law, key) for key in keys]


def vector(model: nn.Module, z: Direction) -> Tensor:
    """z over the one leaf `theta`, fp64 (drawn in fp32, by the kernel: much faster than the reference)."""
    (leaf,) = tree.find(model)
    zero = torch.zeros(leaf.param.shape)
    return noise.perturb(zero, zero, z, 1.0, leaf.tid).double()


@functools.cache
def estimates(model: nn.Module, law: Law, n: int, eps: float, estimator: Callable[..., Estimate] = central) -> Tensor:
    """n independent estimates c z of a model's gradient, one probe each, (n, d)."""
    zs = directions(model, law, range(n))
    made = estimator(Scratch(model, tree.find(model)), model, zs, eps)
    return torch.stack([n * c * vector(model, z) for c, z in zip(made.grad.coefficients, zs, strict=True)])


def order(estimator: Callable[..., Estimate], bowl: Any) -> float:
    """The slope of log |c - g.z| against log eps."""
    sizes = np.array([0.2, 0.1, 0.05, 0.025, 0.0125])
    (z,) = directions(bowl, "gaussian", [3])
    exact = float(bowl.gradient() @ vector(bowl, z))
    probe = Scratch(bowl, tree.find(bowl))
    errors = [abs(estimator(probe, bowl, [z], eps).grad.coefficients[0] - exact) for eps in sizes]
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def test_centrals_bias_falls_as_eps_squared(bowl: Any) -> None:
    assert order(central, bowl) == pytest.approx(2, abs=0.1)


def test_forwards_bias_falls_as_eps(bowl: Any) -> None:
    assert order(forward, bowl) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_is_the_gradient(name: str, law: Law, bowl: Any) -> None:
    """Within sampling error in every coordinate, and in length; forward at an eps where its bias is small."""
    made = estimates(bowl.float(), law, 1500, 1e-4, ESTIMATORS[name])
    error = (made.mean(0) - bowl.gradient()) / (made.std(0) / math.sqrt(len(made)))
    assert float(error.abs().max()) < SIGMAS
    cosine = torch.cosine_similarity(made.mean(0), bowl.gradient(), dim=0)
    assert float(cosine) > 0.98


@pytest.mark.parametrize("law", LAWS)
def test_the_variance_is_the_laws(law: Law, slope: Any) -> None:
    """For a linear f: E |c z|^2 = (d + 2) |g|^2 for Gaussian, d |g|^2 for Rademacher and Sphere."""
    made, d = estimates(slope, law, 4000, 0.5), len(slope.g)
    square, g2 = (made**2).sum(1), float(slope.g.double() @ slope.g.double())
    want = (d + 2 if law == "gaussian" else d) * g2
    assert abs(float(square.mean()) - want) < 4 * float(square.std()) / math.sqrt(len(made))
    assert abs(float(square.mean()) / want - 1) < 0.1, "and the error is small enough to tell d from d + 2"


@pytest.mark.parametrize("law", LAWS)
def test_q_probes_divide_the_variance_by_q(law: Law, slope: Any) -> None:
    """The trace of the covariance of estimates by q = 4 probes is a quarter of that by one."""
    probe, n, q = Scratch(slope, tree.find(slope)), 600, 4
    singles = estimates(slope, law, 4000, 0.5)[: q * n]  # along the same directions
    several = []
    for i in range(n):
        zs = directions(slope, law, range(q * i, q * i + q))
        made = central(probe, slope, zs, 0.5)
        several.append(sum(c * vector(slope, z) for c, z in zip(made.grad.coefficients, zs, strict=True)))
    spread = float(torch.stack(several).var(0).sum())
    assert float(singles.var(0).sum()) / spread == pytest.approx(q, rel=0.15)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_signs(name: str, bowl: Any) -> None:
    """c is positive along an ascent direction, and theta <- theta - lr c z lowers the loss whatever z is."""
    probe = Scratch(bowl, tree.find(bowl))
    for key in range(20):
        (z,) = directions(bowl, "gaussian", [key])
        made = ESTIMATORS[name](probe, bowl, [z], 1e-5)
        assert (made.grad.coefficients[0] > 0) == (float(bowl.gradient() @ vector(bowl, z)) > 0)
        before, held = float(bowl().detach()), bowl.theta.detach().clone()
        move.apply(tree.find(bowl), made.grad, lr=1e-3)
        assert float(bowl().detach()) < before
        bowl.theta.data.copy_(held)


class Counted:
    """A probe that evaluates a function of the point, and notes the points."""

    def __init__(self, value: Callable[[Point], Sequence[float]]) -> None:
        self.value, self.points = value, list[Point]()

    def __call__(self, objective: Any, points: Sequence[Point]) -> Tensor:
        self.points += points
        return torch.tensor([self.value(point) for point in points], dtype=torch.float64)


def zs(q: int) -> list[Direction]:
    """Directions with keys 1 to q."""
    return [Direction("gaussian", key) for key in range(1, q + 1)]


@pytest.mark.parametrize("q", [1, 2, 5])
def test_cost_in_evaluations(q: int, bowl: Any) -> None:
    """2 q for central, q + 1 for forward: what `calls` says, what the probe is asked, what is run."""
    for name, cost in (("central", 2 * q), ("forward", q + 1)):
        counted = Counted(lambda point: [point.a])
        assert ESTIMATORS[name](counted, lambda: None, zs(q), 0.1).calls == cost == len(counted.points)
        runs: list[int] = []

        def objective(runs: list[int] = runs) -> Tensor:
            runs.append(1)
            return bowl()

        ESTIMATORS[name](Scratch(bowl, tree.find(bowl)), objective, directions(bowl, "gaussian", range(q)), 0.1)
        assert len(runs) == cost


def test_central_in_numbers() -> None:
    """Two terms, two directions, by hand: f_t at a = t a key, and weights (1, 10)."""
    counted = Counted(lambda point: [point.a * point.z.key, 5 + 2 * point.a * point.z.key])  # type: ignore[union-attr]
    made = central(counted, lambda: None, zs(2), 0.1, (1.0, 10.0))
    assert counted.points == [Point(z, a) for z in zs(2) for a in (0.1, -0.1)]
    assert made.grad == SeedGrad("gaussian", ((1, pytest.approx(21 / 2)), (2, pytest.approx(42 / 2))))  # type: ignore[arg-type]
    assert made.terms == (pytest.approx(0), pytest.approx(5))
    assert made.by_term == (pytest.approx(1.5), pytest.approx(3))
    assert made.finite


def test_forward_in_numbers() -> None:
    counted = Counted(lambda point: [3 + point.a * (point.z.key if point.z else 0), 7 - point.a])
    made = forward(counted, lambda: None, zs(2), 0.1, (1.0, 10.0))
    assert counted.points == [Point(), *(Point(z, 0.1) for z in zs(2))]
    assert made.grad.coefficients == (pytest.approx((1 - 10) / 2), pytest.approx((2 - 10) / 2))
    assert made.terms == (3, 7)
    assert made.by_term == (pytest.approx(1.5), pytest.approx(-1))


def test_all_terms_see_one_z(bowl: Any) -> None:
    """A term that is subtracted from itself leaves nothing, bit for bit: c_i is of f, not of noise."""
    probe = Scratch(bowl, tree.find(bowl))
    made = central(probe, lambda: torch.stack([bowl(), bowl()]), directions(bowl, "gaussian", [1]), 0.1, (1e6, -1e6))
    assert made.grad.coefficients == (0.0,)


def turn(values: Iterator[list[float]], point: Point) -> list[float]:
    """The next value, whatever the point."""
    return next(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_that_is_not_finite_is_said(name: str, bad: float) -> None:
    """Wherever it happens: at theta, at either sign, at any direction, in any term."""
    places = 2 * 3 if name == "central" else 3 + 1
    for place in range(places):
        for term in (0, 1):
            values = [[0.0, 0.0] for _ in range(places)]
            values[place][term] = bad
            counted = Counted(functools.partial(turn, iter(values)))
            assert not ESTIMATORS[name](counted, lambda: None, zs(3), 0.1, (1.0, 1.0)).finite
    assert ESTIMATORS[name](Counted(lambda point: [1e300, 0.0]), lambda: None, zs(3), 0.1, (1.0, 1.0)).finite
    huge = ESTIMATORS[name](Counted(lambda point: [1e308 * (point.a > 0), 0.0]), lambda: None, zs(1), 1e-3, (1.0, 1.0))
    assert not huge.finite, "finite losses whose difference is not"
