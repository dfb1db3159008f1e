"""Tables as text."""

from __future__ import annotations

from zofo.experiment import report, table, text
from zofo.run.jsonfile import read_json, write_json


def test_the_document_says_it_all(full) -> None:
    made, store, cells = full
    found = text.document(table.tabulate(made, store, cells), "full")
    assert "# full\n\na tiny one\n\nModel " in found and "; seeds 0, 1, 2; budget 2 steps a run." in found
    assert "| better | 80.0 +- 5.0 | 3 of 3 | +25.0 [" in found
    assert "out of memory: 1 PB were asked for" in found and "3 to run" in found
    assert "## all tasks, " in found and "## sst2, " in found and "## the hard prompt" in found
    assert "| better | sst2 | 6.0 s | > budget |" in found
    assert "| base | sst2 | 55.0 | 30.0 | 3 of 3 | -25.0 [" in found


def test_a_loss_is_no_percentage_and_lower_is_better() -> None:
    entry = {"metric": "loss", "mean": 1.25, "sd": 0.0625}
    assert text.score(entry) == "1.25 +- 0.0625"
    held = {"mean": -0.5, "low": -0.75, "high": -0.25, "metric": "loss", "seeds": 2}
    assert text.difference({**entry, "seeds": 2, "difference": held}) == "-0.5 [-0.75, -0.25]"
    assert text.difference({"metric": "macro_f1", "seeds": 2, "difference": held}) == "-0.5 [-0.75, -0.25] (loss)"
    points = {**held, "metric": "accuracy"}
    assert text.difference({"metric": "accuracy", "seeds": 2, "difference": points}) == "-50.0 [-75.0, -25.0]"
    other = {"metric": "macro_f1", "seeds": 3, "difference": points}
    assert text.difference(other) == "-50.0 [-75.0, -25.0] (accuracy, 2 seeds)"


def test_a_table_of_losses_is_headed_as_one(full) -> None:
    made, store, cells = full
    for cell in cells:
        path = store.cells / f"{cell.name}.json"
        if not path.exists() or (record := read_json(path))["status"] != "done":
            continue
        record["test"]["metric"] = "loss"
        for slot in record["test"]["slots"].values():
            slot["loss"] = 2 - slot.pop("accuracy")
            slot["by_row"] = [value - 2 for value in slot["by_row"]]
        for point in record["curve"]:
            point["score"] = None
        write_json(path, record)
    report.write(made, store, cells)
    found = (store.path / "table.md").read_text(encoding="utf-8")
    assert "| row | test loss | seeds | less base [95 %] |" in found
    assert "| better | 1.2 +- 0.05 | 3 of 3 | -0.25 [" in found
    assert "| base | 1.45 +- 0.05 | 1.45 +- 0.05 | 1.45 +- 0.05 | 3 of 3 | - |" in found, "the mean over tasks"
    assert "| base | sst2 | - | - |" in found, "validation has no score to reach"
    assert "| row | task | with | without | seeds | difference [95 %] |" in found
    assert "| base | sst2 | 1.45 | 1.7 | 3 of 3 | +0.25 [" in found
    assert {"accuracy-seconds", "prompt"} <= {path.stem for path in store.path.glob("*.png")}


def test_times_of_some_seeds() -> None:
    assert text.first([2.0, 4.0]) == "3.0 s" and text.first([None, 4.0]) == "> budget (1 of 2 seeds)"
    assert text.first([None, None]) == "> budget" and text.first([]) == "-"


def test_where_the_runs_were_made_is_said_and_more_so_of_several_machines() -> None:
    assert text.made_on({"Linux x86_64, A": 3}) == "Runs were made on: Linux x86_64, A."
    assert text.made_on({"A": 3, "not said": 1}) == "Runs were made on: A (3); not said (1)."
    assert text.made_on({"A": 3, "B": 1}).startswith("Runs were made on: A (3); B (1). Computed in a half type")
