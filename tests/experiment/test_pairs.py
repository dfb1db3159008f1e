"""Differences: of the same test rows, by the same metric, over the seeds that both have."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.experiment import lines, pairs, table
from zofo.run.jsonfile import read_json, write_json


def test_rows_tested_on_other_rows_say_so(full) -> None:
    made, store, whole = full
    for cell in whole:
        if (cell.row, cell.task) == ("better", "sst2"):
            path = store.cells / f"{cell.name}.json"
            record = read_json(path)
            record["test"]["rows_sha256"] = "cd"
            write_json(path, record)
    for grid in (made, made.model_copy(update={"against": ""})):
        found = table.tabulate(grid, store, whole)["rows"]
        told = {(e["row"], e["task"]) for e in found if any("not tested on the rows of base" in n for n in e["notes"])}
        assert told == {("better", "sst2")}


def test_other_test_rows_do_not_compare(full) -> None:
    made, store, cells = full
    held = {line.row: line for line in lines.lines(made, store, cells) if line.task == "sst2"}
    for record in held["better"].records.values():
        record["test"]["rows_sha256"] = "cd"
    assert pairs.against(made, held["better"], list(held.values())) is None


def lined(full, rename: Any) -> tuple[Any, dict[str, lines.Line], list[lines.Line]]:
    """sst2's lines, their records changed by `rename` (row, slot)."""
    made, store, cells = full
    held = {line.row: line for line in lines.lines(made, store, cells) if line.task == "sst2"}
    for line in held.values():
        for record in line.records.values():
            record["test"]["metric"] = "macro_f1"
            for slot in record["test"]["slots"].values():
                slot["macro_f1"] = slot["accuracy"] / 2
                rename(line.row, slot)
    return made, held, list(held.values())


def test_older_records_name_no_metric_of_their_rows_and_it_is_found(full) -> None:
    made, held, every = lined(full, lambda row, slot: None)
    found = pairs.against(made, held["better"], every)
    assert found is not None and found.metric == "accuracy" and found.told["mean"] == pytest.approx(0.25)


def test_a_difference_is_in_the_scores_metric_where_both_have_it_by_row(full) -> None:
    def newer(row: str, slot: dict[str, Any]) -> None:
        slot["by_row"] = {"macro_f1": [v / 2 for v in slot["by_row"]], "accuracy": slot["by_row"]}

    made, held, every = lined(full, newer)
    found = pairs.against(made, held["better"], every)
    assert found is not None and found.metric == "macro_f1" and found.told["mean"] == pytest.approx(0.125)
    made, held, every = lined(full, lambda row, slot: newer(row, slot) if row == "base" else None)
    found = pairs.against(made, held["better"], every)
    assert found is not None and found.metric == "accuracy", "what both have"
