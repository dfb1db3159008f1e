"""The lines of the table: every row on every task that it has, with the records that its seeds have."""

from __future__ import annotations

from zofo.experiment import lines


def test_every_row_stands_on_every_task_with_the_seeds_that_ended(full) -> None:
    made, store, cells = full
    found = {(line.row, line.task): line for line in lines.lines(made, store, cells)}
    assert list(found) == [(row.name, task) for task in made.tasks for row in made.rows]
    assert list(found["better", "rte"].records) == [0, 1, 2] and list(found["better", "rte"].done) == [0, 1]
    assert found["later", "sst2"].records == {} and list(found["later", "sst2"].cells) == [0, 1, 2]
    assert [line.cells for line in lines.lines(made, store, [])] == [{}] * 8, "nothing could be chosen"


def test_a_score_is_that_of_the_adapter_that_validation_chose_or_of_one_named(full) -> None:
    made, store, cells = full
    base = next(line for line in lines.lines(made, store, cells) if line.row == "base")
    assert lines.score(base.done[0]) == lines.score(base.done[0], "s") == 0.5
    assert lines.means([base], [0, 1, 2]) == [0.5, 0.55, 0.6]


def test_rows_of_older_records_have_the_name_of_what_they_are() -> None:
    assert lines.unnamed("macro_f1", {"macro_f1": 0.1, "by_row": [-0.5]}) == {"loss": [0.5]}
    assert lines.unnamed("f1", {"em": 0.0, "f1": 0.5, "by_row": [0.5]}) == {"f1": [0.5]}
