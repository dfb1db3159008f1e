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
