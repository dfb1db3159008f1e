"""Means over draws with Student's interval, against published quantiles and by coverage."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from zofo import spread


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    values = [float(k) for k in range(freedom + 1)]
    found = spread.of(values)
    assert found.high is not None
    half = (found.high - found.mean) / (statistics.stdev(values) / len(values) ** 0.5)
    assert half == pytest.approx(t, abs=5e-5)


def test_mean_sd_and_interval() -> None:
    values = [0.5, 0.6, 0.55, 0.7, 0.52]
    found = spread.of(values)
    half = 2.776445 * statistics.stdev(values) / 5**0.5
    assert (found.n, found.mean, found.sd) == (5, statistics.fmean(values), statistics.stdev(values))
    assert found.low == pytest.approx(found.mean - half) and found.high == pytest.approx(found.mean + half)


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    assert spread.of([0.25]) == spread.Spread(1, 0.25)
    with pytest.raises(ValueError, match="no values"):
        spread.of([])


@pytest.mark.parametrize("values", [[0.5, math.nan], [math.inf, 1.0, 2.0], [math.inf, -math.inf], [math.nan]])
def test_what_is_not_finite_has_no_interval(values: list[float]) -> None:
    found = spread.of(values)
    assert not math.isfinite(found.mean) and (found.n, found.sd, found.low, found.high) == (
        len(values),
        None,
        None,
        None,
    )


def test_the_interval_holds_the_mean_19_times_in_20() -> None:
    draws = np.random.Generator(np.random.Philox(key=1)).normal(3, 2, (1500, 5))
    found = [spread.of(row) for row in draws.tolist()]
    share = sum(s.low <= 3 <= s.high for s in found if s.low is not None and s.high is not None) / len(found)
    assert 0.93 < share < 0.97


def test_groups_that_differ_are_the_interval_of_their_means_and_one_group_is_its_values() -> None:
    groups = [[0.39, 0.40, 0.41], [0.44, 0.45, 0.46], [0.49, 0.50, 0.51]]
    found, means = spread.nested(groups), spread.of([0.40, 0.45, 0.50])
    assert (found.n, found.mean) == (9, pytest.approx(means.mean))
    assert found.high == pytest.approx(means.high, rel=0.02) and found.low == pytest.approx(means.low, rel=0.02)
    assert spread.nested(groups[:1]) == spread.of(groups[0])
    assert spread.nested([[0.5], [0.7]]) == spread.of([0.5, 0.7])


@pytest.mark.parametrize("by_seed", [0.0, 1.0])
def test_nested_intervals_hold_the_truth(by_seed: float) -> None:
    """Draws of three seeds; taken as independent, where the seeds differ, they would hold it in two of three cases."""
    rng = np.random.default_rng(3)
    held = [by_seed * rng.normal(size=(3, 1)) + rng.normal(size=(3, 5)) for _ in range(600)]
    found = [spread.nested([list(map(float, group)) for group in case]) for case in held]
    share = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.915 <= share <= 0.985, share
