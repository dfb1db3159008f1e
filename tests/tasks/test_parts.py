"""The parts of a run in tokens: what stands before a row comes from where it may, and what is lost is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from zofo.config import DataConfig
from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.tasks.definition import Task
from zofo.tasks.parts import PARTS, Parts, encode
from zofo.tasks.splits import Splits

TASK = Task(
    name="t", template="{{ text }} is", template_free="{{ text }}:", template_task="is", choices=("bad", "good"),
    separator="\n",
)  # fmt: skip
FREE = Task(name="free", template="{{ text }} is", metrics=("f1",))
SIZES = {"f": 5, "p": 8, "validation": 4, "test": 6}
LETTER = {"f": "f", "p": "p", "validation": "v", "test": "t"}


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Any:
    """A token a byte."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def rows(**longer: int) -> dict[str, list[dict[str, Any]]]:
    """Rows that say their part and number, `f00` and so on; `longer`, letters that a row has besides."""
    names = {key: [f"{LETTER[key]}{k:02}" for k in range(size)] for key, size in SIZES.items()}
    return {
        key: [{"text": name + "x" * longer.get(name, 0), "label": k % 2} for k, name in enumerate(part)]
        for key, part in names.items()
    }


def splits(held: dict[str, list[dict[str, Any]]]) -> Splits:
    named = {PARTS[key]: [f"{key}.csv, row {k}" for k in range(1, len(part) + 1)] for key, part in held.items()}
    return Splits(held["f"], held["p"], held["validation"], held["test"], [], {}, named)


def made(tokenizer: Any, seed: int = 0, task: Task = TASK, held: Any = None, positions: int | None = None, **data: Any) -> Parts:  # fmt: skip
    return encode(task, splits(held or rows()), tokenizer, DataConfig(**data), seed, positions)


def said(tokenizer: Any, example: Encoded) -> list[str]:
    """The rows that a context holds, in order: demonstrations, then the row itself."""
    return re.findall(r"[fpvt]\d\d", tokenizer.decode(example.context))


def shown(tokenizer: Any, found: Parts, key: str) -> list[list[str]]:
    """The demonstrations of each row of a part, which must end with the row itself."""
    held = [said(tokenizer, example) for example in found.encoded[key]]
    assert [names[-1] for names in held] == [f"{LETTER[key]}{k:02}" for k in range(SIZES[key])]
    return [names[:-1] for names in held]


def test_without_demonstrations_a_context_is_its_row_alone(tokenizer: Any) -> None:
    found = made(tokenizer)
    assert all(shown(tokenizer, found, key) == [[]] * size for key, size in SIZES.items())
    assert tokenizer.decode(found.encoded["f"][1].context) == "f01 is"
    assert found.nulls == {} and found.notes == []


def test_no_row_is_its_own_demonstration(tokenizer: Any) -> None:
    for seed in range(5):
        found = made(tokenizer, seed, shots=4)
        for key in SIZES:
            for own, names in enumerate(shown(tokenizer, found, key)):
                assert len(set(names)) == 4 and f"{LETTER[key]}{own:02}" not in names


def test_each_level_sees_its_own_rows_and_validation_and_test_the_same_rows_of_d_p(tokenizer: Any) -> None:
    found = made(tokenizer, shots=3)
    assert {name[0] for names in shown(tokenizer, found, "f") for name in names} == {"f"}
    assert {name[0] for names in shown(tokenizer, found, "p") for name in names} == {"p"}
    (first, *_) = shown(tokenizer, found, "validation")
    assert {name[0] for name in first} == {"p"}
    assert shown(tokenizer, found, "validation") == [first] * SIZES["validation"]
    assert shown(tokenizer, found, "test") == [first] * SIZES["test"]


def test_a_demonstration_stands_before_the_row_with_its_right_answer(tokenizer: Any) -> None:
    (example, *_) = made(tokenizer, shots=1).encoded["test"]
    text = tokenizer.decode(example.context)
    name = text[:3]
    assert text == f"{name} is {('bad', 'good')[int(name[1:]) % 2]}\nt00 is"
    (free, *_) = made(tokenizer, shots=1, hard_prompt=False).encoded["test"]
    assert tokenizer.decode(free.context) == text.replace(" is", ":")


def test_demonstrations_are_a_function_of_the_seed_and_of_their_pool(tokenizer: Any) -> None:
    base = made(tokenizer, shots=3)
    assert made(tokenizer, shots=3) == base
    other = made(tokenizer, 1, shots=3)
    assert all(shown(tokenizer, other, key) != shown(tokenizer, base, key) for key in SIZES)
    fewer = rows() | {"test": rows()["test"][:2], "validation": rows()["validation"][:1]}
    less = made(tokenizer, shots=3, held=fewer)
    assert (less.encoded["f"], less.encoded["p"]) == (base.encoded["f"], base.encoded["p"])
    assert less.encoded["test"] == base.encoded["test"][:2]


def test_more_shots_than_other_rows_of_a_level_are_refused(tokenizer: Any) -> None:
    made(tokenizer, shots=4)
    with pytest.raises(
        BadInput,
        match=r"^--data.shots 5: D_f has 5 training rows to take them from; ask for at most 4, or give more rows$",
    ):
        made(tokenizer, shots=5)
    with pytest.raises(BadInput, match=r"^--data.shots 3: D_. has 3 training rows to take them from"):
        made(tokenizer, shots=3, held=rows() | {"p": rows()["p"][:3]})


# Calibration


def test_calibration_makes_twins_of_validation_and_test_rows_with_no_row_in_them(tokenizer: Any) -> None:
    found = made(tokenizer, shots=2, calibration="sfc")
    assert found.encoded == made(tokenizer, shots=2).encoded, "the rows themselves stay"
    assert set(found.nulls) == {"validation", "test"}
    for key, twins in found.nulls.items():
        assert [tokenizer.decode(twin.context) for twin in twins] == ["is"] * SIZES[key]
        for twin, row in zip(twins, found.encoded[key], strict=True):
            assert (twin.answers, twin.texts, twin.label) == (row.answers, row.texts, row.label)


def test_icl_sfc_keeps_the_demonstrations(tokenizer: Any) -> None:
    found = made(tokenizer, shots=2, calibration="icl-sfc")
    assert set(found.nulls) == {"validation", "test"}
    for key, twins in found.nulls.items():
        for twin, row in zip(twins, found.encoded[key], strict=True):
            text = tokenizer.decode(row.context)
            own = said(tokenizer, row)[-1]
            assert tokenizer.decode(twin.context) == text.replace(f"{own} ", "") and len(said(tokenizer, twin)) == 2


def test_icl_sfc_leaves_out_the_demonstrations_that_the_row_leaves_out(tokenizer: Any) -> None:
    """A twin is shorter than its row; score and base stand after the same demonstrations all the same."""
    more = {"f": [{"text": f"g{k:02}", "label": 0} for k in range(8)]}  # D_f gives its own rows their demonstrations
    held = rows(**{f"t{k:02}": 12 * k for k in range(SIZES["test"])}) | more
    found = made(tokenizer, held=held, shots=6, calibration="icl-sfc", max_length=90, positions=110)
    lost = [example.left_out for example in found.encoded["test"]]
    assert len(set(lost)) > 2
    for twin, row in zip(found.nulls["test"], found.encoded["test"], strict=True):
        assert said(tokenizer, twin) == said(tokenizer, row)[:-1]


@pytest.mark.parametrize("calibration", ["sfc", "icl-sfc"])
def test_free_answers_cannot_be_calibrated(tokenizer: Any, calibration: str) -> None:
    held = {key: [{"text": row["text"], "label": "x"} for row in part] for key, part in rows().items()}
    assert made(tokenizer, task=FREE, held=held).nulls == {}
    with pytest.raises(
        BadInput, match=rf"^--data.calibration {calibration}: free has no choices to compare; leave it out$"
    ):
        made(tokenizer, task=FREE, held=held, calibration=calibration)


# What is told


def test_rows_that_are_cut_are_counted_part_by_part(tokenizer: Any) -> None:
    held = rows(f00=40, p01=40, p02=40, t05=40)
    found = made(tokenizer, held=held, max_length=16)
    assert found.notes == [
        "D_f: 1 rows cut on the left to 16 tokens",
        "D_p: 2 rows cut on the left to 16 tokens",
        "test: 1 rows cut on the left to 16 tokens",
    ]
    assert tokenizer.decode(found.encoded["f"][0].context).endswith("xx is")
    shorten = TASK.model_copy(update={"shorten": "text"})
    found = made(tokenizer, task=shorten, held=held, max_length=16)
    assert found.notes[0] == "D_f: 1 rows cut at the end of 'text' to 16 tokens"
    assert tokenizer.decode(found.encoded["f"][0].context).startswith("f00xx")
    assert [example.cut for example in found.encoded["p"]] == [k in (1, 2) for k in range(SIZES["p"])]
    assert all(example.length <= 16 for part in found.encoded.values() for example in part)


def test_demonstrations_do_not_count_towards_the_length_of_a_row(tokenizer: Any) -> None:
    assert made(tokenizer, shots=4, max_length=16).notes == []


def test_rows_that_lose_demonstrations_to_the_models_limit_are_counted(tokenizer: Any) -> None:
    """All other rows of D_p are shown to each; one of them is long."""
    held = rows(p03=60) | {"f": rows()["f"] + [{"text": f"g{k:02}", "label": 0} for k in range(4)]}
    found = made(tokenizer, held=held, shots=7, max_length=90, positions=100)
    lost = [example.left_out > 0 for example in found.encoded["p"]]
    assert sum(lost) > 0
    fewest = 7 - max(example.left_out for example in found.encoded["p"])
    told = f"D_p: {sum(lost)} rows with fewer than 7 demonstrations (the model reads no more; the fewest: {fewest})"
    assert told in found.notes
    assert not [note for note in found.notes if note.startswith("D_f")]
    assert all(example.length + 1 <= 100 for part in found.encoded.values() for example in part)


def test_a_row_that_cannot_be_encoded_is_named_with_its_file(tokenizer: Any) -> None:
    held = rows()
    held["test"][2] = {"text": "t02", "label": 9}
    with pytest.raises(BadInput, match=r"^test.csv, row 3: field 'label' is '9'"):
        made(tokenizer, held=held)


def test_the_length_is_lowered_to_what_the_model_reads_and_said(tokenizer: Any) -> None:
    found = made(tokenizer, max_length=90, positions=40)
    assert "max_length: 40 tokens, since the model reads no more beside what is added to a row" in found.notes
    assert all(example.length + 1 <= 40 for part in found.encoded.values() for example in part)


def test_options_that_would_have_no_effect_are_refused(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data.calibration icl-sfc: there are no demonstrations; take sfc"):
        made(tokenizer, calibration="icl-sfc")
