"""A file appears whole or not at all, whatever operation fails or is the last one."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zofo.errors import ZofoError
from zofo.run import seam

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EINTR, errno.EROFS]
OLD, NEW = b"old content", b"the new content, longer"


@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_write_file_with_an_error_at_every_operation_keeps_old_or_new(tmp_path, failing, number, on):
    path = tmp_path / "file"
    total = failing(0, number)
    seam.write_file(path, OLD)
    for n in range(1, total.count + 1):
        failing(0, 0)
        seam.write_file(path, OLD)
        disk = failing(n, number, on)
        with pytest.raises(ZofoError) as told:
            seam.write_file(path, NEW)
        renamed = disk.log[n - 1] == "fsync_dir"
        assert path.read_bytes() == (NEW if renamed else OLD)
        assert str(path) in told.value.asked and told.value.status == 1
        if number in seam.FULL:
            assert f"{len(NEW)} bytes needed" in told.value.found and "free" in told.value.found
        assert disk.log.count("fsync") <= 1, "a failed fsync is never tried again"
        if not on:
            assert os.listdir(tmp_path) == ["file"]
        failing(0, 0)
        seam.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["file"]


def test_write_file_killed_at_every_operation_keeps_old_or_new(tmp_path, killed):
    path = tmp_path / "file"
    seam.write_file(path, OLD)
    n, seen = 1, set()
    while killed(n, lambda: seam.write_file(path, NEW)):
        seen.add(path.read_bytes())
        seam.write_file(path, OLD)
        assert len(seam.sweep(tmp_path)) <= 1
        assert os.listdir(tmp_path) == ["file"]
        n += 1
    assert seen == {OLD, NEW} and n > 5


def test_an_interrupt_in_the_middle_leaves_no_temporary(tmp_path, monkeypatch):
    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    seam.write_file(tmp_path / "file", OLD)
    monkeypatch.setattr(seam.disk, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        seam.write_file(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == OLD


def test_a_link_in_place_of_the_temporary_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    (tmp_path / "in").mkdir()
    seam.beside(tmp_path / "in" / "file").symlink_to(outside)
    with pytest.raises(ZofoError):
        seam.write_file(tmp_path / "in" / "file", NEW)
    assert outside.read_bytes() == OLD


def test_a_link_in_place_of_the_file_is_replaced(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    (tmp_path / "file").symlink_to(outside)
    seam.write_file(tmp_path / "file", NEW)
    assert outside.read_bytes() == OLD and not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("limit", [0, 1, 100, 4096])
def test_a_real_limit_on_file_size_is_told(tmp_path, limit):
    """RLIMIT_FSIZE, a real failure of the system in the middle of a file, for bytes and for tensors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ZofoError, match="bytes needed"):
            seam.write_file(tmp_path / "file", bytes(10_000))
        with pytest.raises(ZofoError, match="bytes needed"), seam.told(tmp_path / "tensors", 40_000):
            seam.put_tensors(tmp_path / "tensors", {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_tensors_are_written_exactly_and_are_readable_by_the_same_people_as_other_files(tmp_path):
    tensors = {"a": torch.arange(5, dtype=torch.bfloat16), "b": torch.tensor([float("nan"), -0.0])}
    seam.put_tensors(tmp_path / "t", tensors)
    seam.put(tmp_path / "f", b"")
    read = load_file(tmp_path / "t")
    assert all(torch.equal(read[k].view(torch.uint8), tensors[k].view(torch.uint8)) for k in tensors)
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == (tmp_path.stat().st_mode & 0o666)


def test_sweep_spares_other_living_writers_and_files_that_only_look_alike(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for name in [
        f"a.tmp-{child}",
        f"b.tmp-{os.getpid()}",
        f"c.tmp-{os.getppid()}",
        "d.tmp-",
        "e.tmp",
        "f.tmp-9" + "9" * 30,
    ]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f"g.tmp-{child}").mkdir()
    (tmp_path / f"g.tmp-{child}" / "link").symlink_to(tmp_path / "e.tmp")
    seam.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f"c.tmp-{os.getppid()}", "d.tmp-", "e.tmp"]
    assert seam.sweep(tmp_path / "none") == []


def test_room_is_asked_before_a_write_begins(tmp_path):
    full = f"the disk is full .{1 << 60} bytes needed, [1-9][0-9]* free"
    with pytest.raises(ZofoError, match=full), seam.told(tmp_path / "x", 1 << 60):
        seam.room(tmp_path, 1 << 60)


def test_make_folder_makes_parents_durably_and_leaves_one_alone(tmp_path, failing):
    disk = failing(0, 0)
    seam.make_folder(tmp_path / "a" / "b")
    assert disk.log == ["mkdir", "fsync_dir"] * 2
    seam.make_folder(tmp_path / "a" / "b")
    assert len(disk.log) == 4
    Path(tmp_path / "file").write_bytes(b"")
    with pytest.raises(ZofoError):
        seam.make_folder(tmp_path / "file" / "c")


def test_a_file_in_parts_is_written_in_order_and_what_making_one_raises_is_raised(tmp_path):
    def parts(fail: bool):
        yield b"ab"
        yield memoryview(b"cde")
        if fail:
            raise OSError(errno.EIO, "the source failed")

    seam.put_parts(tmp_path / "whole", parts(False))
    assert (tmp_path / "whole").read_bytes() == b"abcde"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="the source failed"):
        seam.put_parts(tmp_path / "half", parts(True))
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_library_in_rust_says_of_the_system_is_told_and_nothing_else_is(tmp_path):
    """tokenizers raises plain exceptions, safetensors its own."""
    full = "write .*: the disk is full \\([1-9][0-9]* free\\); make room, then give the command again"
    with pytest.raises(ZofoError, match=full), seam.told(tmp_path / "x", then="give the command again"):
        raise Exception("No space left on device (os error 28)")
    for error in (ZofoError("a", "b (os error 28)", "c"), KeyError("no space"), Exception("os error")):
        with pytest.raises(type(error)) as caught, seam.told(tmp_path / "x"):
            raise error
        assert caught.value is error
