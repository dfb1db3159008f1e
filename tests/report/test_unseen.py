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
        "test": {"rows": 9, "sha256": rows}, "draws": [{"result": {metric: value}} for value in after],
    }  # fmt: skip


def wrote(folder: Path, name: str, held: Any) -> list[unseen.Series]:
    (folder / f"{name}.json").write_text(json.dumps(held), encoding="utf-8")
    return unseen.read(folder / f"{name}.json")


@pytest.fixture
def series(tmp_path: Path) -> list[unseen.Series]:
    """Draws with a failed task, draws on other rows, and scores without draws; d is in two files alone."""
    mean = {"tasks": 2, "of": 4, "before": 0.9, "after": asdict(spread.of([0.9, 0.9]))}
    one = {
        "tasks": {
            "a": record(0.2, 0.5, 0.6), "b": {"failed": "no rows"}, "c": record(3, 2, 1, metric="loss"),
            "d": record(0.5, 0.9, 0.9), "e": record(0.4, 0.7, 0.9),
        },
        "mean": mean,
    }  # fmt: skip
    two = {"tasks": {"b": record(0.1, 0.3), "a": record(0.1, 0.3, rows="y"), "e": record(0.3, 0.5)}, "mean": None}
    scores = {name: {"macro_f1": score, "loss": 1.0} for name, score in {"a": 0.4, "d": 0.1, "e": 0.6}.items()}
    result = {"score": 0.9, "tasks": scores}
    three = {"results": {"p": result, "s": result}, "members_sha256": {"a": "x", "e": "x"}}
    files = (("one", one), ("two", two), ("three", three))
    return unseen.averaged([s for name, held in files for s in wrote(tmp_path, name, held)])


def test_a_line_a_task_before_and_after(series: list[unseen.Series]) -> None:
    columns, rows = unseen.rows(series)
    assert columns[:4] == ["task", "metric", "one, before", "one, after"] and columns[6] == "three p, before"
    assert [row[0] for row in rows] == ["a", "b", "c", "d", "e", "mean over 2 of 5 tasks"]
    assert rows[0][1:4] == ["macro-F1", "20.0 %", "55.0 % [-8.5, 118.5], sd 7.1"] and rows[0][6:8] == ["-", "40.0 %"]
    assert rows[1][2:4] == ["-", "failed: no rows"] and rows[1][4:6] == ["10.0 %", "30.0 %"]
    assert rows[2][1:3] == ["loss", "3.0"]


def test_the_mean_is_over_the_tasks_that_all_files_have_a_score_of(series: list[unseen.Series]) -> None:
    row = unseen.rows(series)[1][-1]
    assert row[1] == "score" and row[2] == "30.0 %" and row[3].startswith("67.5 % [") and "sd 10.6" in row[3]
    assert row[4:] == ["20.0 %", "40.0 %", "-", "50.0 %", "-", "50.0 %"]
    assert unseen.left_out(series) == ["b", "c", "d"]


def test_files_of_the_same_tasks_have_the_mean_over_tasks(tmp_path: Path) -> None:
    held = {"tasks": {"a": record(0.2, 0.5, 0.6), "b": record(0.4, 0.7, 0.9)}}
    made = unseen.averaged(wrote(tmp_path, "one", held) + wrote(tmp_path, "two", held))
    assert unseen.rows(made)[1][-1][0] == unseen.MEAN and unseen.left_out(made) == []
    apart = unseen.averaged(wrote(tmp_path, "x", {"tasks": {"a": record(0, 1)}}) + wrote(tmp_path, "y", {"tasks": {"b": record(0, 1)}}))  # fmt: skip
    assert [row[0] for row in unseen.rows(apart)[1]] == ["a", "b"] and unseen.left_out(apart) == []


def test_tasks_on_other_rows_and_those_that_do_not_say_are_named(series: list[unseen.Series]) -> None:
    assert unseen.unequal(series) == ["a"] and unseen.unknown(series) == ["d"]


def test_the_picture(series: list[unseen.Series], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    dress = unseen.dress
    monkeypatch.setattr(unseen, "dress", lambda axes, names, mean: (told.append(names), dress(axes, names, mean)))
    unseen.draw(series, tmp_path / "u.png")
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG") and told[0][-1] == "mean over 2 of 5 tasks"
    left, right = unseen.drawn(series).axes[0].get_xlim()
    assert left >= -2 and right <= 102, "two draws' interval ends at 118.5"
    with pytest.raises(BadInput, match="no task has a score"):
        unseen.drawn([unseen.Series("x", {"a": unseen.Point(failed="no")})])


BAD = {"metric": "accuracy", "before": {"accuracy": 1}, "test": {"sha256": ""}}


@pytest.mark.parametrize(
    "held",
    [
        [], {}, {"tasks": {}}, {"results": {"p": {"accuracy": 1}}}, {"tasks": {"a": {}}}, {"tasks": [1]},
        {"tasks": {"a": BAD | {"after": {}, "draws": []}}},
        {"tasks": {"a": BAD | {"after": {"mean": 1}, "draws": [{"result": {"accuracy": "x"}}]}}},
    ],
)  # fmt: skip
def test_files_of_other_things_are_refused(tmp_path: Path, held: Any) -> None:
    with pytest.raises(BadInput):
        wrote(tmp_path, "x", held)
