"""Draws of demonstrations are scored one by one, each as `zofo.evaluate` with its own seed would be, and have a mean and an interval."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

import zofo
from zofo.errors import BadInput

FEW: dict[str, Any] = {"data__test_rows": 6, "data__max_length": 40}


def test_each_draw_has_a_score_and_the_record_their_mean(folder: str) -> None:
    found = zofo.evaluate(folder, "reviews", shots=1, draws=3, **FEW)
    record = found["tasks"]["reviews"]
    scores = [draw["result"]["accuracy"] for draw in record["draws"]]
    assert len(scores) == 3 and record["after"]["mean"] == pytest.approx(statistics.fmean(scores))
    assert (
        zofo.evaluate(folder, "reviews", shots=1, draws=2, **FEW)["tasks"]["reviews"]["draws"][0]["result"]
        == (record["draws"][0]["result"])
    ), "fewer draws are a part of more"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"slot": "p"}, "--slot p: with --draws the adapter that the run uses is scored"),
        ({"split": "validation"}, "--split validation: with --draws"),
        ({"side": "train"}, "--side train: with --draws"),
        ({"samples": "x.jsonl"}, "--samples x.jsonl: with --draws every row is answered several times"),
        ({"shots": 0}, "--draws 2: there are no demonstrations to draw"),
    ],
)
def test_what_does_not_go_with_draws(folder: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.evaluate(folder, "reviews", draws=2, **{"shots": 1, **options})
