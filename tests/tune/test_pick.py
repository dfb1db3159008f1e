"""Which rate is tried next, and which is taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zofo.tune import pick

ROWS = 16
BEFORE = [0.7 + 0.01 * (k % 4) for k in range(ROWS)]
Curve = Callable[[float], pick.Losses]


def even(loss: float) -> list[float]:
    """Rows that differ from those before training by the same number but for a little noise."""
    return [b - 0.7 + loss + 1e-3 * (k % 2) for k, b in enumerate(BEFORE)]


def searched(curve: Curve, first: float) -> dict[float, pick.Losses]:
    tried: dict[float, pick.Losses] = {}
    while len(tried) < pick.MOST and (lr := pick.wanted(tried, first)) is not None:
        tried[lr] = curve(lr)
    return tried


def valley(lr: float) -> pick.Losses:
    """Falls to a lowest loss at 1e-3; from 1e-2 on it is not finite."""
    if lr > 1e-2:
        return None
    return even(0.3 + 0.4 * abs(1 - min(lr / 1e-3, 2 - 1e-3 / lr)))


@pytest.mark.parametrize("first", [1e-5, 1e-4, 1e-3, 3e-3, 0.1])
def test_the_search_goes_to_the_valley_from_either_side(first: float) -> None:
    tried = searched(valley, first)
    lead = pick.best(tried)
    assert lead is not None and 1e-3 / 2 < lead < 2e-3
    assert max(tried) > lead, "the other side was seen"
    assert 1e-3 / 4 <= pick.choose(tried, BEFORE, first).lr <= 2e-3


def test_the_largest_within_noise_is_taken_and_halved_beside_a_divergence() -> None:
    tried: dict[float, pick.Losses] = {
        1e-4: even(0.5),
        3e-4: even(0.3),
        9e-4: [x + 0.01 * (-1) ** k for k, x in enumerate(even(0.3))],
    }
    assert pick.choose(tried, BEFORE, 1e-4).lr == 9e-4
    found = pick.choose({**tried, 2.7e-3: None}, BEFORE, 1e-4)
    assert (found.lr, found.tried) == (4.5e-4, 9e-4) and "diverges" in found.why
    assert pick.choose({**tried, 2.7e-3: even(0.9)}, BEFORE, 1e-4).lr == 4.5e-4, "worse than without training"
    assert pick.choose({**tried, 2.7e-3: even(0.5)}, BEFORE, 1e-4).lr == 9e-4, "worse than the best alone"


@pytest.mark.parametrize(("longer", "share"), [(1.0, 1.0), (4.0, 0.5), (1e6, 0.25)])
def test_a_longer_run_gets_less(longer: float, share: float) -> None:
    assert pick.choose({1e-3: even(0.3)}, BEFORE, 1e-3, longer).lr == pick.rounded(1e-3 * share)


def test_where_nothing_can_be_told_the_configured_rate_is_kept_unless_it_hurts() -> None:
    flat: dict[float, pick.Losses] = {1e-4: BEFORE, 3e-4: BEFORE}
    assert pick.choose(flat, BEFORE, 1e-4).lr == 1e-4
    assert pick.choose({**flat, 9e-4: even(0.9)}, BEFORE, 9e-4).lr == 3e-4
    assert pick.choose({1e-4: None, 3e-5: even(0.9)}, BEFORE, 1e-4).lr == 1e-5


def test_one_row_is_enough_to_choose() -> None:
    assert pick.choose({1e-4: [0.6], 3e-4: [0.5]}, [0.7], 1e-4).lr == 3e-4
