"""A saved adapter is scored on the test rows of the draw that made it."""

from __future__ import annotations

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
        ({"split": "validation"}, "--split validation: a saved adapter may have been trained on these rows"),
        ({"side": "train"}, "--side train: a saved adapter is scored on one task"),
        ({"mixture": "class-to-class"}, "--mixture class-to-class: a saved adapter is scored on one task"),
        ({"seed": 1}, "--seed 1: the test rows of a saved adapter are those that `zofo adapt` takes"),
        ({"draws": 2}, "--draws 2: a saved adapter is of one draw"),
    ):
        with pytest.raises(BadInput, match=told):
            zofo.evaluate(folder, adapter="saved", **options)
