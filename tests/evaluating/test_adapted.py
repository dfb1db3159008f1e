"""A saved adapter is scored on the test rows of the draw that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zofo
from zofo.errors import BadInput


def test_it_has_the_score_of_its_draw_and_refuses_what_does_not_go_with_it(folder: str) -> None:
    few: dict[str, Any] = {"data__test_rows": 6, "data__max_length": 64}
    made = zofo.adapt(folder, "reviews", shots=2, steps=2, draws=1, out="saved", **few)
    (draw,) = made["tasks"]["reviews"]["draws"]
    found = zofo.evaluate(folder, adapter="saved")
    assert found["results"]["adapter"] == draw["result"] and found["used"] == "adapter" and found["adapter"] == "lora"
    for options, told in (
        ({"split": "validation"}, "split=validation: a saved adapter may have been trained on these rows"),
        ({"side": "train"}, "side=train: a saved adapter is scored on one task"),
        ({"mixture": "class-to-class"}, "mixture=class-to-class: a saved adapter is scored on one task"),
        ({"seed": 1}, "seed=1: the test rows of a saved adapter are those that `zofo adapt` takes"),
        ({"draws": 2}, "draws=2: a saved adapter is of one draw"),
    ):
        with pytest.raises(BadInput, match=told):
            zofo.evaluate(folder, adapter="saved", **options)


def test_a_file_that_is_named_is_scored_whole(folder: str, place: Path) -> None:
    rows = [f"Film {k} was {'good' if k % 2 else 'bad'},{'yes' if k % 2 else 'no'}\n" for k in range(30)]
    (place / "own.csv").write_text("text,label\n" + "".join(rows[:20]), encoding="utf-8")
    (place / "fresh.csv").write_text("text,label\n" + "".join(rows[20:]), encoding="utf-8")
    few: dict[str, Any] = {"data__train": "own.csv", "data__test_rows": 3, "data__max_length": 64}
    zofo.adapt(folder, shots=2, steps=1, draws=1, out="own", **few)
    assert zofo.evaluate(folder, adapter="own")["results"]["adapter"]["n"] == 3
    assert zofo.evaluate(folder, adapter="own", data__test="fresh.csv")["results"]["adapter"]["n"] == 10
    found = zofo.evaluate(folder, adapter="own", data__test="fresh.csv", data__test_rows=4)
    assert found["results"]["adapter"]["n"] == 4
