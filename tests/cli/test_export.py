"""`export` hands its words over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("words", "merge"), [("", None), ("--merge", True), ("--no-merge", False)])
def test_words_reach_the_export(cli, trained: str, monkeypatch, words: str, merge: bool | None) -> None:
    import zofo.exporting

    seen: list[Any] = []
    monkeypatch.setattr(zofo.exporting, "exported", lambda *args: seen.append(args) or args[1])
    status, out, err = cli("export", trained, "--out", "exported", "--slot", "s", "--which", "last", *words.split())
    assert (status, out) == (0, "exported to exported\n"), err
    run, *rest = seen[0]
    assert run.name == trained and rest == [Path("exported"), merge, "s", "last"]


def test_a_folder_that_exists_is_refused(cli, trained: str, tmp_path: Path) -> None:
    status, _, err = cli("export", trained, "--out", str(tmp_path))
    assert status == 2 and "it exists" in err


@pytest.mark.parametrize("out", ["nosuch/..", "deep/" + "x" * 220])
def test_a_name_that_is_none_is_refused_before_anything_is_made(cli, trained: str, home: Path, out: str) -> None:
    status, _, err = cli("export", trained, "--out", out)
    assert status == 2 and "not a plain folder name" in err and not (home / out.split("/")[0]).exists()
