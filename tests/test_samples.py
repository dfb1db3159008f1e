"""What was answered to each row: the file's columns, the right answer, the one made, and what choices were compared by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zofo.samples import Samples, by_row, jsonl
from zofo.scoring.batch import Encoded
from zofo.tasks.definition import Files, Task

CHOICES = Task(
    name="own/t", choices=("bad", "good"), files=Files(train="x.csv", columns={"text": "body", "label": "stars"})
)
FREE = Task(name="own/f", template="{{ q }}", metrics=("em",))


def ready(task: Task, rows: list[dict[str, Any]], encoded: list[Encoded]) -> Any:
    record = {"parts": {"test": {"indices": [4, 1][: len(rows)], "of": "train"}}}
    return SimpleNamespace(task=task, splits=SimpleNamespace(record=record, test=rows), encoded={"test": encoded})


def row(label: int = 1, right: tuple[int, ...] = ()) -> Encoded:
    return Encoded((5,), ((6,), (7,)), label, right=right, texts=("bad", "good"))


def test_a_row_with_choices() -> None:
    held = ready(CHOICES, [{"text": "a film", "label": "good"}] * 2, [row(), row(0, (0, 1))])
    found = {"predictions": [0, -1], "losses": [0.5, 0.25], "ranked": [[-1.0, -2.0], [math.nan] * 2]}
    first, second = by_row(held, "test", found)
    assert first == {
        "task": "own/t", "row": 5, "of": "train", "columns": {"body": "a film", "stars": "good"}, "answer": "good",
        "predicted": "bad", "right": False, "scores": {"bad": -1.0, "good": -2.0}, "loss": 0.5,
    }  # fmt: skip
    assert (second["row"], second["answer"], second["predicted"], second["right"]) == (2, ["bad", "good"], None, False)
    assert json.loads(jsonl([second]))["scores"] == {"bad": "nan", "good": "nan"}, "a number that is none is a text"


@pytest.mark.parametrize(
    ("said", "predicted", "right"), [(["The Nile."], "The Nile.", True), (["Rhine"], "Rhine", False), ([], None, None)]
)
def test_a_free_answer(said: list[str], predicted: str | None, right: bool | None) -> None:
    example = Encoded((5,), ((6,),), 0, texts=("Nile", "the Nile river"))
    (line,) = by_row(ready(FREE, [{"q": "?"}], [example]), "test", {"predictions": said, "losses": [1.0], "ranked": []})
    assert (line["predicted"], line["right"], line["answer"]) == (predicted, right, ["Nile", "the Nile river"])
    assert "scores" not in line


def test_a_line_a_row_and_slot(tmp_path: Path) -> None:
    samples = Samples(str(tmp_path / "x.jsonl"))
    for samples.slot in ("p", "s"):
        samples(
            ready(FREE, [{"q": "?"}], [Encoded((5,), ((6,),), 0, texts=("a",))]),
            "test",
            {"predictions": [], "losses": [1.0]},
        )
    samples.write()
    lines = [json.loads(text) for text in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["slot"] for line in lines] == ["p", "s"]
