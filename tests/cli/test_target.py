"""RUN|MODEL is a run when there is one, else a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo import sources
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


ODD = ["my--run", "run.", "run-", "x.git", "a" * 97]


@pytest.mark.parametrize("word", ["mine", *ODD])
def test_a_word_that_is_no_run_is_told_as_what_it_was_asked_for(
    at_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Before, `zofo generate mine` of a run that is not there went to the hub with many retries, and named --model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    why = "it cannot be a hub id" if word in ODD else "HF_HUB_OFFLINE is set"
    with pytest.raises(BadInput, match=rf"^RUN\|MODEL '{word}': no run in .*, and as a model: no folder .*{why}"):
        find(word, str(tmp_path))


def test_a_model_in_the_hubs_cache_is_found_without_the_hub(
    at_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--some--model"
    with pytest.raises(BadInput, match="can the hub be reached"):
        find("some/model", str(tmp_path))
    for file, text in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        (place / file).parent.mkdir(parents=True)
        (place / file).write_text(text, encoding="utf-8")
    assert find("some/model", str(tmp_path)).source.kind == "hub"


def test_only_what_certainly_cannot_be_had_is_refused(at_home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is busy, or wants a login for a gated model, is left to the loading, which says more."""
    from huggingface_hub import errors

    def answer(error: Exception | None) -> str | None:
        def ask(address: str, **options: Any) -> None:
            asked.append(address)
            if error is not None:
                raise error

        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
        return sources.lacking("some/model")

    def http(kind: type[Any]) -> Any:
        return kind.__new__(kind, "told")  # as if an answer had been read

    asked: list[str] = []
    assert answer(None) is None and asked[0].endswith("/some/model/resolve/main/config.json")
    assert answer(http(errors.HfHubHTTPError)) is None and answer(http(errors.GatedRepoError)) is None
    assert "no such model on the hub" in str(answer(http(errors.RepositoryNotFoundError)))
    assert "does not answer (TimeoutError)" in str(answer(TimeoutError()))
