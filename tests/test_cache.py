"""zofo's cache: where it is, and one line where it cannot be written to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zofo import cache, cap, models, sources
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput

SET = "set ZOFO_CACHE to a folder that can be written"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, which is not there yet."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOFO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.place() == tmp_path / "zofo"
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "mine"))
    assert cache.folder("work") == tmp_path / "mine" / "work" and cache.folder("work").is_dir()


def a_conversion(place: Path) -> object:
    (place.parent / "m.gguf").write_bytes(b"GGUF")
    return models.load_tokenizer(sources.find(str(place.parent / "m.gguf")))


def a_copy_of_a_base(place: Path) -> object:
    leaves = tree.find(torch.nn.Linear(2, 2))
    return models.copied(leaves, models.fingerprint(leaves))


@pytest.mark.parametrize("write", [lambda place: cap.workplace(), a_copy_of_a_base, a_conversion])
def test_one_that_cannot_be_made_or_written_to_is_one_line(
    place: Path, write: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_text("a file")
    with pytest.raises(BadInput, match=f"ZOFO_CACHE {place}: .*not a directory; {SET}"):
        write(place)
    place.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(BadInput, match=f"it cannot be written to; {SET}"):
        write(place)
