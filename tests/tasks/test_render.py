"""Prompts and answers become the tokens that the model would see in running text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zofo.errors import BadInput
from zofo.tasks.definition import Task, find
from zofo.tasks.render import answer_ids, check_choices, encode, encode_rows

CORPUS = ["a fine quiet film . It was great", "a dull film . It was terrible", "It was great It was terrible"] * 20
SPECIAL = ["<s>", "</s>", "<unk>"]


def trained(pre: Any, post: str | None = None, corpus: list[str] = CORPUS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    bytes_ = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre, pre_tokenizers.ByteLevel) else []
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=bytes_, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    if post is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", 0), ("</s>", 1)])
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
    return made


@pytest.fixture(scope="module")
def gpt() -> PreTrainedTokenizerFast:
    """Words with the space before them, no special tokens, as GPT-2 and SmolLM2."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


@pytest.fixture(scope="module")
def wrapped() -> PreTrainedTokenizerFast:
    """BOS in front and EOS behind of plain text."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False), "<s> $A </s>")


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Merges over white space: `was great` is one token."""
    return trained(None, corpus=["was great", "was bad"] * 50)


ROW = {"sentence": "a fine quiet film .", "label": 1}


def task(template: str = "{{ sentence }} It was", choices: tuple[str, ...] = ("terrible", "great")) -> Task:
    return Task(name="t", about="", template=template, template_free="{{ sentence }}", choices=choices)


def test_prompt_and_answer_together_are_the_tokens_of_the_whole_text(gpt: Any) -> None:
    found = encode(find("sst2"), ROW, gpt)
    for choice, answer in zip(("terrible", "great"), found.answers, strict=True):
        assert list(found.context + answer) == gpt(f"a fine quiet film . It was {choice}")["input_ids"]
        assert gpt.decode(answer) == f" {choice}"
    assert (found.label, found.cut) == (1, False)
    free = encode(find("sst2"), ROW, gpt, hard_prompt=False)
    assert gpt.decode(free.context) == "a fine quiet film ." and free.answers == found.answers


def test_bos_stands_in_front_and_nothing_behind_the_prompt(wrapped: Any) -> None:
    found = encode(task(), ROW, wrapped)
    assert list(found.context + found.answers[1]) == wrapped("a fine quiet film . It was great")["input_ids"][:-1]
    assert found.context.count(wrapped.bos_token_id) == 1 and found.context[0] == wrapped.bos_token_id


@pytest.mark.parametrize("end", ["\n", " "])
def test_no_space_is_added_after_white_space(gpt: Any, end: str) -> None:
    found = encode(task("{{ sentence }}:" + end), ROW, gpt)
    assert gpt.decode(found.context + found.answers[1]) == f"a fine quiet film .:{end}great"


def test_an_answer_that_melts_into_its_prompt_is_tokenised_alone(merging: Any) -> None:
    assert len(merging("was great")["input_ids"]) == 1
    assert merging.decode(answer_ids(merging, "was", "great")).replace(" ", "") == "great"


def test_a_long_prompt_is_cut_on_the_left_and_keeps_bos_and_answer(wrapped: Any) -> None:
    row = {"sentence": "a dull film . " * 30, "label": 0}
    whole, found = encode(task(), row, wrapped), encode(task(), row, wrapped, max_length=12)
    longest = max(map(len, whole.answers))
    assert found.cut and not whole.cut
    assert len(found.context) + longest == 12 and found.answers == whole.answers
    assert found.context == whole.context[:1] + whole.context[-(11 - longest) :]


def test_a_prompt_that_just_fits_is_not_cut(gpt: Any) -> None:
    whole = encode(task(), ROW, gpt)
    size = len(whole.context) + max(map(len, whole.answers))
    assert encode(task(), ROW, gpt, max_length=size) == whole
    assert encode(task(), ROW, gpt, max_length=size - 1).cut


def test_no_room_beside_the_answer_is_bad_input(gpt: Any) -> None:
    with pytest.raises(BadInput, match="max_length 1"):
        encode(task(), ROW, gpt, max_length=1)


def test_rows_are_numbered_from_one_in_errors(gpt: Any) -> None:
    with pytest.raises(BadInput, match="row 2"):
        encode_rows(task(), [ROW, {"label": 0}], gpt)
    with pytest.raises(BadInput, match=r"row 1: the prompt has no token"):
        encode_rows(task(), [{"sentence": "", "label": 0}], gpt, hard_prompt=False)


def test_choices_are_told_apart_before_any_model(gpt: Any) -> None:
    check_choices(find("sst2"), gpt)
    with pytest.raises(BadInput, match=r"'日' and '本' become the same tokens"):
        check_choices(task(choices=("日", "本")), trained(pre_tokenizers.Whitespace()))


def test_a_choice_of_no_token_is_refused() -> None:
    class Deaf:
        """Drops what it does not know."""

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text if letter in "xab"]}

    with pytest.raises(BadInput, match="'q' becomes no token"):
        check_choices(task(choices=("a", "q")), Deaf())
