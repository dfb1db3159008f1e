"""The table: means, deviations, paired differences, p and s apart, and what is missing."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from zofo.experiment import cells, table
from zofo.experiment.store import Store
from zofo.run.jsonfile import write_json


@pytest.fixture
def found(full) -> dict[str, Any]:
    return table.tabulate(*full)


def entry(found: dict[str, Any], row: str, task: str = "sst2") -> dict[str, Any]:
    return next(e for e in found["rows"] if (e["row"], e["task"]) == (row, task))


def test_means_deviations_seeds_and_the_adapters_apart(found: dict[str, Any]) -> None:
    held = entry(found, "better")
    scores = [15 / 20, 16 / 20, 17 / 20]
    assert held["mean"] == pytest.approx(0.8) and held["sd"] == pytest.approx(statistics.stdev(scores))
    assert (held["seeds"], held["wanted"], held["used"]) == (3, 3, {"s": 3})
    assert held["slots"]["p"]["mean"] == 0.5 and held["slots"]["s"]["mean"] == held["mean"]
    assert held["passes"] == 46 + 2 * 43 and held["checkpoint"] == 2


def test_the_difference_is_paired_by_seed_and_row(found: dict[str, Any]) -> None:
    """The better row answers five more rows in every seed: 0.25, and the seeds add nothing to its spread."""
    held = entry(found, "better")["difference"]
    assert held["mean"] == pytest.approx(0.25) and held["seeds"] == 3
    assert 0.02 < held["low"] < 0.25 < held["high"] < 0.48
    assert entry(found, "base")["difference"] is None and entry(found, "later")["difference"] is None


def test_what_failed_and_what_is_to_come_stay(found: dict[str, Any]) -> None:
    held = entry(found, "better", "rte")
    assert (held["seeds"], held["failures"]) == (2, ["seed 2: out of memory: 1 PB were asked for"])
    assert held["difference"]["seeds"] == 2
    assert (entry(found, "later")["seeds"], entry(found, "later")["pending"], entry(found, "later")["mean"]) == (
        0,
        3,
        None,
    )


def test_over_tasks_only_whole_seeds_count(found: dict[str, Any]) -> None:
    over = {e["row"]: e for e in found["average"]}
    assert (over["better"]["seeds"], over["base"]["seeds"], over["later"]["seeds"]) == (2, 3, 0)
    assert over["better"]["mean"] == pytest.approx((0.75 + 0.8) / 2)
    assert over["better"]["difference"]["mean"] == pytest.approx(0.25)


def test_seconds_are_steps_times_cost_where_it_is_said(found: dict[str, Any]) -> None:
    assert entry(found, "better")["budgeted_seconds"] == 6.0 and entry(found, "base")["budgeted_seconds"] is None
    reach = {(e["row"], e["task"]): e["seconds"] for e in found["reach"]}
    assert reach["better", "sst2"] == {"0.1": [6.0] * 3, "0.9": [None] * 3}
    assert reach["base", "sst2"] == {"0.1": [4.0] * 3, "0.9": [None] * 3}


def test_rows_that_differ_in_the_prompt_alone_are_put_side_by_side(found: dict[str, Any]) -> None:
    assert [(e["row"], e["without"], e["task"]) for e in found["prompt"]] == [
        ("base", "bare", "sst2"),
        ("base", "bare", "rte"),
    ]
    assert found["prompt"][0]["drop"] == pytest.approx(0.25)


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


def test_other_test_rows_do_not_compare(full) -> None:
    made, store, cells = full
    held = {line.row: line for line in table.lines(made, store, cells) if line.task == "sst2"}
    for record in held["better"].records.values():
        record["test"]["rows_sha256"] = "cd"
    assert table.against(made, held["better"], list(held.values())) is None


def lined(full, rename: Any) -> tuple[Any, dict[str, table.Line], list[table.Line]]:
    """sst2's lines, their records changed by `rename` (row, slot)."""
    made, store, cells = full
    held = {line.row: line for line in table.lines(made, store, cells) if line.task == "sst2"}
    for line in held.values():
        for record in line.records.values():
            record["test"]["metric"] = "macro_f1"
            for slot in record["test"]["slots"].values():
                slot["macro_f1"] = slot["accuracy"] / 2
                rename(line.row, slot)
    return made, held, list(held.values())


def test_older_records_name_no_metric_of_their_rows_and_it_is_found(full) -> None:
    made, held, every = lined(full, lambda row, slot: None)
    found = table.against(made, held["better"], every)
    assert found is not None and found.metric == "accuracy" and found.told["mean"] == pytest.approx(0.25)
    assert table.unnamed("macro_f1", {"macro_f1": 0.1, "by_row": [-0.5]}) == {"loss": [0.5]}
    assert table.unnamed("f1", {"em": 0.0, "f1": 0.5, "by_row": [0.5]}) == {"f1": [0.5]}


def test_a_difference_is_in_the_scores_metric_where_both_have_it_by_row(full) -> None:
    def newer(row: str, slot: dict[str, Any]) -> None:
        slot["by_row"] = {"macro_f1": [v / 2 for v in slot["by_row"]], "accuracy": slot["by_row"]}

    made, held, every = lined(full, newer)
    found = table.against(made, held["better"], every)
    assert found is not None and found.metric == "macro_f1" and found.told["mean"] == pytest.approx(0.125)
    made, held, every = lined(full, lambda row, slot: newer(row, slot) if row == "base" else None)
    found = table.against(made, held["better"], every)
    assert found is not None and found.metric == "accuracy", "what both have"


def test_losses_and_scores_have_no_mean_together() -> None:
    assert table.common(["f1", "accuracy"]) == "score" and table.common(["em", "em"]) == "em"
    assert table.common(["loss", "loss"]) == "loss" and table.common(["loss", "em"]) is None
    assert table.common([]) is None


def test_validation_without_scores_reaches_nothing_and_says_nothing(full) -> None:
    made, store, cells = full
    held = next(line for line in table.lines(made, store, cells) if line.row == "base")
    for record in held.records.values():
        for point in record["curve"]:
            point["score"] = None
    assert table.reached(made, held)["seconds"] == {"0.1": [], "0.9": []}
