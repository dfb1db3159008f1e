"""Rows of a run: chosen by seed and name alone, disjoint by text, every shrinking told."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.tasks import splits
from zofo.tasks.definition import Files, Task, find
from zofo.tasks.files import Source
from zofo.tasks.splits import Splits, normalised, split

TASK = Task(name="t", template="{{ text }} is", template_free="{{ text }}", choices=("a", "b"))
GROUPED = TASK.model_copy(update={"group": "page"})
FILES = {"train": "train.csv", "validation": "validation.csv", "test": "test.csv"}
Lay = Callable[..., None]


def rows(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"text": f"Row {k}", "label": k % 2} for k in range(start, stop)]


@pytest.fixture
def lay(monkeypatch: pytest.MonkeyPatch) -> Lay:
    """Put rows in the place of a task's files."""

    def put(train: list[Any], test: list[Any] | None, validation: list[Any] | None = None) -> None:
        monkeypatch.setattr(splits, "load", lambda task: Source("here", train, validation, test, FILES))

    return put


def pages(start: int, stop: int, size: int) -> list[dict[str, Any]]:
    """Rows in groups of this size."""
    return [row | {"page": f"page {k // size}"} for k, row in enumerate(rows(start, stop), start)]


def config(**sizes: Any) -> DataConfig:
    return DataConfig(task="t", **sizes)


def texts(part: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in part]


def parts(found: Splits) -> dict[str, list[dict[str, Any]]]:
    return {"D_f": found.D_f, "D_p": found.D_p, "validation": found.validation, "test": found.test}


def test_sizes_and_the_share_of_the_upper_level(lay: Lay) -> None:
    lay(rows(0, 3000), rows(3000, 5000))
    found = split(TASK, config(), 0)
    assert [len(part) for part in parts(found).values()] == [333, 667, 500, 1000]
    assert found.notes == []
    half = split(TASK, config(train_rows=10, upper_share=0.5), 0)
    assert (len(half.D_f), len(half.D_p)) == (5, 5)


def test_no_text_stands_in_two_parts_whatever_its_case_and_spaces(lay: Lay) -> None:
    again = [{"text": f"  ROW\t{k}  ", "label": 0} for k in range(100, 130)]
    twice = [{"text": f"row  {k}", "label": 0} for k in range(40)]
    lay(rows(0, 90) + twice + again, rows(100, 160))
    found = split(TASK, config(train_rows=500, validation_rows=20, test_rows=50), 0)
    seen = [normalised(TASK, row) for part in parts(found).values() for row in part]
    assert len(set(seen)) == len(seen)
    assert not {normalised(TASK, row) for row in found.D_f + found.D_p} & {f"row {k}" for k in range(100, 160)}
    assert "train: 20 rows left out (repeated in the training file)" in found.notes
    assert (
        "train: 20 rows left out (repeated in the training file with another label; the first is kept)" in found.notes
    )
    assert "train: 30 rows left out (the same text stands in the validation or test file)" in found.notes
    assert len(found.D_f) + len(found.D_p) == 90 - 20


def test_a_repetition_whose_label_says_the_same_is_no_contradiction(lay: Lay) -> None:
    again = [{"text": "ROW 1", "label": "b"}, {"text": "row 1", "label": "1"}, {"text": "row 2", "label": ["a"]}]
    lay([*rows(0, 90), *again, {"text": "Row 3", "label": "a"}], rows(100, 160))
    told = [note for note in split(TASK, config(), 0).notes if "repeated" in note]
    other = "train: 1 rows left out (repeated in the training file with another label; the first is kept)"
    assert told == ["train: 3 rows left out (repeated in the training file)", other]


@pytest.mark.parametrize(("part", "left"), [("test", 0), ("test", 2), ("validation", 4)])
def test_training_rows_that_are_test_or_validation_rows_too_are_told_where_too_few_are_left(
    lay: Lay, part: str, left: int
) -> None:
    files = {"test": None, "validation": None} | {part: rows(left, 20)}
    lay(rows(0, 20), files["test"], files["validation"])
    told = f"^{part}.csv: {20 - left} of the 20 training rows are {part} rows too, which leaves {left}; give a file of"
    with pytest.raises(BadInput, match=told):
        split(TASK, config(), 0)


def test_a_test_file_that_is_the_training_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0, 20)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = Files(train=str(tmp_path / "own.jsonl"), test="own.jsonl")
    told = (
        "^--data.test own.jsonl: 20 of the 20 training rows are test rows too .it is the training file., which leaves 0"
    )
    with pytest.raises(BadInput, match=told):
        split(TASK.model_copy(update={"files": given}), config(), 0)


def test_a_validation_file_of_its_own_is_used_and_cleared_of_test_rows(lay: Lay) -> None:
    lay(rows(0, 50), rows(100, 110), rows(105, 125) + rows(0, 2))
    found = split(TASK, config(train_rows=500, validation_rows=100), 0)
    assert texts(found.validation) == texts(rows(110, 125) + rows(0, 2))
    assert len(found.D_f) + len(found.D_p) == 48
    assert "validation: 5 rows left out (the same text stands in the test file)" in found.notes
    assert found.record["parts"]["validation"]["of"] == "validation"


def test_a_small_set_gives_a_third_to_validation_and_says_so(lay: Lay) -> None:
    lay(rows(0, 99), rows(100, 120))
    found = split(TASK, config(), 0)
    assert [len(part) for part in parts(found).values()] == [22, 44, 33, 20]
    assert found.notes == [
        "test: 20 rows taken where 1000 were asked for (the test set has no more)",
        "validation: 33 rows taken where 500 were asked for (a third of the training file)",
        "train: 66 rows taken where 1000 were asked for (the training file has no more)",
    ]


def test_the_choice_is_a_function_of_seed_and_name(lay: Lay) -> None:
    lay(rows(0, 400), rows(400, 600))
    sizes = config(train_rows=30, validation_rows=30, test_rows=30)
    first = split(TASK, sizes, 0)
    assert split(TASK, sizes, 0) == first
    for other in (split(TASK, sizes, 1), split(TASK.model_copy(update={"name": "u"}), sizes, 0)):
        assert all(texts(a) != texts(b) for a, b in zip(parts(other).values(), parts(first).values(), strict=True))
    pinned = {name: part["indices"][:3] for name, part in first.record["parts"].items()}
    known = {"D_f": [5, 67, 314], "D_p": [252, 28, 115], "validation": [396, 39, 109], "test": [3, 6, 19]}
    assert pinned == known, "the same seed chooses other rows than it did: old runs could not be compared"


def test_another_size_of_one_part_leaves_the_others(lay: Lay) -> None:
    lay(rows(0, 400), rows(400, 600))
    base = split(TASK, config(train_rows=30, validation_rows=30, test_rows=30), 0)
    wider = split(TASK, config(train_rows=60, validation_rows=30, test_rows=30), 0)
    assert (wider.validation, wider.test) == (base.validation, base.test)
    assert set(texts(base.D_f + base.D_p)) < set(texts(wider.D_f + wider.D_p))
    checked = split(TASK, config(train_rows=30, validation_rows=60, test_rows=100), 0)
    assert (checked.D_f, checked.D_p) == (base.D_f, base.D_p)


def test_without_a_test_file_a_fifth_of_the_training_rows_is_set_apart(lay: Lay) -> None:
    lay(rows(0, 200), None)
    found = split(TASK, config(train_rows=60, validation_rows=20, test_rows=30), 0)
    assert [len(part) for part in parts(found).values()] == [20, 40, 20, 30]
    assert found.notes == ["test: no test file, so 30 rows of the training file (40, a fifth, are set apart)"]
    assert found.record["parts"]["test"]["of"] == "train"
    seen = [text for part in parts(found).values() for text in texts(part)]
    assert len(set(seen)) == len(seen), "no row stands in two parts"


def test_the_size_of_a_carved_test_part_leaves_the_others(lay: Lay) -> None:
    lay(rows(0, 200), None)
    few = split(TASK, config(test_rows=5), 0)
    many = split(TASK, config(test_rows=1000), 0)
    assert (few.D_f, few.D_p, few.validation) == (many.D_f, many.D_p, many.validation)
    assert len(many.test) == 40 and many.test[:5] == few.test
    assert not set(texts(many.test)) & set(texts(few.D_f + few.D_p + few.validation))


def test_a_carved_test_part_and_a_validation_file_stand_side_by_side(lay: Lay) -> None:
    lay(rows(0, 50), None, rows(45, 60))
    found = split(TASK, config(), 0)
    assert texts(found.validation) == texts(rows(45, 60)) and len(found.test) == 9
    assert len(found.D_f) + len(found.D_p) == 36


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_rows_to_set_test_rows_apart_are_bad_input(lay: Lay, count: int) -> None:
    lay(rows(0, count), None)
    with pytest.raises(
        BadInput, match=f"--task t: {count} different rows in all; give a test file, or at least 5 rows"
    ):
        split(TASK, config(), 0)


# Groups


def groups(part: list[dict[str, Any]]) -> set[str]:
    return {row["page"] for row in part}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("test", [None, pages(900, 920, 4)], ids=["carved", "file"])
def test_no_group_stands_on_both_sides_of_a_carved_border(lay: Lay, seed: int, test: Any) -> None:
    lay(pages(0, 240, 8), test)
    found = split(GROUPED, config(validation_rows=30), seed)
    held = [groups(found.D_f + found.D_p), groups(found.validation), groups(found.test)]
    assert all(held) and len(set.union(*held)) == sum(map(len, held))
    assert len(found.validation) == 30
    ungrouped = split(TASK, config(validation_rows=30), seed)
    assert groups(ungrouped.D_f + ungrouped.D_p) & groups(ungrouped.validation), "it would, but for the task's word"


@pytest.mark.parametrize("test", [None, rows(300, 310)])
@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_may_have_several_free_answers_and_stands_on_one_side(lay: Lay, seed: int, test: Any) -> None:
    free = Task(name="own/t", template="{{ text }}", label="label", metrics=())
    held = [{"text": f"Row {k // 5}", "label": f"answer {k}"} for k in range(200)]
    lay([*held, held[7], {"text": "row  35", "label": "answer 177 "}], test)
    found = split(free, config(validation_rows=21), seed)
    assert "train: 2 rows left out (repeated in the training file)" in found.notes
    sides = [set(texts(part)) for part in (found.D_f + found.D_p, found.validation, found.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    answers = [row["label"] for row in found.D_f + found.D_p + found.validation]
    assert len(set(answers)) == len(answers) == (156 if test is None else 196)
    if test is not None:
        assert "train: 4 rows left out (they share their prompt with validation rows)" in found.notes


def test_rows_that_share_a_group_with_validation_rows_are_left_out_and_counted(lay: Lay) -> None:
    lay(pages(0, 240, 8), rows(900, 920))
    found = split(GROUPED, config(validation_rows=30, test_rows=20), 0)
    left = 240 - sum(len(part) for part in (found.D_f, found.D_p, found.validation))
    assert 0 < left < 8, "of the last group alone"
    assert f"train: {left} rows left out (they share their page with validation rows)" in found.notes


def test_rows_that_share_a_group_with_carved_test_rows_are_counted(lay: Lay) -> None:
    lay(pages(0, 196, 7), None)
    found = split(GROUPED, config(validation_rows=24), 0)
    told = sum(int(note.split()[1]) for note in found.notes if "left out" in note)
    assert sum(len(part) for part in parts(found).values()) + told == 196


def test_one_group_of_all_rows_is_bad_input(lay: Lay) -> None:
    lay(pages(0, 50, 50), rows(900, 920))
    with pytest.raises(BadInput, match="--task t: 0 training rows are left"):
        split(GROUPED, config(), 0)


# What is told, asserted and recorded


def test_a_row_in_two_parts_is_a_fault_that_is_asserted(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(rows(0, 9), rows(8, 12))
    chosen = {"D_f": [0, 1], "D_p": [2, 3], "validation": [4], "test": [0, 1]}
    monkeypatch.setattr(splits, "_choose", lambda *_: chosen | {"D_p": [2, 8]})
    with pytest.raises(AssertionError, match="D_p and test share rows"):
        split(TASK, config(), 0)
    monkeypatch.setattr(splits, "_choose", lambda *_: chosen)
    assert texts(split(TASK, config(), 0).D_p) == ["Row 2", "Row 3"]


def test_each_row_is_named_with_its_file_and_its_number_in_it(lay: Lay) -> None:
    train, validation, test = rows(0, 40), rows(50, 60), rows(100, 120)
    for files in ({"train": train}, {"train": train, "test": test}, {"train": train, "validation": validation}):
        lay(train, files.get("test"), files.get("validation"))
        found = split(TASK, config(test_rows=5), 0)
        for part, held in parts(found).items():
            of = part if part in files else "train"
            where = [f"{of}.csv, row {files[of].index(row) + 1}" for row in held]
            assert found.named[part] == where and held


def test_rows_that_no_json_can_hold_have_a_digest_too(lay: Lay) -> None:
    dated = [row | {"when": datetime.date(2020, 1, 1)} for row in rows(0, 40)]
    lay(dated, rows(100, 120))
    assert len(split(TASK, config(), 0).record["parts"]["D_f"]["sha256"]) == 64


def test_test_rows_keep_their_order(lay: Lay) -> None:
    lay(rows(0, 40), rows(100, 200))
    assert texts(split(TASK, config(test_rows=100), 0).test) == texts(rows(100, 200))
    some = [int(text.split()[1]) for text in texts(split(TASK, config(test_rows=20), 0).test)]
    assert some == sorted(some) and len(set(some)) == 20 and some != list(range(100, 120))


def test_the_record_is_json_that_finds_the_rows_again(lay: Lay) -> None:
    train, test = rows(0, 90), rows(100, 130)
    lay(train, test)
    found = split(TASK, config(train_rows=20, validation_rows=10, test_rows=10), 4)
    record = json.loads(json.dumps(found.record))
    assert record == found.record and record["seed"] == 4 and record["source"] == "here"
    for name, part in parts(found).items():
        entry, file = record["parts"][name], test if name == "test" else train
        assert [file[k] for k in entry["indices"]] == part and entry["rows"] == len(part)
    digests = {entry["sha256"] for entry in record["parts"].values()}
    assert len(digests) == 4 and all(len(digest) == 64 for digest in digests)


def test_the_digest_sees_every_field(lay: Lay) -> None:
    def digest(label: int) -> str:
        lay([*rows(0, 20), {"text": "last", "label": label}], rows(100, 102))
        return str(split(TASK, config(train_rows=21, validation_rows=1), 0).record["parts"])

    assert digest(0) != digest(1)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_rows_are_bad_input(lay: Lay, count: int) -> None:
    lay(rows(0, count), rows(100, 110))
    with pytest.raises(BadInput, match="at least 3"):
        split(TASK, config(), 0)
    lay(rows(0, 1), rows(100, 110), rows(50, 60))
    with pytest.raises(BadInput, match="at least 2"):
        split(TASK, config(), 0)
    lay(rows(0, 10), rows(100, 110), rows(100, 105))
    with pytest.raises(BadInput, match="no validation rows"):
        split(TASK, config(), 0)


def test_the_packaged_reviews_are_disjoint_balanced_and_large_enough() -> None:
    found = split(find("reviews"), config(train_rows=10**6, validation_rows=10**6, test_rows=10**6), 0)
    assert not [note for note in found.notes if "left out" in note], "written to share no sentence"
    assert len(found.D_f) + len(found.D_p) >= 600 and len(found.test) >= 200
    for part in (found.D_f + found.D_p, found.validation, found.test):
        assert 0.45 < sum(row["label"] for row in part) / len(part) < 0.55


@pytest.mark.skipif(
    not (Path(os.environ.get("ZOFO_DATA", "/nowhere")) / "sst2").is_dir(), reason="ZOFO_DATA holds no folder sst2"
)
def test_sst2_keeps_its_872_test_rows_and_says_so() -> None:
    found = split(find("sst2"), config(), 0)
    assert [len(part) for part in parts(found).values()] == [333, 667, 500, 872]
    assert found.notes == ["test: 872 rows taken where 1000 were asked for (the test set has no more)"]
    assert found.record["parts"]["test"]["indices"] == list(range(872))


@pytest.mark.skipif(
    not (Path(os.environ.get("ZOFO_DATA", "/nowhere")) / "cb").is_dir(), reason="ZOFO_DATA holds no folder cb"
)
def test_cb_shrinks_to_its_250_training_rows_and_says_so() -> None:
    found = split(find("cb"), config(), 0)
    assert [len(part) for part in parts(found).values()] == [56, 111, 83, 56]
    assert found.notes == [
        "test: 56 rows taken where 1000 were asked for (the test set has no more)",
        "validation: 83 rows taken where 500 were asked for (a third of the training file)",
        "train: 167 rows taken where 1000 were asked for (the training file has no more)",
    ]
    assert found.named["test"][0] == "$ZOFO_DATA/cb/validation.jsonl.gz, row 1"
