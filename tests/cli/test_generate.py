"""`generate` continues a text with a run or a model."""

from __future__ import annotations

import pytest


def test_run_and_model(cli, trained: str, model: str) -> None:
    status, out, err = cli("generate", trained, "The film", "--max-new-tokens", "5")
    assert status == 0, err
    assert out.endswith("\n") and "The film" not in out
    assert cli("generate", trained, "The film", "--max-new-tokens", "5")[1] == out
    assert cli("generate", model, "The film", "--max-new-tokens", "2")[0] == 0


def test_a_text_that_begins_with_a_dash(cli, trained: str) -> None:
    assert cli("generate", trained, "-3 stars", "--max-new-tokens", "1", "--temperature", "0.7")[0] == 0


@pytest.mark.parametrize("words", ["{model} x --slot p", "{model} x --which last", "nosuch/../x y", "{run}"])
def test_bad_input(cli, trained: str, model: str, words: str) -> None:
    status, _, err = cli("generate", *words.format(model=model, run=trained).split())
    assert status == 2 and err.count("\n") == 1
