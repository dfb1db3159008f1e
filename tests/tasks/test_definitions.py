"""The tasks that ship: their published prompts, and what they say of the data they are run on."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from zofo.tasks.definition import Hub, find, names
from zofo.tasks.render import Style, demonstration, encode
from zofo.tasks.template import fields

DATA = Path(os.environ.get("ZOFO_DATA", "/nowhere"))
LONG = Style(max_length=1 << 20)
MAIN = ["boolq", "cb", "copa", "drop", "multirc", "record", "rte", "squad", "sst2", "wic", "winogrande", "wsc"]
CROSSFIT = [name for name in names() if name.startswith("crossfit/")]


def rows(name: str, part: str, most: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a task's file in $ZOFO_DATA; skips the test where that has none."""
    path = DATA / str(find(name).folder) / f"{part}.jsonl.gz"
    if not path.parent.is_dir():
        pytest.skip(f"ZOFO_DATA is not set, or holds no folder {find(name).folder}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(most or 1 << 30), lines, strict=False)]


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """A token a byte: what is decoded is what was rendered."""
    vocabulary = {token: k for k, token in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


# The published prompts

TITLE, PASSAGE = "Paris", "The tower is tall. It stands in Paris."
NEWS = 'Bo won.\n@highlight\nBo beat Al\n@highlight\nAl is "sad" & gone'
SHOWN: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "sst2": (
        {"sentence": "a fine film . ", "label": 1},
        "a fine film . It was", [" terrible", "* great"],
    ),
    "rte": (
        {"premise": "The tower is tall.", "hypothesis": "A tower is low.", "label": 1},
        'The tower is tall.\nDoes this mean that "A tower is low." is true? Yes or No?\n', ["Yes", "*No"],
    ),
    "cb": (
        {"premise": "A: I think it rains.", "hypothesis": "it rains", "label": 2},
        'Suppose A: I think it rains. Can we infer that "it rains"? Yes, No, or Maybe?\n', ["Yes", "No", "*Maybe"],
    ),
    "boolq": (
        {"passage": PASSAGE, "question": "is the tower tall", "label": 1},
        PASSAGE + " Is the tower tall?\n", ["No", "*Yes"],
    ),
    "wsc": (
        {"text": "Bo told Al that he won.", "span1_text": "Bo", "span2_text": "he", "label": 1},
        'Bo told Al that he won.\nIn the previous sentence, does the pronoun "he" refer to Bo? Yes or No?\n', ["No", "*Yes"],
    ),
    "wic": (
        {"word": "place", "sentence1": "Come to my place.", "sentence2": "No place for it.", "label": 0},
        'Does the word "place" have the same meaning in these two sentences? Yes, No?\nCome to my place.\nNo place for it.\n',
        ["*No", "Yes"],
    ),
    "multirc": (
        {"paragraph": PASSAGE, "question": "Where is it?", "answer": "In Rome", "label": 0},
        PASSAGE + '\nQuestion: Where is it?\nI found this answer "In Rome". Is that correct? Yes or No?\n', ["*No", "Yes"],
    ),
    "copa": (
        {"premise": "The grass was wet.", "choice1": "It rained.", "choice2": "I watered it.", "question": "cause", "label": 1},
        "The grass was wet because", [" it rained.", "* I watered it."],
    ),
    "record": (
        {"passage": NEWS, "query": "@placeholder beat Al, said @placeholder", "entities": ["Al", "Bo", "Bo B."], "answers": ["Bo", "Bo B."]},
        'Bo won.\n- Bo beat Al\n- Al is "sad" & gone\n-',
        [" Al beat Al, said Al", "* Bo beat Al, said Bo", "* Bo B. beat Al, said Bo B."],
    ),
    "winogrande": (
        {"sentence": "Ian ate Al's soup because _ was hungry.", "option1": "Ian", "option2": "Al", "answer": "1"},
        "Ian ate Al's soup because ", ["*Ian was hungry.", "Al was hungry."],
    ),
    "squad": (
        {"title": TITLE, "context": PASSAGE, "question": "Where?", "answers": {"text": ["Paris", "in Paris"], "answer_start": [32, 29]}},
        f"Title: Paris\nContext: {PASSAGE}\nQuestion: Where?\nAnswer:", ["* Paris\n"],
    ),
    "drop": (
        {"passage": PASSAGE, "question": "How many towers?", "answers": ["1", "one"]},
        f"Passage: {PASSAGE}\nQuestion: How many towers?\nAnswer:", ["* 1\n"],
    ),
    "crossfit/trec": (
        {"task": "trec", "input": "Who won ?", "output": "HUM", "options": ["ABBR", "HUM", "NUM"]},
        "Who won ?\n", ["ABBR", "*HUM", "NUM"],
    ),
    "crossfit/openbookqa": (
        {"task": "openbookqa", "input": "Who? (A) Bo (B) Al", "output": "Al", "options": ["Bo", "Al"]},
        "Who? (A) Bo (B) Al\n", ["Bo", "*Al"],
    ),
    "crossfit/drop": (
        {"task": "drop", "input": "question: Who? context: Bo.", "output": "Bo", "options": []},
        "question: Who? context: Bo.\n", ["*Bo\n"],
    ),
}  # fmt: skip
"""A row, its prompt, and its answers: `*` before each that is right."""


def rendered(name: str, row: dict[str, Any], letters: Any) -> tuple[str, list[str]]:
    found = encode(find(name), row, letters, LONG)
    right = [k in found.rights for k in range(len(found.answers))]
    texts = ["*" * good + letters.decode(ids) for good, ids in zip(right, found.answers, strict=True)]
    return letters.decode(found.context), texts


@pytest.mark.parametrize("name", SHOWN)
def test_a_row_becomes_the_published_prompt_and_answers(letters: Any, name: str) -> None:
    row, prompt, answers = SHOWN[name]
    assert rendered(name, row, letters) == (prompt, answers)


@pytest.mark.parametrize("name", SHOWN)
def test_a_demonstration_is_prompt_and_right_answer_as_scored(letters: Any, name: str) -> None:
    row, prompt, answers = SHOWN[name]
    right = next(text[1:] for text in answers if text[0] == "*")
    assert demonstration(find(name), row, letters, LONG, "x") == prompt + right.rstrip("\n") + "\n\n"


@pytest.mark.parametrize("name", SHOWN)
def test_the_prompt_alone_holds_nothing_of_the_row_but_its_answers(letters: Any, name: str) -> None:
    row, prompt, answers = SHOWN[name]
    found = encode(find(name), row, letters, Style(task_only=True))
    alone = "" if not find(name).template_task else letters.decode(found.context)
    assert all(word in prompt for word in re.findall(r"\w+", alone))
    assert [letters.decode(ids).strip() for ids in found.answers] == [text.strip("* \n") for text in answers]
    given = [value for value in row.values() if isinstance(value, str) and value not in ("cause", row.get("output"))]
    assert not [value for value in given if re.search(rf"\b{re.escape(value.strip())}\b", alone)]


def test_every_main_task_has_its_prompt_here() -> None:
    assert sorted(name for name in SHOWN if "/" not in name) == MAIN


@pytest.mark.parametrize(
    ("question", "asked"),
    [("is it", "Is it?"), ("is it?", "Is it?"), ("Is it", "Is it?"), ("was USA? in", "Was USA? in?"), ("éa", "Éa?")],
)
def test_a_question_of_boolq_begins_with_a_capital_and_ends_in_one_question_mark(
    letters: Any, question: str, asked: str
) -> None:
    assert rendered("boolq", {"passage": "P.", "question": question, "label": 0}, letters)[0] == f"P. {asked}\n"


@pytest.mark.parametrize(
    ("choice", "continued"),
    [
        ("The dog ran.", "the dog ran."), ("I ran.", "I ran."), ("I'm out.", "I'm out."), ("It ran.", "it ran."),
        ("In town.", "in town."),
    ],
)  # fmt: skip
def test_a_choice_of_copa_goes_on_in_lower_case_but_for_the_word_i(letters: Any, choice: str, continued: str) -> None:
    row = {"premise": "P.", "choice1": choice, "choice2": "X", "question": "cause", "label": 1}
    assert rendered("copa", row, letters)[1] == [f" {continued}", "* x"]


@pytest.mark.parametrize(
    ("premise", "question", "prompt"),
    [
        ("It rained.", "effect", "It rained so"),
        ("It rained!", "cause", "It rained! because"),
        ("U.S. won", "effect", "U.S. won so"),
        ("It rained. ", "cause", "It rained because"),  # one row of the data ends so
    ],
)
def test_a_premise_of_copa_loses_its_full_stop_and_gets_a_conjunction(
    letters: Any, premise: str, question: str, prompt: str
) -> None:
    row = {"premise": premise, "choice1": "A", "choice2": "B", "question": question, "label": 0}
    assert rendered("copa", row, letters)[0] == prompt


def test_a_winogrande_sentence_that_begins_with_the_blank_has_no_prompt(letters: Any) -> None:
    row = {"sentence": "_ won and Al lost.", "option1": "Ian", "option2": "Al", "answer": "2"}
    assert rendered("winogrande", row, letters) == ("<end>", ["Ian won and Al lost.", "*Al won and Al lost."])


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_shortened_record_passage_shows_no_part_of_its_marks(letters: Any, cut: int) -> None:
    row = SHOWN["record"][0]
    limit = encode(find("record"), row, letters, LONG).length + 1 - cut
    found = encode(find("record"), row, letters, Style(max_length=limit))
    assert found.cut and "@" not in letters.decode(found.context)


# What the tasks say


def test_the_label_orders_are_those_of_the_data() -> None:
    orders = {
        "sst2": "terrible great", "rte": "Yes No", "cb": "Yes No Maybe",
        "boolq": "No Yes", "wsc": "No Yes", "wic": "No Yes", "multirc": "No Yes",
    }  # fmt: skip
    assert {name: " ".join(find(name).choices) for name in MAIN if find(name).kind == "fixed"} == orders


def test_the_objective_is_the_papers() -> None:
    lm = {name for name in MAIN if find(name).objective == "lm"}
    assert lm == {"copa", "record", "squad", "drop"}
    assert {find(name).objective for name in MAIN} == {"lm", "classification"}


def test_free_answers_are_measured_by_f1_and_em() -> None:
    assert {name for name in names() if find(name).metrics == ("f1", "em")} == {
        "squad",
        "drop",
        "crossfit/drop",
        "crossfit/squad-with_context",
    }
    assert find("multirc").metrics == ("accuracy", "f1a") and find("cb").metrics == ("accuracy", "macro_f1")
    assert find("record").metrics == ("accuracy", "f1", "em")


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("boolq", ["2,045", "2,000", "64", "1,000", "3,270"]),
        ("multirc", ["150", "456", "4,848", "83"]),
        ("record", ["32", "Not the standard split"]),
        ("winogrande", ["640", "1,267", "train_s"]),
        ("squad", ["2,000", "500", "1,190", "Not the standard split"]),
        ("drop", ["2,000", "500", "Not the standard split"]),
    ],
)
def test_a_note_says_in_what_the_files_are_not_the_standard_split(name: str, figures: list[str]) -> None:
    note = find(name).note
    assert not [figure for figure in figures if figure not in note]
    if (DATA / "SOURCES.md").is_file():
        lines = (DATA / "SOURCES.md").read_text(encoding="utf-8").splitlines()
        row = next(line for line in lines if line.startswith(f"| {name} |")).lower()
        assert not [figure for figure in re.findall(r"\d[\d,]*\d", note) if figure not in row], (
            "what SOURCES.md does not say"
        )


@pytest.mark.parametrize("name", MAIN)
def test_the_rows_counted_in_sources_are_there(name: str) -> None:
    counts = [len(rows(name, part)) for part in ("train", "validation")]
    if not (DATA / "SOURCES.md").is_file():
        pytest.skip("ZOFO_DATA holds no SOURCES.md")
    table = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    assert f"| {counts[0]:,} | {counts[1]:,} |" in next(
        line for line in table.splitlines() if line.startswith(f"| {name} |")
    )


@pytest.mark.parametrize("name", [name for name in names() if find(name).hub])
def test_the_hub_has_a_column_for_all_that_a_task_reads(name: str) -> None:
    task = find(name)
    assert isinstance(task.hub, Hub)
    assert {*fields(task), task.label.partition(".")[0]} <= set(task.hub.columns)


@pytest.mark.parametrize("name", names())
def test_a_field_that_may_be_shortened_or_groups_rows_is_one_of_the_row(name: str) -> None:
    task = find(name)
    assert {task.shorten, task.group} - {None} <= set(fields(task))


# On the data


def test_crossfit_has_41_members_each_a_folder_of_the_data() -> None:
    assert len(CROSSFIT) == len(set(CROSSFIT)) == 41
    if not (DATA / "crossfit").is_dir():
        pytest.skip("ZOFO_DATA is not set, or holds no folder crossfit")
    assert sorted(f"crossfit/{path.name}" for path in (DATA / "crossfit").iterdir()) == CROSSFIT


@pytest.mark.parametrize("name", [*MAIN, *CROSSFIT])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_first_rows_of_a_task_render_whole_and_short(letters: Any, name: str, part: str) -> None:
    task = find(name)
    for number, row in enumerate(rows(name, task.test_file if part == "test" else part, 4), 1):
        whole = encode(task, row, letters, LONG, f"row {number}")
        short = encode(task, row, letters, Style(max_length=max(256, whole.length * 3 // 4)), f"row {number}")
        free = encode(task, row, letters, Style(hard_prompt=False, max_length=1 << 20), f"row {number}")
        assert not whole.cut and short.cut == (whole.length + 1 > max(256, whole.length * 3 // 4))
        assert {len(whole.answers), len(short.answers)} == {
            len(free.answers)
        } and short.label == whole.label == free.label


@pytest.mark.parametrize("name", CROSSFIT)
def test_a_member_of_a_kind_has_the_options_of_that_kind(name: str) -> None:
    task, sets = find(name), {tuple(row["options"]) for part in ("train", "test") for row in rows(name, part)}
    if "macro_f1" in task.metrics:
        assert len(sets) == 1, "classes are the same for every row"
    elif task.kind == "options":
        assert len(sets) > 1 and all(len(options) > 1 for options in sets)
    else:
        assert sets == {()}
