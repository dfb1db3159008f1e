"""A manifest vouches for every file and for itself; each fault is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from zofo.run import manifest
from zofo.run.errors import Corrupt
from zofo.run.manifest import NAME, Manifest, describe, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "step-000007"
    path.mkdir()
    (path / "a").write_bytes(b"first")
    (path / "b").write_bytes(b"")
    (path / NAME).write_bytes(describe(path, 7).text())
    return path


def test_a_whole_folder_verifies(folder):
    found = verify(folder)
    assert found.step == 7 and {name: size for name, (size, _) in found.files.items()} == {"a": 5, "b": 0}


def test_each_fault_is_told_with_the_file_at_fault(folder):
    def fault(damage, undo):
        damage()
        with pytest.raises(Corrupt) as told:
            verify(folder)
        undo()
        assert str(folder) in told.value.asked and told.value.do and told.value.status == 2
        verify(folder)
        return told.value.found

    text = (folder / NAME).read_bytes()
    a = folder / "a"
    assert fault(a.unlink, lambda: a.write_bytes(b"first")) == "a is missing"
    assert fault((folder / "c").touch, (folder / "c").unlink) == "c is not part of it"
    assert fault(lambda: a.write_bytes(b"firs"), lambda: a.write_bytes(b"first")) == "a has 4 bytes and should have 5"
    assert fault(lambda: a.write_bytes(b"First"), lambda: a.write_bytes(b"first")) == "a does not match its SHA-256"
    assert fault((folder / NAME).unlink, lambda: (folder / NAME).write_bytes(text)) == f"{NAME} is missing"
    (folder.parent / "a").write_bytes(b"first")

    def link():
        a.unlink()
        a.symlink_to(folder.parent / "a")

    def unlink():
        a.unlink()
        a.write_bytes(b"first")

    assert fault(link, unlink) == "a is not a plain file"


def test_every_flipped_bit_of_the_manifest_is_found(folder):
    text = bytearray((folder / NAME).read_bytes())
    for bit in range(8 * len(text)):
        text[bit // 8] ^= 1 << bit % 8
        (folder / NAME).write_bytes(text)
        text[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt, match="damaged"):
            verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": "1", "sha256": "x"}',
        b'{"format": 1, "step": 1e999, "files": {}, "sha256": ""}',
        b'{"format": 1, "step": ' + b"9" * 5000 + b', "files": {}, "sha256": ""}',
        b'{"format": 1, "step": 7, "files": {"a": [5]}, "sha256": ""}',
        b'{"format": 2, "step": 7, "files": {}, "sha256": ""}',
        b"\xff\xfe",
    ],
    ids=range(11),
)
def test_hostile_text_is_damaged(folder, text):
    (folder / NAME).write_bytes(text)
    with pytest.raises(Corrupt, match="damaged"):
        verify(folder)


def test_a_huge_manifest_is_refused_by_its_size(folder):
    os.truncate(folder / NAME, 1 << 40)
    with pytest.raises(Corrupt, match="at most"):
        verify(folder)


def test_a_manifest_cannot_point_outside_its_folder(folder):
    (folder.parent / "secret").write_bytes(b"x")
    outside = Manifest(7, {**verify(folder).files, "../secret": (1, manifest.digest(folder.parent / "secret"))})
    (folder / NAME).write_bytes(outside.text())
    with pytest.raises(Corrupt, match=r"\.\./secret is missing"):
        verify(folder)


def test_the_text_is_sorted_json_that_anybody_can_check(folder):
    tree = json.loads((folder / NAME).read_text())
    assert list(tree) == ["format", "step", "files", "sha256"] and list(tree["files"]) == ["a", "b"]


def test_a_folder_that_is_not_there_is_corrupt(tmp_path):
    with pytest.raises(Corrupt, match="no such file or directory"):
        verify(tmp_path / "none")
