"""The probe size against known errors, and the rate on quadratics whose best rate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zofo.tune import zeroth
from zofo.tune.zeroth import Line


def line(f, sizes: tuple[float, ...], rounding: float = 0.0, seed: int = 0) -> Line:
    """Values of a function of a; with an error of its own at each point."""
    draw = np.random.default_rng(seed)
    points = [0.0, *(s * eps for eps in sizes for s in (1, -1))]
    return Line({a: f(a) + rounding * draw.standard_normal() for a in points})


def test_slope_and_bend_of_a_cubic() -> None:
    made = line(lambda a: 1 + 2 * a + 3 * a * a + 4 * a**3, (0.1,))
    assert made.slope(0.1) == pytest.approx(2 + 4 * 0.01)
    assert made.slope(0.1, forward=True) == pytest.approx(2 + 3 * 0.1 + 4 * 0.01)
    assert made.bend(0.1) == pytest.approx(6)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.1])
def test_the_errors_are_those_that_were_put_in(eps: float, forward: bool) -> None:
    """Rounding 1e-4 a value, and a third (forward: second) derivative: both parts of the error are known."""
    rounding, bend, cubic = 1e-4, 0.3, 0.0 if forward else 6.0
    three = zeroth.sizes(eps)
    lines = [line(lambda a: 2 * a + bend * a * a + cubic * a**3, three, rounding, k) for k in range(400)]
    for x, found in zeroth.errors(lines, three, forward).items():
        c = bend * x if forward else cubic * x * x
        noise = rounding * math.sqrt(2) / x if forward else rounding / (math.sqrt(2) * x)
        true = (c * c + noise * noise) / 4
        if true > 3e-5:
            assert true / 2 < found < true * 2, x


def test_the_size_goes_where_rounding_and_bending_balance() -> None:
    def best(eps: float, rounding: float) -> float:
        for _ in range(4):
            lines = [line(lambda a: a + 50 * a**3, zeroth.sizes(eps), rounding, k) for k in range(5)]
            eps = zeroth.better(zeroth.errors(lines, zeroth.sizes(eps)), eps)
        return eps

    # A = rounding^2 / 2, B = 50^2: lowest at eps^6 = A / (2 B)
    for rounding in (1e-3, 1e-2):
        there = (rounding**2 / 4 / 2500) ** (1 / 6)
        for start in (there / 20, there * 5):
            assert there / 3.2 < best(start, rounding) < there * 3.2


def test_a_size_that_is_good_enough_is_kept_and_one_that_is_not_finite_left() -> None:
    exact = [line(lambda a: 2 * a + a * a, zeroth.sizes(1e-3))]
    assert zeroth.better(zeroth.errors(exact, zeroth.sizes(1e-3)), 1e-3) == 1e-3
    still = [line(lambda a: 1.0, zeroth.sizes(1e-3))]
    assert zeroth.better(zeroth.errors(still, zeroth.sizes(1e-3)), 1e-3) == 1e-3
    broken = [line(lambda a: a if abs(a) < 1e-3 else math.nan, zeroth.sizes(1e-3))]
    assert zeroth.better(zeroth.errors(broken, zeroth.sizes(1e-3)), 1e-3) == 3e-4


def quadratic(d: int, n: int, apart: float = 0.0) -> tuple[list[Line], list[Line], float]:
    """Lines of f(x) = x'Hx / 2 at a point, on two batches whose gradients differ by noise; and the best rate of c z."""
    draw = np.random.default_rng(1)
    h, x = draw.uniform(0.5, 2.0, d), draw.standard_normal(d)
    first, second = [], []
    square = float((h * x) @ (h * x))
    for _ in range(n):
        z = draw.standard_normal(d)
        for lines in (first, second):
            g = h * x + apart * math.sqrt(square / d) * draw.standard_normal(d)
            lines.append(line(lambda a, g=g, z=z: a * float(g @ z) + a * a / 2 * float(h @ (z * z)), (1.0,)))
    # E[c c'] = |g|^2, E[c^2 z'Hz] = |g_b|^2 tr H + 2 g_b'H g_b, g_b the gradient of a batch
    batch = square * (1 + apart**2)
    pull = batch * h.sum() + 2 * (float((h * x) @ (h * h * x)) + apart**2 * square / d * h.sum())
    return first, second, square / pull


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_the_rate_is_half_of_the_one_that_lowers_a_quadratic_most(apart: float) -> None:
    first, second, best = quadratic(64, 4000, apart)
    found = zeroth.rate(first, second, 1.0)
    assert found is not None and not found.bounded
    assert found.lr == pytest.approx(best / 2, rel=0.1)
    assert found.share == pytest.approx(1 / (1 + apart**2), rel=0.1)
    four = zeroth.rate(first, second, 1.0, q=4)
    assert four is not None and four.lr == pytest.approx(4 * found.lr)


def test_five_directions_say_it_within_a_factor_of_two() -> None:
    first, second, best = quadratic(500, 200)
    for i in range(0, 200, 5):
        found = zeroth.rate(first[i : i + 5], second[i : i + 5], 1.0)
        assert found is not None and best / 4 < found.lr < best


def test_a_step_is_no_longer_than_the_probe_and_nothing_is_no_rate() -> None:
    straight = [line(lambda a: 3 * a, (1e-3,))]
    found = zeroth.rate(straight, straight, 1e-3)
    assert found is not None and found.bounded and found.lr == pytest.approx(zeroth.REACH * 1e-3 / 3)
    still = [line(lambda a: 1.0, (1e-3,))]
    many = zeroth.rate(straight, straight, 1e-3, steps=100)
    assert many is not None and many.bounded and many.lr == pytest.approx(found.lr / 10), "a random walk of 100 steps"
    four = zeroth.rate(straight, straight, 1e-3, q=4)
    assert four is not None and four.bounded and four.lr == pytest.approx(2 * found.lr), (
        "the mean of four is half as long"
    )
    assert zeroth.rate(still, still, 1e-3) is None


def test_steps_of_two_kinds_walk_as_far_together() -> None:
    """A look in one of ten, with a c of its own: sum over steps of (lr c)^2 = (REACH eps)^2."""
    looks, others = [line(lambda a: 30 * a, (1e-3,))], [line(lambda a: 3 * a, (1e-3,)), line(lambda a: 4 * a, (1e-3,))]
    found = zeroth.rate(looks, looks, 1e-3, 1, 6, others, 54)
    assert found is not None and found.bounded
    walked = 6 * 30**2 + 54 * (3**2 + 4**2) / 2
    assert found.lr**2 * walked == pytest.approx((zeroth.REACH * 1e-3) ** 2)
    assert found.rms == pytest.approx(math.sqrt(walked / 60))
    alone = zeroth.rate(looks, looks, 1e-3, steps=60)
    assert alone is not None and found.lr > 2 * alone.lr
