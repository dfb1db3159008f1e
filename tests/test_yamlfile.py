"""YAML that people write: a key that stands twice is an error wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zofo import yamlfile
from zofo.errors import BadInput

TEXTS = ["a: 1\nb: [1, {c: 2}]\n", "- 1\n- x: {y: 2026-01-01}\n", "x: &a {b: 1}\ny: {<<: *a, b: 2}\n", "", "5"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_text_says_is_what_pyyaml_says_safely(text: str) -> None:
    assert yamlfile.parse(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "x: {b: 1, c: 2, b: 1}\n", "- {k: 1, k: 2}\n"])
def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"'\w' stands there twice.*line 1"):
        yamlfile.read(file, "FILE", "a task")


def test_nothing_is_made_of_tags(tmp_path: Path) -> None:
    file = tmp_path / "tag.yaml"
    file.write_text("!!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(BadInput, match="not readable as YAML"):
        yamlfile.read(file, "FILE", "a task")
