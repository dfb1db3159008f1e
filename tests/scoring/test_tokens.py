from __future__ import annotations

from typing import Any

import pytest

from zofo.scoring.tokens import bare_ids, leading_ids, pad_id, prompt_ids


class Letters:
    """A tokenizer of letters with special tokens before and after plain text."""

    def __init__(self, before: list[int], after: list[int], pad: int | None = None, eos: int | None = None) -> None:
        self.before, self.after, self.pad_token_id, self.eos_token_id = before, after, pad, eos

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text]
        return {"input_ids": self.before + ids + self.after if add_special_tokens else ids}


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], []), ([1], [2]), ([], [2])])
def test_a_prompt_keeps_what_stands_in_front_and_drops_what_stands_behind(before: list[int], after: list[int]) -> None:
    tokenizer = Letters(before, after)
    assert leading_ids(tokenizer) == tuple(before)
    assert prompt_ids(tokenizer, "ab") == (*before, 97, 98)
    assert bare_ids(tokenizer, "ab") == (97, 98)


@pytest.mark.parametrize(("pad", "eos", "found"), [(3, 2, 3), (0, 2, 0), (None, 2, 2), (None, None, 0)])
def test_padding_falls_back_on_the_end_of_text(pad: int | None, eos: int | None, found: int) -> None:
    assert pad_id(Letters([], [], pad, eos)) == found
