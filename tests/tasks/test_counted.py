"""The labels of own rows are counted, and slips among them told."""

from __future__ import annotations

from pathlib import Path

from zofo.config import DataConfig
from zofo.tasks import counted, definition, own
from zofo.tasks.splits import split


def rows(path: Path, labels: list[str]) -> DataConfig:
    lines = [f"a film number {k},{label}" for k, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    return DataConfig(train=str(path), train_rows=20, validation_rows=4, test_rows=3)


def test_what_is_taken_of_own_rows_and_their_labels_are_told(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.csv", ["yes", "no", "YES"] * 20)
    found = split(own.resolve(data), data, 0)
    assert "train: 20 of 44 rows taken (--data.train_rows 44 takes all)" in found.notes
    count = next(note for note in found.notes if note.startswith("train: labels"))
    assert sum(int(part.rsplit(" ", 1)[1]) for part in count.removeprefix("train: labels ").split(", ")) == 20
    assert "labels 'YES', 'yes' differ in case or spaces alone and are learned as different ones" in found.notes


def test_a_test_file_that_is_larger_than_what_is_taken_is_told(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.csv", ["yes", "no"] * 20)
    (tmp_path / "test.csv").write_text(
        "text,label\n" + "".join(f"another {k},yes\n" for k in range(9)), encoding="utf-8"
    )
    data = data.model_copy(update={"test": str(tmp_path / "test.csv")})
    found = split(own.resolve(data), data, 0)
    assert "test: 3 of 9 rows taken (--data.test_rows 9 takes all)" in found.notes


def test_a_label_that_no_training_row_has_is_told(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.csv", ["yes", "no"] * 20 + ["mixed"])
    task = own.resolve(data)
    held = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]
    told = "train: no row taken has the label 'mixed', so it cannot be learned"
    assert told in list(counted.told(task, "train", held))
    assert told not in list(counted.told(task, "train", [*held, {"text": "c", "label": "mixed"}]))
    assert not any("cannot be learned" in note for note in counted.told(task, "test", held))


def test_published_tasks_are_taken_at_their_sizes_without_a_word() -> None:
    task = definition.find("reviews")
    found = split(task, DataConfig(task="reviews", train_rows=20, validation_rows=4, test_rows=3), 0)
    assert not any("takes all" in note or "labels" in note for note in found.notes)


def test_labels_that_look_like_a_missing_value() -> None:
    assert list(counted.slips(["good", "NaN"])) == ["label 'NaN' reads as a missing value and is learned as a label"]
    assert list(counted.slips(["good", "bad"])) == []
