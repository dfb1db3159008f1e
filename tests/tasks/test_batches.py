"""Batches are pure functions of (seed, stream, step), and cover what they promise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields

import pytest
import torch

from zofo.scoring.batch import Batch, Encoded
from zofo.tasks.batches import Batches, order, walk

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


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same numbers."""
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(Batch)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


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
