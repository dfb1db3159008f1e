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
