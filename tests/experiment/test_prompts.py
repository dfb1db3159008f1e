"""Rows with and without the hard prompt, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.experiment import cells, table, text
from zofo.experiment.store import Store
from zofo.run.jsonfile import write_json


def test_rows_that_differ_in_the_prompt_alone_are_put_side_by_side(full) -> None:
    found = table.tabulate(*full)
    assert [(e["row"], e["without"], e["task"]) for e in found["prompt"]] == [
        ("base", "bare", "sst2"),
        ("base", "bare", "rte"),
    ]
    assert found["prompt"][0]["drop"] == pytest.approx(0.25)


def test_the_prompt_is_compared_on_the_seeds_that_both_have(full) -> None:
    made, store, whole = full
    for cell in whole:
        if (cell.row, cell.task, cell.seed) in (
            ("bare", "sst2", 0),
            ("base", "rte", 0),
            ("bare", "rte", 1),
            ("bare", "rte", 2),
        ):
            (store.cells / f"{cell.name}.json").unlink()
    (held,) = table.tabulate(made, store, whole)["prompt"]
    assert (held["task"], held["seeds"]) == ("sst2", 2), "on rte no seed has both"
    assert held["scores"] == [pytest.approx(0.575), pytest.approx(0.325)]
    assert held["difference"]["mean"] == pytest.approx(-held["drop"]) and held["difference"]["seeds"] == 2
    assert held["difference"]["low"] < -0.25 < held["difference"]["high"] < 0
    rows = text.prompt({"prompt": [held], "seeds": made.seeds})[2]
    assert rows[0][:5] == ["base", "sst2", "57.5", "32.5", "2 of 3"] and rows[0][5].startswith("-25.0 [")
    assert text.prompt({"prompt": [{**held, "difference": None}], "seeds": made.seeds})[2][0][5] == "-25.0"


def test_a_row_without_the_prompt_goes_with_the_one_that_it_is_like_whose_options_were_swept(
    make: Any, made_up: Any, tmp_path: Path
) -> None:
    """By what was chosen they do not differ; by what such a row says itself (a rate of 0) they do."""
    rows = [
        {"name": "mezo", "preset": "mezo", "sweep": {"method.lr_theta": [2e-6, 7e-6]}},
        {"name": "still", "like": "mezo", "options": {"method.lr_theta": 0}},
        {"name": "bare", "like": "mezo", "options": {"data.hard_prompt": False}},
        {"name": "bare, still", "like": "mezo", "options": {"data.hard_prompt": False, "method.lr_theta": 0}},
    ]
    made, store = make(rows=rows, against="mezo", seeds=[0]), Store(tmp_path / "swept")
    store.make()
    whole = cells.finals(made, {("mezo", "reviews"): {"method.lr_theta": 7e-6}})
    for cell in whole:
        write_json(store.cells / f"{cell.name}.json", made_up(cell, [1, 0]))
    found = table.tabulate(made, store, whole)["prompt"]
    assert [(e["row"], e["without"]) for e in found] == [("mezo", "bare"), ("still", "bare, still")]


def test_of_prompted_rows_that_differ_in_steps_the_one_of_equal_steps_is_taken(
    make: Any, made_up: Any, tmp_path: Path
) -> None:
    """Of several none of which has its steps: none, for what the prompt does and what steps do would be one number."""
    rows = [{"name": name, "preset": "fo-lora", "steps": steps} for name, steps in (("short", 5), ("long", 50))]
    bare = [{**row, "name": f"{row['name']}, bare", "options": {"data.hard_prompt": False}} for row in rows]
    bare.append({**bare[0], "name": "other, bare", "steps": 7})
    made, store = make(rows=[*rows, *bare], against="", seeds=[0]), Store(tmp_path / "prompted")
    store.make()
    whole = cells.finals(made, {})
    for cell in whole:
        write_json(store.cells / f"{cell.name}.json", made_up(cell, [1, 0]))
    found = table.tabulate(made, store, whole)["prompt"]
    assert [(e["row"], e["without"]) for e in found] == [("short", "short, bare"), ("long", "long, bare")]
