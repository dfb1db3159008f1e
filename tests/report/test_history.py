"""What the metrics rows are asked for."""

from __future__ import annotations

import pytest

from zofo.report import history


def test_kinds_best_and_totals(metrics) -> None:
    rows = metrics()
    assert len(history.steps(rows)) == 30 and [row["step"] for row in history.validations(rows)] == [10, 20, 30]
    assert history.best(rows)["step"] == 20 and history.best([]) is None
    assert history.passes(rows) == (26 * 30, 20 * 30) and history.passes([]) == (0, 0)
    assert history.slots(history.best(rows)) == ["p", "s"]


def test_validation_loss_is_that_of_what_is_used() -> None:
    row = {"p": {"loss": 0.4}, "s": {"loss": 0.3}}
    assert history.validation_loss({**row, "used": "p"}) == 0.4
    assert history.validation_loss(row) == 0.3
    assert history.validation_loss({"kind": "validation"}) is None
    assert history.validation_loss({"p": {"loss": 0.4, "f1": 0.7}, "used": "p", "by": "f1"}) == 0.7


def test_series_leaves_out_what_is_not_there() -> None:
    steps, values = history.series([{"step": 1, "A": 2.0}, {"step": 2}, {"step": 3, "A": "nan"}], "A")
    assert steps == [1, 3] and values[0] == 2.0 and values[1] != values[1]


@pytest.mark.parametrize(("p", "s", "lags"), [(0.80, 0.86, True), (0.80, 0.85, False), (0.86, 0.80, False)])
def test_lag(p: float, s: float, lags: bool) -> None:
    text = history.lag({"step": 7, "p": {"accuracy": p}, "s": {"accuracy": s}})
    assert (text is not None) == lags
    if text:
        assert "6 points" in text and "step 7" in text
    assert history.lag({"p": {"accuracy": 0.1}}) is None


def test_the_lag_is_that_of_the_first_metric_and_names_it() -> None:
    s = {"n": 9, "loss": 0.2, "f1": 0.8, "f1_se": 0.01, "em": 0.5, "em_se": 0.1}
    told = history.lag({"step": 7, "p": {**s, "f1": 0.7}, "s": s})
    assert told is not None and "by 10 points of validation F1 at step 7" in told
    assert history.lag({"step": 7, "p": {**s, "em": 0.1}, "s": s}) is None
    assert history.lag({"step": 7, "p": {"loss": 9.0}, "s": s}) is None, "not scored by it"


def scored(accuracy: float, n: int) -> dict[str, float]:
    return {"n": n, "accuracy": accuracy, "accuracy_se": (accuracy * (1 - accuracy) / n) ** 0.5}


@pytest.mark.parametrize(
    ("p", "s", "n", "lags"), [(0.76, 0.87, 168, True), (0.76, 0.85, 168, False), (0.76, 0.87, 60, False)]
)
def test_a_lag_on_few_rows_is_told_where_it_is_two_and_a_half_errors(p: float, s: float, n: int, lags: bool) -> None:
    assert (history.lag({"step": 7, "p": scored(p, n), "s": scored(s, n)}) is not None) == lags


@pytest.mark.parametrize(
    ("p", "s", "error", "lags"),
    [
        (3.0, 0.5, 0.1, True),
        (0.75, 0.5, 0.01, True),
        (0.65, 0.5, 0.01, False),  # under 0.2 nats
        (2.9, 2.5, 0.01, False),  # under a fifth
        (1.0, 0.5, 0.2, False),  # noise of a few rows
        (0.5, 3.0, 0.1, False),
        (float("inf"), 0.5, 0.1, False),
    ],
)
def test_where_there_is_no_metric_p_lags_by_its_loss(p: float, s: float, error: float, lags: bool) -> None:
    """As in the validation of free answers, which are not written there."""
    told = history.lag({"step": 7, "p": {"loss": p, "loss_se": error}, "s": {"loss": s, "loss_se": error}})
    assert (told is not None) == lags
    if told:
        assert f"by {p - s:.2g} nats of validation loss at step 7" in told


def rows_of(*c: object) -> list[dict[str, object]]:
    return [{"kind": "step", "step": k, "c": value} for k, value in enumerate(c, 1)]


def test_a_run_whose_probes_mostly_changed_no_answer_says_so() -> None:
    told = history.still([*rows_of(0.0, 0.0, 2.0, -0.0, 0.0), {"kind": "validation", "step": 5}])
    assert told is not None and told.startswith("c was exactly 0 in 4 of 5 steps")
    assert "--batch" in told and "--method.eps" in told


@pytest.mark.parametrize("c", [(0.0, 1.0), (1e-30, 0.0, 1e-30), (3.0, 2.0), ("nan", "inf", 0.0), ()])
def test_a_run_that_mostly_moved_says_nothing_of_it(c: tuple[object, ...]) -> None:
    assert history.still(rows_of(*c)) is None
    assert history.still([{"kind": "step", "step": 1, "loss_p": 0.5}]) is None, "first order has no c"
