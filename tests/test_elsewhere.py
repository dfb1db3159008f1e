"""What a run or a model is scored on where options name other rows."""

from __future__ import annotations

from typing import Any

import pytest

from zofo import elsewhere
from zofo.config import Config
from zofo.errors import BadInput
from zofo.tasks.definition import Files, Task

OWN = Task(name="own/a", choices=("no", "yes"), files=Files(train="a.csv", columns={"text": "body", "label": "stars"}))


@pytest.mark.parametrize(
    ("flags", "shots", "split", "expected"),
    [
        ({"data.test": "t.csv"}, 0, "test", True),
        ({"data.test": "t.csv", "data.task": "reviews"}, 0, "test", True),
        ({"data.test": "t.csv", "data.train": "a.csv"}, 0, "test", False),
        ({"data.test": "t.csv"}, 4, "test", False),  # demonstrations are of training rows
        ({"data.test": "t.csv"}, 0, "validation", False),
        ({"data.task": "reviews"}, 0, "test", False),
    ],
)
def test_a_test_file_stands_alone(flags: dict[str, Any], shots: int, split: str, expected: bool) -> None:
    assert elsewhere.alone(flags, shots, split) is expected


def test_columns_of_another_file() -> None:
    made = elsewhere.with_columns(OWN, {"data.text_column": "review"})
    assert made.files is not None and made.files.columns == {"text": "review", "label": "stars"}
    assert elsewhere.with_columns(OWN, {}) is OWN
    with pytest.raises(BadInput, match=r"--data.prompt_column x: own/a reads no such column; .*--data.text_column"):
        elsewhere.with_columns(OWN, {"data.prompt_column": "x"})


def test_a_test_file_is_taken_whole_unless_options_say_how_much_of_it() -> None:
    assert elsewhere.all_of(Config(), {}, 5000).data.test_rows == 5000
    assert elsewhere.all_of(Config(), {"data.test_rows": 7}, 5000) == Config()


def test_another_task_forgets_the_runs_own_files_and_objective() -> None:
    own = Config.model_validate({"data": {"train": "a.csv", "label_column": "stars"}, "method": {"objective": "lm"}})
    other = elsewhere.changed(own, {"data.task": "reviews"})
    assert (other.data.train, other.data.label_column, other.method.objective) == ("", "", "auto")
    assert elsewhere.changed(own, {}) is own
