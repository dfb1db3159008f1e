"""Texts become the tokens that a tokenizer makes of the whole, and the answer's tokens are found in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from zofo.core.streams import generator
from zofo.scoring.tokens import bare_ids, common, leading_ids, pad_id, parted, prompt_ids, starting_ids

MERGES = [("a", "b"), ("\u0120", "c"), ("\u0120c", "d"), ("\u0120", "\u0120")]


class Letters:
    """A tokenizer of letters with special tokens before and after plain text."""

    def __init__(
        self,
        before: list[int],
        after: list[int],
        pad: int | None = None,
        eos: int | None = None,
        bos: int | None = None,
    ) -> None:
        self.before, self.after, self.pad_token_id, self.eos_token_id = before, after, pad, eos
        self.bos_token_id = bos

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text]
        return {"input_ids": self.before + ids + self.after if add_special_tokens else ids}


class Slow:
    """A tokenizer that only gives ids: the same ones as another's, with no word on where its tokens are."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, Any]:
        return {"input_ids": self.inner(text, **options)["input_ids"]}


def fast(inner: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=None)


@pytest.fixture(scope="module")
def merging() -> Any:
    """Byte-level BPE that merges a+b, a space and c, that and d, and two spaces."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(one + other for one, other in MERGES)]
    inner = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(names)}, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return fast(inner)


@pytest.fixture(scope="module")
def trimming() -> Any:
    """Byte-level BPE that says where tokens are without the space in front (`trim_offsets`, as RoBERTa's and OPT's does)."""
    from tokenizers import processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return fast(inner)


def names(tokenizer: Any, prompt: str, answer: str) -> tuple[list[str], list[str]]:
    """The tokens of the prompt and of the answer, by name."""
    ((ids, start),) = parted(tokenizer, [(prompt, answer)])
    found = tokenizer.convert_ids_to_tokens(list(ids))
    return found[:start], found[start:]


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], []), ([1], [2]), ([], [2])])
def test_a_prompt_keeps_what_stands_in_front_and_drops_what_stands_behind(before: list[int], after: list[int]) -> None:
    tokenizer = Letters(before, after)
    assert leading_ids(tokenizer) == tuple(before)
    assert prompt_ids(tokenizer, "ab") == (*before, 97, 98)
    assert bare_ids(tokenizer, "ab") == (97, 98)


@pytest.mark.parametrize(("pad", "eos", "found"), [(3, 2, 3), (0, 2, 0), (None, 2, 2), (None, None, 0)])
def test_padding_falls_back_on_the_end_of_text(pad: int | None, eos: int | None, found: int) -> None:
    assert pad_id(Letters([], [], pad, eos)) == found


@pytest.mark.parametrize(
    ("before", "bos", "eos", "found"),
    [([1, 7], 3, 4, (1, 7)), ([], 3, 4, (3,)), ([], None, 4, (4,)), ([], 0, 4, (0,)), ([], None, None, ())],
)
def test_an_answer_without_prompt_follows_the_first_special_token_there_is(
    before: list[int], bos: int | None, eos: int | None, found: tuple[int, ...]
) -> None:
    assert starting_ids(Letters(before, [9], eos=eos, bos=bos)) == found


def test_a_tokenizer_that_names_no_special_tokens_starts_with_nothing() -> None:
    assert starting_ids(Slow(Letters([], []))) == ()


@pytest.mark.parametrize(
    ("prompt", "answer", "wanted"),
    [
        ("xa", "y", (["x", "a"], ["y"])),
        ("xa", "by", (["x"], ["ab", "y"])),
        ("x", " cd", (["x"], ["\u0120cd"])),
        ("x ", "cd", (["x"], ["\u0120cd"])),
        ("x", " y", (["x"], ["\u0120", "y"])),
        ("x ", " y", (["x"], ["\u0120\u0120", "y"])),
        ("", "ab", ([], ["ab"])),
        ("xy", "", (["x", "y"], [])),
        ("xé", "é", (["x", "Ã", "©"], ["Ã", "©"])),
    ],
)
def test_a_token_that_holds_any_part_of_the_answer_belongs_to_it(
    merging: Any, prompt: str, answer: str, wanted: tuple[list[str], list[str]]
) -> None:
    assert names(merging, prompt, answer) == wanted


def test_white_space_in_front_is_the_answers_where_the_tokenizer_trims_its_place(trimming: Any) -> None:
    assert names(trimming, "x", " y") == (["x"], ["\u0120", "y"])
    assert names(trimming, "x", "  y") == (["x"], ["\u0120", "\u0120", "y"])
    assert names(trimming, "", " y") == ([], ["\u0120", "y"])


def test_white_space_at_a_prompts_end_is_the_prompts_where_the_tokenizer_trims_its_place(trimming: Any) -> None:
    assert names(trimming, "x ", "y") == (["x", "\u0120"], ["y"])
    assert names(trimming, "x ", " y") == (["x", "\u0120"], ["\u0120", "y"])


def test_without_places_the_answer_begins_where_tokens_leave_the_prompts(merging: Any) -> None:
    pairs = [("xa", "y"), ("xa", "by"), ("x", " cd"), ("x ", "cd"), ("x ", " y"), ("", "ab"), ("xy", "")]
    assert parted(Slow(merging), pairs) == parted(merging, pairs)


def test_many_pairs_are_parted_as_each_alone_and_as_one_text(merging: Any) -> None:
    draw = generator(0, "tokens test")
    texts = ["".join(draw.choice(list("abcd é"), int(draw.integers(1, 7)))) for _ in range(60)]
    pairs = list(pairwise(texts))
    found = parted(merging, pairs)
    assert found == [parted(merging, [pair])[0] for pair in pairs]
    for (prompt, answer), (ids, start) in zip(pairs, found, strict=True):
        assert ids == bare_ids(merging, prompt + answer)
        assert prompt.encode().startswith(spelled(merging, ids[:start]))
        assert not prompt.encode().startswith(spelled(merging, ids[: start + 1]))


def spelled(tokenizer: Any, ids: tuple[int, ...]) -> bytes:
    """The bytes that tokens stand for."""
    text = "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    table = dict(zip(map(ord, byte_letters()), range(256), strict=True))
    return bytes(table[ord(letter)] for letter in text)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def test_no_pairs_are_no_tokens() -> None:
    assert parted(Letters([], []), []) == []


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([(1, 2, 3)], 3),
        ([(1, 2, 3), (1, 2)], 2),
        ([(1, 2, 3), (1, 9), (1, 2, 4)], 1),
        ([(1,), (2,)], 0),
        ([(), (1,)], 0),
        ([(5, 6), (5, 6)], 2),
    ],
)
def test_common_tokens_are_those_that_all_rows_begin_with(rows: list[tuple[int, ...]], wanted: int) -> None:
    assert common(rows) == common(rows[::-1]) == wanted


def test_common_tokens_of_random_rows_are_counted_as_one_by_one() -> None:
    draw = generator(1, "tokens test")
    for _ in range(200):
        rows = [tuple(draw.integers(0, 2, int(draw.integers(0, 6))).tolist()) for _ in range(int(draw.integers(1, 5)))]
        size = 0
        while all(len(row) > size for row in rows) and len({row[size] for row in rows}) == 1:
            size += 1
        assert common(rows) == size


def test_a_prompt_that_a_chat_template_began_gets_no_second_bos() -> None:
    tokenizer = Letters([1], [])
    tokenizer.bos_token = "<s>"  # type: ignore[attr-defined]
    assert prompt_ids(tokenizer, "<s>a") == (60, 115, 62, 97)
    assert prompt_ids(tokenizer, "a<s>") == (1, 97, 60, 115, 62)
