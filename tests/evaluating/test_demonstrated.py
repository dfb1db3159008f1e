"""Draws of demonstrations are scored one by one, each as `zofo.evaluate` with its own seed would be, and have a mean and an interval."""

from __future__ import annotations

import statistics
from pathlib import Path
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
        ({"slot": "p"}, "slot=p: with `draws` the adapter that the run uses is scored"),
        ({"split": "validation"}, "split=validation: with `draws`"),
        ({"side": "train"}, "side=train: with `draws`"),
        ({"samples": "x.jsonl"}, "samples=x.jsonl: with `draws` every row is answered several times"),
        ({"shots": 0}, "draws=2: there are no demonstrations to draw"),
    ],
)
def test_what_does_not_go_with_draws(folder: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        zofo.evaluate(folder, "reviews", draws=2, **{"shots": 1, **options})


def test_a_runs_own_task_needs_no_name_and_is_scored_on_the_runs_own_test_rows(
    home: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one file, a fifth of it set apart by the run's seed: without demonstrations they score as `zofo.evaluate` has it."""
    monkeypatch.chdir(home)
    lines = [f"film {k} was {'great' if k % 3 else 'dull'},{'good' if k % 3 else 'bad'}" for k in range(60)]
    (home / "mine.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    options = {"data__train": "mine.csv", "data__text_column": "text", "data__label_column": "label", "seed": 3}
    few = {"data__train_rows": 12, "data__validation_rows": 4, "data__test_rows": 7, "data__batch": 2}
    zofo.train(folder, preset="fo-lora", steps=2, run="own", model__dtype="fp32", **options, **few)
    plain = zofo.evaluate("own")["results"]["p"]
    (record,) = zofo.evaluate("own", shots=2, draws=2)["tasks"].values()
    assert plain["n"] == record["before"]["n"] == 7
    assert record["before"]["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    with pytest.raises(BadInput, match="no task was named for it"):
        zofo.evaluate(folder, shots=2, draws=2)


def test_which_checkpoint_is_refused_of_a_model(folder: str) -> None:
    for where in ({"task": "reviews"}, {"mixture": "class-to-class"}):
        with pytest.raises(BadInput, match=r"which=last: .* is a model"):
            zofo.evaluate(folder, shots=1, draws=1, which="last", **where)
