"""What is asked for is known, or refused; a mixture without the rows that are asked for says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zofo.errors import BadInput
from zofo.evaluating.found import WORDS, Asked, refuse_none


@pytest.mark.parametrize("name", list(WORDS))
def test_a_word_that_is_none_of_those_known(name: str) -> None:
    with pytest.raises(BadInput, match=rf"evaluate\({name}='best of all'\): unknown; choose one of"):
        Asked(**{name: "best of all"})


@pytest.mark.parametrize(
    ("split", "told"), [("test", "it has no unseen tasks"), ("validation", "it has no training tasks")]
)
def test_a_mixture_without_rows_of_a_split(split: str, told: str) -> None:
    ready: Any = SimpleNamespace(encoded={split: []}, task=SimpleNamespace(name="m"))
    with pytest.raises(BadInput, match=f"mixture m, {split} rows: {told}"):
        refuse_none(ready, split)
