"""Few rows: k of every class exactly, never a test row, a function of the seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.tasks import own, shots
from zofo.tasks.shots import Pool
from zofo.tasks.splits import Splits, normalised, split

Rows = list[dict[str, Any]]


def laid(folder: Path, train: Rows, test: Rows | None = None, **options: Any) -> tuple[Splits, Pool]:
    """The splits of rows in MetaICL's form, and the pool of them."""
    for name, rows in (("train", train), ("test", test or [])):
        if rows:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = DataConfig(task=str(folder), train_rows=10**9, validation_rows=1, **options)
    task = own.resolve(data)
    made = split(task, data, 0)
    return made, shots.pool(task, made)


def classes(counts: dict[str, int]) -> Rows:
    names = list(counts)
    return [{"input": f"{c} {k}", "output": c, "options": names} for c, n in counts.items() for k in range(n)]


def test_k_of_every_class_and_no_test_row(tmp_path: Path) -> None:
    test = [{"input": f"test {k}", "output": "b", "options": ["a", "b", "c"]} for k in range(5)]
    made, pool = laid(tmp_path, [*classes({"a": 5, "b": 9, "c": 40}), *test], test)
    assert sum(map(len, pool.groups.values())) == 54  # all training rows but those that are test rows too
    tests = {normalised(pool.task, row) for row in made.test}
    for seed in range(20):
        rows = [pool.rows[k] for k in shots.drawn(pool, 4, seed)]
        assert Counter(row["output"] for row in rows) == {"a": 4, "b": 4, "c": 4}
        assert not {normalised(pool.task, row) for row in rows} & tests
        assert len({row["input"] for row in rows}) == 12


def test_options_of_test_rows_that_no_training_row_has_are_named(tmp_path: Path) -> None:
    test = [{"input": f"test {k}", "output": "c", "options": ["a", "b", "c"]} for k in range(5)]
    made, pool = laid(tmp_path, classes({"a": 5, "b": 9}), test)
    assert set(pool.groups) == {"a", "b"} and shots.beyond(pool, made) == ["c"]
    made, pool = laid(tmp_path, classes({"a": 5, "b": 9, "c": 3}), test)
    assert shots.beyond(pool, made) == []


def test_a_draw_is_a_function_of_the_seed_and_fewer_are_a_part_of_more(tmp_path: Path) -> None:
    _, pool = laid(tmp_path, classes({"a": 50, "b": 50}))
    assert shots.drawn(pool, 4, 1) == shots.drawn(pool, 4, 1) != shots.drawn(pool, 4, 2)
    assert set(shots.drawn(pool, 2, 1)) < set(shots.drawn(pool, 4, 1))


def test_rows_are_known_by_their_number_in_the_file(tmp_path: Path) -> None:
    train = classes({"a": 12, "b": 12})
    _, pool = laid(tmp_path, train)
    for k in shots.drawn(pool, 3, 5):
        assert pool.rows[k]["input"] == train[pool.index[k]]["input"]
        assert pool.named[k].endswith(f"row {pool.index[k] + 1}")


def test_options_of_their_own_and_free_answers(tmp_path: Path) -> None:
    several = [{"input": f"q {k}", "output": f"x{k}", "options": [f"x{k}", "y", "z"]} for k in range(60)]
    (tmp_path / "own").mkdir()
    _, pool = laid(tmp_path / "own", several)
    assert len(shots.drawn(pool, 4, 0)) == 12 and pool.words(4) == "12 examples (4 for each option of a row)"
    (tmp_path / "free").mkdir()
    _, pool = laid(tmp_path / "free", [{"input": f"q {k}", "output": f"a {k}", "options": []} for k in range(60)])
    assert len(shots.drawn(pool, 4, 0)) == 4 and pool.words(4) == "4 examples"


def test_an_order_of_options_is_no_other_set_of_classes(tmp_path: Path) -> None:
    rows = classes({"a": 20, "b": 20})
    for row in rows[::2]:
        row["options"] = ["b", "a"]
    _, pool = laid(tmp_path, rows)
    assert set(pool.groups) == {"a", "b"} and pool.words(4) == "4 examples of each of 2 classes"


def test_too_few_of_a_class_names_task_class_and_number(tmp_path: Path) -> None:
    (tmp_path / "moods").mkdir()
    train = [*classes({"sad": 30, "glad": 30})]
    train += [{"input": f"mad {k}", "output": "mad", "options": ["sad", "glad"]} for k in range(0)]
    for row in train:
        row["options"] = ["sad", "glad", "mad"]
    _, pool = laid(tmp_path / "moods", train, classes({"sad": 2, "glad": 2}))
    match = (
        r"--shots 4: class 'mad' of own/moods has 0 training rows in .*train.jsonl, a draw takes 4; give the class rows"
    )
    with pytest.raises(BadInput, match=match):
        shots.drawn(pool, 4, 0)
    _, pool = laid(tmp_path / "moods", [*train, *({**train[0], "input": f"m {k}", "output": "mad"} for k in range(3))])
    with pytest.raises(
        BadInput, match=r"has 3 training rows \(.*train.jsonl, row 62, and 2 more\), a draw takes 4; ask for at most 3"
    ):
        shots.refuse_few(pool, 4)


def test_drawn_rows_stand_in_the_place_of_d_p(tmp_path: Path) -> None:
    made, pool = laid(tmp_path, classes({"a": 20, "b": 20}))
    index = shots.drawn(pool, 2, 0)
    lower = shots.lower(made, pool, index)
    assert lower.D_p == [pool.rows[k] for k in index] and len(lower.named["D_p"]) == 4 and lower.test == made.test
