"""Demonstrations are solved rows, drawn by the seed alone; a row is never its own."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from zofo.errors import BadInput
from zofo.tasks.definition import Task
from zofo.tasks.demonstrations import for_all, for_each, refuse_too_many, texts
from zofo.tasks.render import Style

TASK = Task(name="t", template="{{ text }} is", template_free="{{ text }}:", choices=("bad", "good"), separator="\n")
PLAIN = SimpleNamespace(eos_token="<end>")
POOL = [f"row {k}" for k in range(9)]


def test_a_demonstration_is_a_row_with_its_right_answer() -> None:
    rows = [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    assert texts(TASK, rows, PLAIN, Style(), ["a", "b"]) == ["one is good\n", "two is bad\n"]
    assert texts(TASK, rows, PLAIN, Style(hard_prompt=False), ["a", "b"]) == ["one: good\n", "two: bad\n"]


def test_a_row_that_cannot_be_a_demonstration_is_named() -> None:
    with pytest.raises(BadInput, match=r"^train.csv, row 7: task t's template reads a field that is missing"):
        texts(
            TASK, [{"text": "one", "label": 1}, {"label": 0}], PLAIN, Style(), ["train.csv, row 2", "train.csv, row 7"]
        )
    with pytest.raises(BadInput, match=r"^--data.shots: conversations cannot be demonstrations"):
        texts(Task(name="t", chat="messages", metrics=()), [{"messages": []}], PLAIN, Style(), ["x"])


@pytest.mark.parametrize("shots", [1, 3, 8])
def test_each_row_has_others_for_demonstrations_each_once(shots: int) -> None:
    for seed in range(20):
        for row, drawn in zip(POOL, for_each(POOL, shots, seed, "p"), strict=True):
            assert len(drawn) == len(set(drawn)) == shots
            assert row not in drawn and set(drawn) <= set(POOL)


def test_every_other_row_is_drawn_alike() -> None:
    seen = Counter(text for seed in range(900) for text in for_each(POOL, 2, seed, "p")[4])
    assert set(seen) == set(POOL) - {"row 4"}
    assert all(abs(count - 225) < 5 * 13 for count in seen.values()), "900 * 2 / 8, within five standard errors"


def test_rows_draw_apart_from_each_other() -> None:
    assert len({tuple(drawn) for drawn in for_each(POOL, 3, 0, "p")}) == len(POOL)


def test_what_is_drawn_is_a_function_of_seed_and_stream() -> None:
    assert for_each(POOL, 3, 0, "p") == for_each(POOL, 3, 0, "p")
    assert for_each(POOL, 3, 0, "p") not in (for_each(POOL, 3, 1, "p"), for_each(POOL, 3, 0, "f"))
    assert for_all(POOL, 3, 0) == for_all(POOL, 3, 0) != for_all(POOL, 3, 1)


def test_rows_drawn_once_are_of_the_pool_each_once_and_more_go_on_from_fewer() -> None:
    for seed in range(20):
        drawn = for_all(POOL, 8, seed)
        assert len(set(drawn)) == 8 and set(drawn) < set(POOL)
        assert for_all(POOL, 3, seed) == drawn[:3]


def test_as_many_shots_as_rows_are_refused() -> None:
    refuse_too_many(3, 4, "D_p")
    for shots in (4, 5):
        with pytest.raises(
            BadInput, match=f"^--data.shots {shots}: D_p has 4 training rows to take them from; ask for at most 3"
        ):
            refuse_too_many(shots, 4, "D_p")
