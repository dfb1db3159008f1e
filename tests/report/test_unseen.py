"""Results over a mixture side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zofo import spread
from zofo.errors import BadInput
from zofo.report import unseen


def record(before: float, *after: float, rows: str = "x", metric: str = "macro_f1") -> dict[str, Any]:
    return {
        "metric": metric, "before": {metric: before}, "after": asdict(spread.of(after)),
        "test": {"rows": 9, "sha256": rows},
    }  # fmt: skip


def wrote(folder: Path, name: str, held: Any) -> list[unseen.Series]:
    (folder / f"{name}.json").write_text(json.dumps(held), encoding="utf-8")
    return unseen.read(folder / f"{name}.json")


@pytest.fixture
def series(tmp_path: Path) -> list[unseen.Series]:
    """Draws with a failed task, draws on other rows, and scores without draws."""
    mean = {"before": 0.2, "after": asdict(spread.of([0.5, 0.6]))}
    one = {
        "tasks": {"a": record(0.2, 0.5, 0.6), "b": {"failed": "no rows"}, "c": record(3, 2, 1, metric="loss")},
        "mean": mean,
    }
    two = {"tasks": {"b": record(0.1, 0.3), "a": record(0.1, 0.3, rows="y")}, "mean": None}
    scores = {"score": 0.4, "tasks": {"a": {"macro_f1": 0.4, "loss": 1.0}}}
    three = {"results": {"p": scores, "s": scores}}
    return [s for name, held in (("one", one), ("two", two), ("three", three)) for s in wrote(tmp_path, name, held)]


def test_a_line_a_task_before_and_after(series: list[unseen.Series]) -> None:
    columns, rows = unseen.rows(series)
    assert columns[:4] == ["task", "metric", "one, before", "one, after"] and columns[6] == "three p, before"
    assert [row[0] for row in rows] == ["a", "b", "c", unseen.MEAN]
    assert rows[0][1:4] == ["macro-F1", "20.0 %", "55.0 % [-8.5, 118.5], sd 7.1"] and rows[0][6:8] == ["-", "40.0 %"]
    assert rows[1][2:4] == ["-", "failed: no rows"] and rows[1][4:6] == ["10.0 %", "30.0 %"]
    assert rows[2][1:3] == ["loss", "3.0"] and rows[3][1:3] == ["score", "20.0 %"] and rows[3][4:6] == ["-", "-"]


def test_tasks_on_other_rows_are_named(series: list[unseen.Series]) -> None:
    assert unseen.unequal(series) == ["a"]


def test_the_picture(series: list[unseen.Series], tmp_path: Path) -> None:
    unseen.draw(series, tmp_path / "u.png")
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="no task has a score"):
        unseen.picture([unseen.Series("x", {"a": unseen.Point(failed="no")})])


@pytest.mark.parametrize("held", [[], {}, {"tasks": {}}, {"results": {"p": {"accuracy": 1}}}, {"tasks": {"a": {}}}])
def test_files_of_other_things_are_refused(tmp_path: Path, held: Any) -> None:
    with pytest.raises(BadInput):
        wrote(tmp_path, "x", held)
