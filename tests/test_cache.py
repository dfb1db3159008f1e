"""zofo's cache: where it is, one line where it cannot be written to, and what is made there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zofo import cache, cap, models, sources, theta0
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput, ZofoError
from zofo.run import seam

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
    return theta0.copied(leaves, theta0.fingerprint(leaves))


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


def save(work: Path) -> None:
    """Write a folder as transformers does: JSON by Python, weights by safetensors, another folder within."""
    (work / "below").mkdir(parents=True)
    (work / "config.json").write_text("{}")
    save_file({"a": torch.zeros(5000)}, work / "below" / "model.safetensors")


class Recorder(seam.Disk):
    """A disk that notes what was fsynced and renamed, in order."""

    def __init__(self) -> None:
        self.log = list[str]()

    def fsync(self, file: int) -> None:
        self.log.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)

    def fsync_dir(self, folder: Path) -> None:
        self.log.append(f"{folder.name}/")

    def rename(self, old: Path, new: Path) -> None:
        self.log.append(f"-> {new.name}")
        super().rename(old, new)


@pytest.fixture
def models_folder(place: Path) -> Path:
    return cache.folder("models")


def test_a_folder_is_fsynced_before_it_has_its_name(models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Recorder()
    monkeypatch.setattr(seam, "disk", disk)
    with cache.new(models_folder / "m") as work:
        save(work)
    assert disk.log[:-3] == ["model.safetensors", "below/", "config.json"]
    assert disk.log[-3].startswith("m.") and disk.log[-2:] == ["-> m", "models/"]


def test_the_loser_of_two_writers_takes_its_copy_away(models_folder: Path) -> None:
    with cache.new(models_folder / "m") as work:
        save(work)
        (models_folder / "m").mkdir()
        (models_folder / "m" / "first").write_text("")
    assert os.listdir(models_folder) == ["m"] and os.listdir(models_folder / "m") == ["first"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC])
def test_another_failure_of_the_last_step_is_told(
    models_folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: Path, new: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(seam.disk, "rename", refuse)
    with pytest.raises(ZofoError, match="give the command again"), cache.new(models_folder / "m") as work:
        save(work)
    assert os.listdir(models_folder) == []


def test_a_write_without_room_does_not_begin(models_folder: Path) -> None:
    full = (
        f"write .*: the disk is full .{1 << 60} bytes needed, [1-9][0-9]* free.; make room, then give the command again"
    )
    with pytest.raises(ZofoError, match=full), cache.new(models_folder / "m", 1 << 60) as work:
        pytest.fail(f"{work} was begun")
    assert os.listdir(models_folder) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_it_is_for_the_umask_to_say(models_folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with cache.new(models_folder / "m") as work:
            save(work)
    finally:
        os.umask(before)
    for found in (models_folder / "m", *(models_folder / "m").rglob("*")):
        assert stat.S_IMODE(found.stat().st_mode) == (0o777 if found.is_dir() else 0o666) & ~mask, found


def test_what_dead_processes_of_this_machine_left_is_swept(models_folder: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    old, mine, parent = "m-0123456789abcdef", f"m{cache.HOST}", os.getppid()
    gone = [f"{old}.tmp-{child}", f"{mine}.tmp-{child}"]
    kept = [f"{old}.tmp-{parent}", f"{mine}.tmp-{parent}", f"m.another-machine.tmp-{child}", f"m.tmp-{child}"]
    for name in (*gone, *kept):
        save(models_folder / name)
    cache.sweep("models")
    assert sorted(os.listdir(models_folder)) == sorted(kept)
    with cache.new(models_folder / "m") as work:
        save(models_folder / gone[1])
        save(work)
    with cache.new(models_folder / "n") as work:
        save(work)
    assert sorted(os.listdir(models_folder)) == sorted([*kept, "m", "n"])


def test_a_block_that_fails_leaves_nothing_and_its_error_is_raised(models_folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), cache.new(models_folder / "m") as work:
        save(work)
        raise KeyboardInterrupt
    assert os.listdir(models_folder) == []
