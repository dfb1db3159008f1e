"""`zofo.generate` continues a text as the command does, and says what is wrong before weights are read."""

from __future__ import annotations

from typing import Any

import pytest

import zofo
from zofo import loading
from zofo.errors import BadInput
from zofo.scoring import generation


def test_the_text_is_that_of_the_model_that_load_gives(folder: str) -> None:
    model, tokenizer = zofo.load(folder)
    told = generation.generate(model, tokenizer, "The film", max_new_tokens=4)
    assert told and zofo.generate(folder, "The film", max_new_tokens=4) == told
    warm = [zofo.generate(folder, "The film", max_new_tokens=8, temperature=5.0, seed=seed) for seed in (0, 0, 1)]
    assert warm[0] == warm[1] != warm[2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: not 1 or more"),
        ({"temperature": 1e-9}, "temperature=1e-09: neither 0"),
        ({"temperature": float("nan")}, "temperature=nan: neither 0"),
        ({"which": "first"}, r"generate\(which='first'\): unknown; choose one of: best, last"),
        ({"which": "last"}, "it has no checkpoints"),
        ({"slot": "p"}, "it has no adapters"),
        ({"adapter": "nosuch"}, "nosuch"),
        ({"chat": True}, "no chat template"),
        ({"text": "a\udcff"}, "no UTF-8"),
    ],
)
def test_bad_input(folder: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str) -> None:
    monkeypatch.setattr(loading.models, "load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=told):
        zofo.generate(folder, **({"text": "The film"} | options))
