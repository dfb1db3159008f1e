"""Tables as text."""

from __future__ import annotations

from zofo.experiment import table, text


def test_the_document_says_it_all(full) -> None:
    made, store, cells = full
    found = text.document(table.tabulate(made, store, cells), "full")
    assert "# full\n\na tiny one\n\nModel " in found and "; seeds 0, 1, 2; budget 2 steps a run." in found
    assert "| better | 80.0 +- 5.0 | 3 of 3 | +25.0 [" in found
    assert "out of memory: 1 PB were asked for" in found and "3 to run" in found
    assert "## all tasks, " in found and "## sst2, " in found and "## the hard prompt" in found
    assert "| better | sst2 | 6.0 s | > budget |" in found
    assert "| base | sst2 | 55.0 | 30.0 | -25.0 |" in found


def test_times_of_some_seeds() -> None:
    assert text.first([2.0, 4.0]) == "3.0 s" and text.first([None, 4.0]) == "> budget (1 of 2 seeds)"
    assert text.first([None, None]) == "> budget" and text.first([]) == "-"
