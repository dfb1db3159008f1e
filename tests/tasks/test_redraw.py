"""Demonstrations of a training row are a step's own, of its own level; long ones are cut where the task says, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from films import ROWS, splits
from transformers import AutoTokenizer

from zofo.config import Config, DataConfig, build
from zofo.core.streams import generator
from zofo.errors import BadInput
from zofo.methods.check import check
from zofo.scoring.batch import Encoded, lm_batch
from zofo.tasks.batches import Batches, walk
from zofo.tasks.definition import Task
from zofo.tasks.demonstrations import for_each
from zofo.tasks.parts import encode as encode_parts

FIXED = Task(name="fixed", template="{{ text }} It was", choices=("terrible", "great"), shorten="text")


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Any:
    """A token a byte."""
    return AutoTokenizer.from_pretrained(folder)


# Demonstrations drawn anew


def shown(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The numbers of the films in a text."""
    text = str(tokenizer.decode(list(ids)))
    return [piece[:2] for piece in text.split("film ")[1:]]


def test_each_step_has_its_own_demonstrations_of_its_own_level(tokenizer: Any) -> None:
    found = encode_parts(FIXED, ROWS, tokenizer, DataConfig(shots=3, redraw=True), 0).redraw
    assert found is not None
    seen = set()
    for step in range(12):
        for part, k, own, level in (
            ("f", 2, "02", range(6)),
            ("p", 1, "07", range(6, 14)),
            ("all", 7, "07", range(6, 14)),
        ):
            row = found.encoded(part, k, "train", step, 0)
            *shots, last = shown(tokenizer, row.context)
            assert last == own and own not in shots and len(set(shots)) == 3
            assert {int(shot) for shot in shots} <= set(level)
            seen.add((part, *shots))
    assert len(seen) > 30
    assert found.encoded("f", 2, "train", 5, 0) == found.encoded("f", 2, "train", 5, 0)
    assert found.encoded("f", 2, "train", 5, 0) != found.encoded("f", 2, "s", 5, 0)


def test_without_redrawing_nothing_changes(tokenizer: Any) -> None:
    before = encode_parts(FIXED, ROWS, tokenizer, DataConfig(shots=3), 0)
    assert before.redraw is None
    anew, plain = (
        encode_parts(FIXED, ROWS, tokenizer, data, 0).encoded
        for data in (DataConfig(shots=3, redraw=True), DataConfig())
    )
    for part in ("validation", "test"):
        assert anew[part] == before.encoded[part], "they have theirs for good"
    assert all(anew[part] == plain[part] for part in ("f", "p")), "a step encodes them"
    assert encode_parts(FIXED, ROWS, tokenizer, DataConfig(redraw=True), 0).redraw is None
    assert encode_parts(FIXED, ROWS, tokenizer, DataConfig(shots=3, redraw=True), 0, wanted=("test",)).redraw is None
    pool = [f"row {k}" for k in range(5)]
    drawn = generator(0, "demonstrations-p", 2).choice(4, 3, replace=False)
    assert for_each(pool, 3, 0, "p")[2] == [pool[k + (k >= 2)] for k in drawn.tolist()]


def uneven(tokenizer: Any, positions: int | None) -> Any:
    """24 films, every sixth with a long text, behind three demonstrations of a step's own."""
    rows = [{"text": f"film {k:02}" + "y" * (30 * (k % 6 == 0)), "label": k % 2} for k in range(24)]
    return encode_parts(FIXED, splits(rows), tokenizer, DataConfig(shots=3, redraw=True), 0, positions)


def stepped(found: Any, level: str) -> list[Encoded]:
    """A level's rows as many steps have them."""
    return [
        found.redraw.encoded(level, k, "train", step, 0) for k in range(len(found.encoded[level])) for step in range(20)
    ]


@pytest.mark.parametrize("positions", [None, 60, 100])
def test_no_step_takes_longer_rows_than_the_longest(tokenizer: Any, positions: int | None) -> None:
    found = uneven(tokenizer, positions)
    longest = found.redraw.longest(found.encoded, 2, lambda row: row.length)
    assert len(longest) == 4, "two of each level"
    for level, rows in (("f", longest[:2]), ("p", longest[2:])):
        bound, seen = rows[0].length, max(row.length for row in stepped(found, level))
        assert rows[1].length <= bound and 0.75 * bound < seen <= bound
        assert positions is None or bound < positions


@pytest.mark.parametrize("positions", [60, 80, 100, 150, 400])
def test_it_is_said_how_few_demonstrations_a_row_can_come_to_have(tokenizer: Any, positions: int) -> None:
    found = uneven(tokenizer, positions)
    fewest = 3 - max(row.left_out for level in ("f", "p") for row in stepped(found, level))
    told = [note for note in found.notes if note.startswith("redraw: ")]
    said = int(told[0].rpartition("the fewest: ")[2][0]) if told else 3
    assert said <= fewest, "no step leaves fewer than what is said"
    assert fewest - said <= 1 and (positions < 400) == bool(told)
    assert not any(note.startswith(("D_f: ", "D_p: ")) for note in found.notes), "what a step does is no count of rows"


def test_too_few_rows_to_draw_from_are_refused(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data.shots 6: D_f has 6 training rows"):
        encode_parts(FIXED, ROWS, tokenizer, DataConfig(shots=6, redraw=True), 0)


# Batches


def test_batches_hold_the_rows_of_the_walk_after_their_steps_demonstrations(tokenizer: Any) -> None:
    found = encode_parts(FIXED, ROWS, tokenizer, DataConfig(shots=2, redraw=True), 0)
    assert found.redraw is not None
    parts = {key: found.encoded[key] for key in ("f", "p")}
    parts["all"] = parts["f"] + parts["p"]
    batches = Batches(parts, 4, 0, 0, lm_batch, anew=found.redraw.encoded)
    for part in ("f", "p", "all"):
        first, other = batches.batch(part, "train", 0, 1), Batches(parts, 4, 0, 0).batch(part, "train", 0, 1)
        assert [batch.examples for batch in batches.batch(part, "train", 0, 1)] == [batch.examples for batch in first]
        own = [shown(tokenizer, row.context)[-1] for batch in first for row in batch.examples]
        assert own == [shown(tokenizer, row.context)[-1] for batch in other for row in batch.examples]
    epoch = [shown(tokenizer, row.context)[-1] for batch in batches.batch("p", "s", 0, 2) for row in batch.examples]
    assert sorted(epoch) == sorted(f"{6 + k:02}" for k in walk(0, "rows-s", 0, 8, 8))
    (mixed,) = batches.mixed("p", 3, 1, 0.5)
    (again,) = batches.mixed("p", 3, 1, 0.5)
    (plain,) = Batches(parts, 4, 0, 0).mixed("p", 3, 1, 0.5)
    assert mixed.examples == again.examples
    for one, two in zip(mixed.examples, plain.examples, strict=True):
        names = shown(tokenizer, one.context)
        assert names[-1] == shown(tokenizer, two.context)[-1]
        assert len({int(name) < 6 for name in names}) == 1, "demonstrations of its own level"


# Long demonstrations


def test_demonstrations_are_cut_where_the_task_says_and_counted(tokenizer: Any) -> None:
    rows = [{"text": f"film {k:02}" + "y" * (30 * (k == 7)), "label": k % 2} for k in range(24)]
    found = encode_parts(FIXED, splits(rows), tokenizer, DataConfig(shots=7, shot_length=24), 0, wanted=("p",))
    assert found.notes == ["D_p: 1 rows cut at the end of 'text' to 24 tokens where they are demonstrations"]
    text = tokenizer.decode(found.encoded["p"][0].context)  # after all others of its level
    assert max(map(len, text.split("\n\n")[:-1])) == 24
    whole = encode_parts(FIXED.model_copy(update={"shorten": None}), splits(rows), tokenizer, DataConfig(shots=7, shot_length=24), 0, wanted=("p",))  # fmt: skip
    assert whole.notes == ["D_p: 1 rows are longer than 24 tokens as demonstrations, with nothing that may be cut"]


# Configuration


def settings(**flat: Any) -> Config:
    return build({key.replace("__", "."): value for key, value in flat.items()})


def test_options_of_demonstrations_without_any_are_refused() -> None:
    for key in ("data.redraw", "data.shot_length"):
        with pytest.raises(BadInput, match=f"^--{key}: it has no effect"):
            check(settings(), {key})
        check(settings(data__shots=2), {key})
    with pytest.raises(BadInput, match=r"^--method.short_tokens 9: rows go by their length"):
        check(settings(method__name="addax", method__short_tokens=9, data__shots=2, data__redraw=True), set())
