"""Batches are pure functions of (seed, stream, step), and cover what they promise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from zofo.scoring.batch import Batch, Encoded, Rows, choice_batch
from zofo.tasks.batches import Batches, MixtureBatches, order, walk

SIZES = {"f": 7, "p": 14}
SIGMAS = 5


def examples(part: str) -> list[Encoded]:
    """Examples whose first token says which row they are: 1.. in D_f, 101.. in D_p."""
    start = {"f": 1, "p": 101}[part]
    return [Encoded((start + i, 5), ((6,), (7,)), i % 2) for i in range(SIZES[part])]


def make(seed: int = 0, rows: int = 4) -> Batches:
    """Batches of four rows over 7 rows of D_f and 14 of D_p."""
    parts = {part: examples(part) for part in SIZES}
    return Batches(parts | {"all": [*parts["f"], *parts["p"]]}, rows, 0, seed)


def tags(batches: list[Batch]) -> list[int]:
    """Which rows some batches hold."""
    return [int(i) for batch in batches for i in batch.input_ids[:, 0]]


def equal(a: Any, b: Any) -> bool:
    """Whether two batches, or what they are made of, hold the same numbers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if not isinstance(a, Batch | Rows):
        return bool(a == b)
    return type(a) is type(b) and all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def long_ones() -> Batches:
    """Batches of four rows over 13 rows, each with its number as first token and a length of its own, 2 to 14."""
    made = [Encoded((k + 1, *[9] * ((k * 5) % 13 + 1)), ((6,), (7,)), 0) for k in range(13)]
    return Batches({"p": made, "f": made[:1], "all": made}, 4, 0, 0)


def test_an_order_is_a_permutation_of_its_own() -> None:
    assert sorted(order(1, "s", 0, 50)) == list(range(50))
    assert len({order(1, "s", 0, 50), order(2, "s", 0, 50), order(1, "t", 0, 50), order(1, "s", 1, 50)}) == 4


@pytest.mark.parametrize("size", [1, 4, 7, 20])
def test_a_walk_covers_each_row_once_an_epoch(size: int) -> None:
    """However the epoch is cut into batches, and across its end."""
    n, epochs = 7, 4
    seen = [row for start in range(0, n * epochs * size, size) for row in walk(3, "s", start, size, n)]
    for epoch in range(epochs * size):
        assert sorted(seen[epoch * n : epoch * n + n]) == list(range(n))
    assert len({tuple(seen[e * n : e * n + n]) for e in range(4)}) == 4, "each epoch has an order of its own"


def test_batches_are_pure_functions() -> None:
    """Asked again, in another order, by another object: the same numbers."""
    first = {(s, k): make().batch("p", s, k, 2) for s in ("s", "upper") for k in range(5)}
    again = make()
    for (stream, step), batches in reversed(first.items()):
        found = again.batch("p", stream, step, 2)
        assert len(found) == 2 and all(equal(a, b) for a, b in zip(batches, found, strict=True))
    assert all(equal(a, b) for a, b in zip(make().mixed("p", 3, 2, 0.5), again.mixed("p", 3, 2, 0.5), strict=True))


def test_equal_sees_a_difference() -> None:
    (one,), (two,) = make().batch("p", "s", 0, 1), make().batch("p", "s", 1, 1)
    assert equal(one, one) and not equal(one, two) and not equal(one, replace(one, token=one.token + 1))


def test_batches_depend_on_every_part() -> None:
    base = tags(make().batch("p", "s", 0, 2))
    assert base != tags(make(1).batch("p", "s", 0, 2))
    assert base != tags(make().batch("p", "upper", 0, 2))
    assert base != tags(make().batch("p", "s", 1, 2))
    mixed = tags(make().mixed("p", 0, 4, 0.5))
    assert mixed not in (
        tags(make(1).mixed("p", 0, 4, 0.5)),
        tags(make().mixed("q", 0, 4, 0.5)),
        tags(make().mixed("p", 1, 4, 0.5)),
    )


def test_steps_of_a_stream_cover_the_part_evenly() -> None:
    seen = Counter(tag for step in range(7) for tag in tags(make().batch("p", "s", step, 2)))
    assert seen == Counter({101 + i: 4 for i in range(14)})


def test_micro_batches_are_one_larger_batch_in_pieces() -> None:
    """Four micro-batches of 2 rows are the rows of one batch of 8."""
    small, large = make(rows=2).batch("f", "s", 3, 4), make(rows=8).batch("f", "s", 3, 1)
    assert [batch.input_ids.shape[0] for batch in small] == [2, 2, 2, 2]
    assert tags(small) == tags(large)


def test_several_micro_batches_are_cut_by_length_and_hold_exactly_the_rows_of_the_step() -> None:
    batches = long_ones()
    for step in range(6):
        found = batches.batch("p", "s", step, 3)
        assert [batch.input_ids.shape[0] for batch in found] == [4, 4, 4]
        wanted = [k + 1 for k in walk(0, "rows-s", step * 12, 12, 13)]
        assert Counter(tags(found)) == Counter(wanted)
        sizes = [int(n) for batch in found for n in batch.attention_mask.sum(1)]
        assert sizes == sorted(sizes)
        assert [batch.input_ids.shape[1] for batch in found] == sizes[3::4], "padded to the longest of its own rows"


def test_one_micro_batch_keeps_the_order_of_the_walk() -> None:
    batches = long_ones()
    for step in range(6):
        (batch,) = batches.batch("p", "s", step, 1)
        assert tags([batch]) == [k + 1 for k in walk(0, "rows-s", step * 4, 4, 13)]


def test_mixed_micro_batches_are_cut_by_length_too() -> None:
    sizes = [int(n) for batch in long_ones().mixed("s", 0, 3, 0.1) for n in batch.attention_mask.sum(1)]
    assert sizes == sorted(sizes) and len(set(sizes)) > 2


def test_micro_batches_are_made_by_build() -> None:
    """Of all choices, say, instead of the right answers; from the same rows."""
    right, all_ = make(), replace(make(), build=choice_batch)
    for one, two in (
        (right.batch("p", "s", 0, 2), all_.batch("p", "s", 0, 2)),
        (right.mixed("p", 0, 2, 0.5), all_.mixed("p", 0, 2, 0.5)),
    ):
        assert [batch.count.tolist() for batch in one] == [[1] * 4] * 2
        assert [batch.count.tolist() for batch in two] == [[2] * 4] * 2
        assert [batch.examples for batch in one] == [batch.examples for batch in two]


def test_a_part_smaller_than_a_batch_is_gone_through_again() -> None:
    batches = make(rows=20).batch("f", "s", 0, 1)
    assert max(Counter(tags(batches)).values()) == 3 and len(tags(batches)) == 20


@pytest.mark.parametrize("lam", [0.0, 1.0, 10.0, 100.0])
def test_mixed_rows_come_from_d_f_with_their_share(lam: float) -> None:
    """Share 1 / (1 + lambda), and inside each part all rows alike, within sampling error."""
    share, batches = 1 / (1 + lam), make(rows=100)
    drawn = [tag for step in range(60) for tag in tags(batches.mixed("p", step, 1, share))]
    upper = [tag for tag in drawn if tag < 100]
    assert abs(len(upper) / len(drawn) - share) <= SIGMAS * math.sqrt(share * (1 - share) / len(drawn))
    for part in (upper, [tag for tag in drawn if tag > 100]):
        n = 7 if part is upper else 14
        for count in Counter(part).values() if len(part) > 200 else ():
            assert abs(count - len(part) / n) < SIGMAS * math.sqrt(len(part) / n)


def test_mixed_rows_are_drawn_with_replacement() -> None:
    assert max(Counter(tags(make(rows=40).mixed("p", 0, 1, 0.5))).values()) > 1


def test_a_batch_holds_the_right_answers_only() -> None:
    (batch,) = make(rows=14).batch("p", "s", 0, 1)
    right = [6 + (tag - 101) % 2 for tag in tags([batch])]
    assert batch.token.tolist() == right and batch.count.tolist() == [1] * 14


TASKS = {"one": (4, 8), "two": (3, 5), "three": (10, 20)}


def several(sampling: str = "uniform", rows: int = 4, seed: int = 0) -> MixtureBatches:
    """Batches over three tasks; the first token of a row says which task's it is (hundreds) and which row (D_p from 50)."""
    members = {}
    for k, (name, (f, p)) in enumerate(TASKS.items(), 1):
        parts = {
            "f": [Encoded((100 * k + i, 5), ((6,), (7,)), 0) for i in range(f)],
            "p": [Encoded((100 * k + 50 + i, 5), ((6,), (7,)), 0) for i in range(p)],
        }
        members[name] = Batches(parts | {"all": [*parts["f"], *parts["p"]]}, rows, 0, seed, task=name)
    return MixtureBatches(members, sampling)  # type: ignore[arg-type]


def test_a_mixed_batch_holds_rows_of_several_tasks_each_alike_often() -> None:
    made = several()
    found = [tags(made.batch("p", "lower-s", step, 1)) for step in range(30)]
    assert all(len({tag // 100 for tag in batch}) >= 2 for batch in found)
    assert Counter(tag // 100 for batch in found for tag in batch) == {1: 40, 2: 40, 3: 40}
    runs = [tag for batch in found for tag in batch]
    assert all({tag // 100 for tag in runs[k : k + 3]} == {1, 2, 3} for k in range(0, 120, 3))


def test_a_task_walks_through_its_own_rows_once_an_epoch() -> None:
    made = several()
    runs = [tag for step in range(30) for tag in tags(made.batch("f", "upper-f", step, 1))]
    two = [tag for tag in runs if tag // 100 == 2]
    assert all(sorted(two[k : k + 3]) == [200, 201, 202] for k in range(0, 39, 3))
    assert len({tuple(two[k : k + 3]) for k in range(0, 39, 3)}) > 1


def test_mixed_batches_are_functions_of_seed_stream_and_step() -> None:
    made = several()
    late = tags(made.batch("all", "train", 7, 2))
    for step in range(7):
        made.batch("all", "train", step, 2)
    assert tags(made.batch("all", "train", 7, 2)) == late == tags(several().batch("all", "train", 7, 2))
    others = [
        several(seed=1).batch("all", "train", 7, 2),
        made.batch("all", "other", 7, 2),
        made.batch("all", "train", 8, 2),
    ]
    assert all(tags(other) != late for other in others)


def test_by_size_the_rows_of_all_tasks_are_walked_through() -> None:
    made = several("size", rows=5)
    runs = [tag for step in range(10) for tag in tags(made.batch("all", "train", step, 1))]
    assert len(runs) == 50 == len(set(runs))
    assert Counter(tag // 100 for tag in runs) == {1: 12, 2: 8, 3: 30}


@pytest.mark.parametrize(("sampling", "chances"), [("uniform", (1 / 3, 1 / 3, 1 / 3)), ("size", (0.24, 0.16, 0.6))])
def test_rows_drawn_of_both_levels_keep_to_the_share_and_to_the_tasks(
    sampling: str, chances: tuple[float, ...]
) -> None:
    made, n, share = several(sampling), 4000, 0.3
    drawn = tags(made.mixed("lower-p", 0, n // 4, share))
    assert len(drawn) == n and tags(made.mixed("lower-p", 0, n // 4, share)) == drawn
    for k, chance in enumerate(chances, 1):
        own = [tag for tag in drawn if tag // 100 == k]
        assert abs(len(own) - n * chance) < SIGMAS * math.sqrt(n * chance * (1 - chance))
        upper = sum(tag % 100 < 50 for tag in own)
        assert abs(upper - share * len(own)) < SIGMAS * math.sqrt(len(own) * share * (1 - share))
        assert len(set(own)) == sum(TASKS[list(TASKS)[k - 1]])  # every row comes


def test_a_tasks_own_batches_hold_its_rows_alone_in_an_order_of_its_own() -> None:
    made = several()
    for k, name in enumerate(TASKS, 1):
        assert {tag // 100 for tag in tags(made.of(name).batch("p", "lower-s", 0, 2))} == {k}
    alone = make()
    assert alone.stream("train") == "rows-train" and made.of("one").stream("train") == "rows-train-one"


def test_a_part_that_a_task_lacks_comes_from_the_others() -> None:
    held = several().members
    short = {
        name: replace(own, parts={**own.parts, "short": own.parts["f"] if name != "one" else []})
        for name, own in held.items()
    }
    found = tags(MixtureBatches(short).batch("short", "train", 0, 2))
    assert {tag // 100 for tag in found} == {2, 3}


def test_choices_of_different_number_stand_in_one_batch() -> None:
    """The classification loss takes rows of tasks with other numbers of options."""
    two = [Encoded((1, 5), ((6,), (7,)), 0)]
    four = [Encoded((2, 5), ((6,), (7,), (8,), (9,)), 3)]
    members = {
        name: Batches({"f": held, "p": held, "all": held}, 4, 0, 0, choice_batch, name)
        for name, held in (("two", two), ("four", four))
    }
    (batch,) = MixtureBatches(members).batch("f", "upper-f", 0, 1)
    assert sorted(batch.count.tolist()) == [2, 2, 4, 4]
