"""Files that the user asks for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zofo.errors import BadInput
from zofo.run import outfile


def test_what_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("nosuch/x", "its folder does not exist"), (".", "it is a folder"), ("pipe", "no regular file")):
        with pytest.raises(BadInput, match=told):
            outfile.refuse("--out", str(tmp_path / name))
    with pytest.raises(BadInput, match="--out /dev/null: it is no regular file"):
        outfile.refuse("--out", "/dev/null")
    outfile.refuse("--out", None)
    outfile.refuse("--out", str(tmp_path / "new"))


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert outfile.written_to(tmp_path / "link") == (tmp_path / "file").resolve()
