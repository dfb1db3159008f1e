"""Intervals of paired differences: a known case, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from zofo.experiment.bootstrap import averaged, draw, interval, nested, two_way


def test_one_seed_is_the_paired_interval_of_the_mean() -> None:
    """Over rows alone: mean +- 1.96 standard errors, which the bootstrap of 2,000 rows has within its own noise."""
    d = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=2000, p=[0.1, 0.7, 0.2])
    found = interval(draw([d], True, 4000))
    half = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
    assert found.mean == pytest.approx(d.mean()) and found.seeds == 1
    assert (found.low, found.high) == (
        pytest.approx(d.mean() - half, abs=half / 15),
        pytest.approx(d.mean() + half, abs=half / 15),
    )


def test_seeds_alone_give_the_t_interval() -> None:
    """Rows that all say the same leave the seeds: mean +- t s / sqrt(n)."""
    means = np.array([0.01, 0.03, 0.02, 0.05, 0.04])
    found = interval(draw([np.full(50, m) for m in means], True, 4000))
    half = t.ppf(0.975, 4) * means.std(ddof=1) / np.sqrt(5)
    assert found.low == pytest.approx(means.mean() - half, abs=half / 6)
    assert found.high == pytest.approx(means.mean() + half, abs=half / 6)


def test_equal_rows_differ_by_nothing() -> None:
    found = interval(draw([np.zeros(9)] * 3, True, 200))
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_the_draws_are_the_same_every_time() -> None:
    d = [np.random.default_rng(k).normal(size=30) for k in range(3)]
    assert interval(draw(d, True, 300)) == interval(draw(d, True, 300)) != interval(draw(d, False, 300))


def simulated(rng: np.random.Generator, crossed: bool, n: int, m: int, by_seed: float = 0.02) -> list[np.ndarray]:
    """Differences with the mean 0.02: seeds, rows and single answers vary."""
    seeds, rows = rng.normal(0, by_seed, n), rng.normal(0, 0.2, m)
    return [0.02 + s + (rows if crossed else rng.normal(0, 0.2, m)) + rng.normal(0, 0.3, m) for s in seeds]


@pytest.mark.parametrize("crossed", [True, False])
def test_the_variance_is_that_of_the_mean(crossed: bool) -> None:
    """The estimated variance of a mean, on average, is the variance of means (a seed's part is seldom cut at 0 here)."""
    rng = np.random.default_rng(1)
    made = [simulated(rng, crossed, 5, 60, 0.1) for _ in range(600)]
    means = [np.mean([d.mean() for d in held]) for held in made]
    estimate = two_way if crossed else nested
    found = np.mean([estimate(np.stack(held)).variance.whole for held in made])
    assert found == pytest.approx(np.var(means), rel=0.15)


@pytest.mark.parametrize("crossed", [True, False])
@pytest.mark.parametrize(("n", "by_seed"), [(2, 0.05), (3, 0.1), pytest.param(5, 0.02, marks=pytest.mark.slow)])
def test_95_percent_intervals_hold_the_truth_in_95_percent_of_cases(n: int, by_seed: float, crossed: bool) -> None:
    """Seeds that differ about as much as their rows let them: with too many degrees of freedom it is 88 % of three, and of two it is 90."""
    rng = np.random.default_rng(n)
    cases = [interval(draw(simulated(rng, crossed, n, 60, by_seed), crossed, 120, k)) for k in range(300)]
    share = np.mean([c.low <= 0.02 <= c.high for c in cases])
    assert 0.905 - 0.03 * (n == 2) <= share <= 0.985, share


@pytest.mark.parametrize(
    ("tasks", "n", "together"),
    [(3, 3, 1.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 3, 0.0), (6, 3, 0.5), (6, 3, 1.0)))],
)
def test_intervals_of_a_mean_over_tasks_hold_the_truth_as_often(tasks: int, n: int, together: float) -> None:
    """However much a seed does on one task of what it does on the others: taken as independent it is 80 % where it does the same."""
    rng = np.random.default_rng(tasks * n)
    cases = []
    for k in range(300):
        common = rng.normal(0, 0.1, n)
        parts = []
        for _ in range(tasks):
            seeds = np.sqrt(together) * common + np.sqrt(1 - together) * rng.normal(0, 0.1, n)
            rows = rng.normal(0, 0.2, 60)
            parts.append(draw([0.02 + s + rows + rng.normal(0, 0.3, 60) for s in seeds], True, 200, k))
        cases.append(interval(averaged(parts)))
    share = np.mean([c.low <= 0.02 <= c.high for c in cases])
    assert 0.895 <= share <= 0.985, share  # 91 to 95 % of many more


def test_a_mean_over_tasks_has_the_same_seeds_on_all() -> None:
    parts = [draw([np.zeros(5)] * n, True, 20) for n in (2, 3)]
    with pytest.raises(ValueError, match=r"tasks with \[2, 3\] seeds"):
        averaged(parts)


def test_a_mean_over_tasks() -> None:
    """Two tasks with independent rows: the half-widths add as variances do, over two."""
    rng = np.random.default_rng(2)
    parts = [draw([rng.normal(0.1, 1, 1000)], True, 3000, seed=k) for k in range(2)]
    one, two = (interval(part) for part in parts)
    whole = interval(averaged(parts))
    assert whole.mean == pytest.approx((one.mean + two.mean) / 2)
    assert whole.high - whole.low == pytest.approx(np.hypot(one.high - one.low, two.high - two.low) / 2, rel=0.07)
