"""What RUN|MODEL means, and what may be asked of which."""

from __future__ import annotations

from pathlib import Path

import pytest

from zofo import named
from zofo.errors import BadInput
from zofo.named import Found
from zofo.run.folder import RunFolder

RUN = Found(RunFolder(Path("runs/x")))


def test_a_word_is_a_run_then_a_model(folder: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("", encoding="utf-8")
    assert named.find("mine", str(tmp_path)).run == RunFolder(tmp_path / "mine")
    found = named.find(folder, str(tmp_path))
    assert found.run is None and found.source.place == folder
    with pytest.raises(BadInput, match=r"RUN\|MODEL 'min': no run in .*did you mean 'mine'"):
        named.find("min", str(tmp_path))


def test_a_model_may_lie_behind_a_link_and_a_run_may_not(folder: str, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folder)
    assert named.find(str(tmp_path / "linked"), str(tmp_path)).run is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("", encoding="utf-8")
    (tmp_path / "other").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="run other: it is a symbolic link"):
        named.find("other", str(tmp_path))


def test_a_model_has_neither_checkpoints_nor_adapters_and_an_adapter_is_named_once(folder: str) -> None:
    model = named.find(folder, "none")
    with pytest.raises(BadInput, match=r"--which last: .* is a model, it has no checkpoints; leave it out"):
        named.refuse_which(model, "last")
    with pytest.raises(BadInput, match=r"--slot p: .* is a model, it has no adapters; leave it out"):
        named.refuse_slot(model, "p")
    with pytest.raises(BadInput, match="--slot p: --adapter names another one"):
        named.refuse_slot(RUN, "p", "folder")
    for slot, adapter in ((None, None), ("p", None), (None, "folder")):
        named.refuse_slot(RUN, slot, adapter)
    named.refuse_which(RUN, "last")
    named.refuse_which(model, "best")
    named.refuse_slot(model, None, "folder")
