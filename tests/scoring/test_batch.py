"""Batches hold each wanted position once, and every target where its answer says."""

from __future__ import annotations

import pytest
import torch

from zofo.scoring.batch import Batch, Encoded, choice_batch, lm_batch

SHORT = Encoded((5, 6, 7, 8), ((20,), (21,)), 1)
LONG = Encoded((9, 10), ((30, 31, 32), (30, 31, 33), (34, 35)), 2, cut=True)


def spelled(batch: Batch) -> list[list[tuple[list[int], int]]]:
    """For each answer, the tokens in sight and the token wanted, for each of its targets."""
    found: list[list[tuple[list[int], int]]] = [[] for _ in range(int(batch.count.sum()))]
    for at, token, answer in zip(batch.at.tolist(), batch.token.tolist(), batch.answer.tolist(), strict=True):
        row, col = int(batch.row[at]), int(batch.col[at])
        found[answer].append((batch.input_ids[row, : col + 1].tolist(), token))
    return found


def expected(example: Encoded, k: int) -> list[tuple[list[int], int]]:
    answer = example.answers[k]
    return [(list(example.context + answer[:t]), answer[t]) for t in range(len(answer))]


def test_every_choice_is_predicted_from_its_context_and_its_earlier_tokens() -> None:
    batch = choice_batch([SHORT, LONG], [1, 0], pad=0)
    assert spelled(batch) == [expected(LONG, k) for k in range(3)] + [expected(SHORT, k) for k in range(2)]
    assert (batch.first.tolist(), batch.count.tolist(), batch.gold.tolist(), batch.cut) == ([0, 3], [3, 2], [2, 4], 1)


def test_the_lm_batch_holds_right_answers_only() -> None:
    batch = lm_batch([SHORT, LONG], [0, 1, 0], pad=0)
    assert spelled(batch) == [expected(SHORT, 1), expected(LONG, 2), expected(SHORT, 1)]
    assert (batch.gold.tolist(), batch.first.tolist(), batch.count.tolist()) == ([0, 1, 2], [0, 1, 2], [1, 1, 1])


def test_choices_of_one_token_share_one_row_and_one_position() -> None:
    batch = choice_batch([SHORT], [0], pad=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8]]
    assert (batch.row.tolist(), batch.col.tolist(), batch.at.tolist()) == ([0], [3], [0, 0])


@pytest.mark.parametrize("make", [lm_batch, choice_batch])
def test_positions_are_unique_and_padding_is_masked(make: object) -> None:
    batch = make([SHORT, LONG], [0, 1], pad=99)  # type: ignore[operator]
    places = list(zip(batch.row.tolist(), batch.col.tolist(), strict=True))
    assert len(set(places)) == len(places)
    assert torch.equal(batch.attention_mask == 0, batch.input_ids == 99)
    assert bool(batch.attention_mask[batch.row, batch.col].all())
    assert (batch.attention_mask.diff() <= 0).all(), "padding stands on the right"


def test_moving_to_the_same_device_costs_nothing() -> None:
    batch = lm_batch([LONG], [0], pad=0)
    assert batch.to("cpu") is batch
    assert batch.to("meta").token.device.type == "meta" and batch.to("meta").cut == 1


def test_length_is_that_of_the_longest_row() -> None:
    for example in (SHORT, LONG):
        assert example.length == choice_batch([example], [0], pad=0).input_ids.shape[1]
