"""RUN|MODEL is a run when there is one, else a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo.cli.target import find
from zofo.errors import BadInput


def test_a_run_comes_first(at_home, tmp_path: Path, model: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("{}\n", encoding="utf-8")
    assert find("x", str(tmp_path)).run is not None
    found = find(model, str(tmp_path))
    assert found.run is None and found.source.kind == "folder"


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no run in .*, and as a model: no such folder"):
        find("./nosuch", str(tmp_path))
    with pytest.raises(BadInput, match="no model was named"):
        find("", str(tmp_path))


def test_a_run_behind_a_link_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("{}\n", encoding="utf-8")
    (tmp_path / "y").symlink_to(tmp_path / "x")
    with pytest.raises(BadInput, match="symbolic link"):
        find("y", str(tmp_path))


def test_a_word_that_may_be_a_hub_model_is_asked_for_once_and_told_as_what_it_was_asked_for(
    at_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, `zofo generate mine` of a run that is not there went to the hub with many retries, and named --model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=r"^RUN\|MODEL 'mine': no run in .*, and as a model: no folder .* the hub"):
        find("mine", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, id, timeout: asked.append(id))
    assert find("somebody/model", str(tmp_path)).source.kind == "hub" and asked == ["somebody/model"]
