"""Batches hold each wanted position once, and every target where its answer says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from zofo.core.streams import generator
from zofo.scoring import batch as made_of
from zofo.scoring.batch import Batch, Encoded, Rows, cheapest, choice_batch, frugal_batch, lm_batch, tokens

SHORT = Encoded((5, 6, 7, 8), ((20,), (21,)), 1, right=(1,), texts=("no", "yes"))
LONG = Encoded((9, 10), ((30, 31, 32), (30, 31, 33), (34, 35)), 2, cut=True)
BORDER = Encoded((3, 4), ((40, 41, 42), (43,), (40, 41)), 2, right=(2, 0), skip=(2, 0, 1))

Seen = list[tuple[list[int], int]]
Made = Callable[[list[Encoded], list[int]], Batch]

KINDS: dict[str, Made] = {
    "lm": lambda examples, index: lm_batch(examples, index, pad=99),
    "choice": lambda examples, index: choice_batch(examples, index, pad=99),
    "branched": lambda examples, index: choice_batch(examples, index, pad=99, branched=True),
}


def in_sight(batch: Batch, at: int) -> list[int]:
    """The tokens that position `at` sees: of its row, and for a tail of the row that it goes on from."""
    there = len(batch.rows.row)
    if at < there:
        row, col = int(batch.rows.row[at]), int(batch.rows.col[at])
        return batch.input_ids[row, : col + 1].tolist()
    assert batch.tails is not None and batch.parent is not None
    tail, col = int(batch.tails.row[at - there]), int(batch.tails.col[at - there])
    parent = int(batch.parent[tail])
    before = batch.input_ids[parent][batch.attention_mask[parent] == 1].tolist()
    return before + batch.tails.input_ids[tail, : col + 1].tolist()


def spelled(batch: Batch) -> list[Seen]:
    """For each answer, the tokens in sight and the token wanted, for each of its targets."""
    found: list[Seen] = [[] for _ in range(int(batch.count.sum()))]
    for at, token, answer in zip(batch.at.tolist(), batch.token.tolist(), batch.answer.tolist(), strict=True):
        found[answer].append((in_sight(batch, at), token))
    return found


def expected(example: Encoded, k: int) -> Seen:
    answer, skip = example.answers[k], example.skip[k] if example.skip else 0
    return [(list(example.context + answer[:t]), answer[t]) for t in range(skip, len(answer))]


def parts(batch: Batch) -> list[Rows]:
    return [batch.rows] if batch.tails is None else [batch.rows, batch.tails]


def drawn(seed: int) -> list[Encoded]:
    """Random examples: contexts of 1 to 6 tokens, 2 to 4 answers of 1 to 3 from few letters, some skipped."""
    draw, found = generator(seed, "batch test"), []
    for _ in range(6):
        context = tuple(draw.integers(1, 5, int(draw.integers(1, 7))).tolist())
        answers = tuple(
            tuple(draw.integers(1, 4, int(draw.integers(1, 4))).tolist()) for _ in range(draw.integers(2, 5))
        )
        skip = tuple(int(draw.integers(0, len(answer))) for answer in answers)
        found.append(Encoded(context, answers, 0, skip=skip if any(skip) else ()))
    return found


@pytest.mark.parametrize("kind", ["choice", "branched"])
def test_every_choice_is_predicted_from_its_context_and_its_earlier_tokens(kind: str) -> None:
    batch = KINDS[kind]([SHORT, LONG], [1, 0])
    assert spelled(batch) == [expected(LONG, k) for k in range(3)] + [expected(SHORT, k) for k in range(2)]
    assert (batch.first.tolist(), batch.count.tolist(), batch.gold.tolist(), batch.cut) == ([0, 3], [3, 2], [2, 4], 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["choice", "branched"])
def test_targets_of_random_examples_stand_where_their_answers_say(kind: str, seed: int) -> None:
    examples = drawn(seed)
    found = spelled(KINDS[kind](examples, [3, 0, 5]))
    assert found == [expected(examples[k], n) for k in (3, 0, 5) for n in range(len(examples[k].answers))]


def test_the_lm_batch_holds_right_answers_only() -> None:
    batch = lm_batch([SHORT, LONG], [0, 1, 0], pad=0)
    assert spelled(batch) == [expected(SHORT, 1), expected(LONG, 2), expected(SHORT, 1)]
    assert (batch.gold.tolist(), batch.first.tolist(), batch.count.tolist()) == ([0, 1, 2], [0, 1, 2], [1, 1, 1])
    assert batch.right.tolist() == [1, 1, 1]


def test_tokens_that_belong_to_the_prompt_are_seen_and_not_wanted() -> None:
    assert spelled(KINDS["lm"]([BORDER], [0])) == [[([3, 4, 40], 41)]]
    for kind in ("choice", "branched"):
        assert spelled(KINDS[kind]([BORDER], [0])) == [[([3, 4, 40, 41], 42)], [([3, 4], 43)], [([3, 4, 40], 41)]]


def test_all_right_answers_are_marked_and_the_first_is_gold() -> None:
    batch = choice_batch([SHORT, BORDER], [0, 1], pad=0)
    assert batch.right.tolist() == [0, 1, 1, 0, 1]
    assert batch.gold.tolist() == [1, 4]
    assert (BORDER.rights, LONG.rights) == ((2, 0), (2,))


def test_a_batch_knows_its_examples_in_the_order_asked_for() -> None:
    assert choice_batch([SHORT, LONG, BORDER], [2, 0], pad=0).examples == (BORDER, SHORT)
    assert lm_batch([SHORT, LONG], [1, 1], pad=0).examples == (LONG, LONG)


@pytest.mark.parametrize("kind", KINDS)
def test_choices_of_one_token_share_one_row_and_one_position(kind: str) -> None:
    batch = KINDS[kind]([SHORT], [0])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8]]
    assert (batch.rows.row.tolist(), batch.rows.col.tolist(), set(batch.at.tolist())) == ([0], [3], {0})
    assert batch.tails is None and batch.parent is None


def test_a_branched_batch_reads_each_context_once() -> None:
    batch = KINDS["branched"]([LONG, SHORT], [0, 1])
    assert batch.input_ids.tolist() == [[9, 10, 99, 99], [5, 6, 7, 8]]
    assert batch.tails is not None and batch.parent is not None
    assert batch.tails.input_ids.tolist() == [[30, 31], [34, 99]]
    assert batch.parent.tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_unique_and_padding_is_masked(kind: str) -> None:
    for rows in parts(KINDS[kind]([SHORT, LONG, BORDER], [0, 1, 2])):
        places = list(zip(rows.row.tolist(), rows.col.tolist(), strict=True))
        assert len(set(places)) == len(places)
        assert torch.equal(rows.attention_mask == 0, rows.input_ids == 99)
        assert bool(rows.attention_mask[rows.row, rows.col].all())
        assert (rows.attention_mask.diff() <= 0).all(), "padding stands on the right"


@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_tokens_counts_what_the_rows_hold(seed: int, branched: bool) -> None:
    examples = drawn(seed)
    batch = choice_batch(examples, range(len(examples)), pad=0, branched=branched)
    assert tokens(examples, branched) == sum(rows.input_ids.numel() for rows in parts(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_moving_a_batch_moves_every_tensor_of_it(kind: str) -> None:
    batch = KINDS[kind]([LONG, BORDER], [0, 1])
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    tensors = [value for part in (moved, *parts(moved)) for value in vars(part).values() if torch.is_tensor(value)]
    assert len(tensors) >= 11 and {value.device.type for value in tensors} == {"meta"}
    assert (moved.cut, moved.examples) == (1, batch.examples)


def test_length_is_that_of_the_longest_row() -> None:
    for example in (SHORT, LONG, BORDER, replace(LONG, skip=(2, 2, 1))):
        assert example.length == choice_batch([example], [0], pad=0).input_ids.shape[1]


def test_merged_batches_have_the_losses_of_each(tiny) -> None:  # type: ignore[no-untyped-def]
    """Rows, positions, answers and examples follow one another, whatever their lengths."""
    from zofo.scoring.batch import merged
    from zofo.scoring.objective import choice_losses, row_losses

    model = tiny("llama")
    few = [Encoded((5, 6, 7), ((8, 9), (10,)), 0), Encoded((11,), ((13,), (14, 3), (15,)), 2)]
    more = [Encoded((20, 21, 22, 23, 24), ((8,), (9,)), 1)]
    for make, loss in ((lm_batch, row_losses), (choice_batch, choice_losses)):
        parts = [make(few, range(2), 0), make(more, range(1), 0), make(few, [1], 0)]
        whole = merged(parts)
        assert whole.examples == (*few, *more, few[1])
        want = torch.cat([loss(model, part) for part in parts])
        assert torch.allclose(loss(model, whole), want, rtol=1e-6)


@pytest.mark.parametrize("saved", [-1, 0, 1])
def test_a_frugal_batch_reads_contexts_once_where_that_saves_more_than_a_pass(
    saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = [LONG, BORDER]
    less = tokens(part) - tokens(part, branched=True)
    assert less > 1
    monkeypatch.setattr(made_of, "PASS", less - saved)
    batch = frugal_batch([SHORT, *part], [1, 2], 99)
    assert (batch.tails is not None) == (saved > 0)
    assert spelled(batch) == [expected(example, k) for example in part for k in range(len(example.answers))]
    assert cheapest(part) == tokens(part) - max(saved, 0)


def test_a_branched_batch_is_not_merged() -> None:
    from zofo.scoring.batch import merged

    branched = choice_batch([Encoded((5, 6), ((8, 9), (10, 11)), 0)], [0], 0, True)
    with pytest.raises(ValueError, match="branched"):
        merged([branched, branched])
