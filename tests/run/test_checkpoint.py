"""Checkpoints appear whole, are replaced and pruned safely, and a broken one is never used."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from zofo.errors import ZofoError
from zofo.run import checkpoint, manifest, seam
from zofo.run.checkpoint import BEST, publish, publish_as, read
from zofo.run.errors import Corrupt, Newer

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR]


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    mixed = {"a": torch.full((40,), float(step)), "b": torch.tensor([step, -1]), "c": torch.ones(3, 2).bfloat16()}
    return {"adapters": mixed, "moments": {"a": torch.full((1500,), step / 7, dtype=torch.float64)}}


def state(step: int) -> dict[str, object]:
    return {"step": step, "loss": 0.1 + step, "none": None, "worst": float("inf"), "list": [1, {"x": "é"}]}


def save(folder: Path, step: int, mark: int = 0) -> Path:
    return publish(folder, step, tensors(step + mark), state(step))


def check(found: checkpoint.Checkpoint | None, step: int, mark: int = 0) -> None:
    """That a checkpoint holds what `save(folder, step, mark)` wrote."""
    assert found is not None and found.step == step and found.state == state(step)
    for name, group in tensors(step + mark).items():
        loaded = found.load(name)
        assert loaded.keys() == group.keys() and all(torch.equal(loaded[k], group[k]) for k in group)
        assert all(loaded[k].dtype == group[k].dtype for k in group)


def test_a_checkpoint_reads_back_exactly_and_lazily(tmp_path):
    path = save(tmp_path, 123)
    assert path == tmp_path / "step-000123"
    assert sorted(os.listdir(path)) == ["MANIFEST.json", "adapters.safetensors", "moments.safetensors", "state.json"]
    found = read(path)
    check(found, 123)
    assert found.names == ("adapters", "moments") or set(found.names) == {"adapters", "moments"}
    with found.open("adapters") as file:
        assert sorted(file.keys()) == ["a", "b", "c"]
        assert torch.equal(file.get_tensor("b"), torch.tensor([123, -1]))
    with pytest.raises(Corrupt, match=r"holds no theta\.safetensors"):
        found.load("theta")
    with pytest.raises(Corrupt):
        found.open("../x")


def test_a_group_in_parts_has_the_bytes_of_one_in_memory(tmp_path, monkeypatch):
    from safetensors.torch import save as serialised

    group = {"a": torch.arange(1000.0), "b": torch.ones(3)}
    data = serialised(group)
    parts = seam.Parts(4012, lambda: (data[i : i + 700] for i in range(0, len(data), 700)))
    one, other = (
        publish(tmp_path / "one", 5, {"theta": group}, {}),
        publish(tmp_path / "other", 5, {"theta": parts}, {}),
    )
    assert read(one).manifest == read(other).manifest
    assert torch.equal(read(other).load("theta")["a"], group["a"])
    monkeypatch.setattr(seam, "free", lambda folder: 4012)
    with pytest.raises(ZofoError, match="the disk is full"):
        publish(tmp_path / "third", 5, {"theta": parts}, {})


def test_a_checkpoint_may_hold_no_tensors_or_empty_groups(tmp_path):
    assert read(publish(tmp_path, 1, {}, {})).names == ()
    assert read(publish(tmp_path, 2, {"none": {}}, {})).load("none") == {}


def test_listing_sorts_steps_and_passes_over_everything_else(tmp_path):
    assert checkpoint.listing(tmp_path / "none") == []
    for name in [
        "step-000010",
        "step-000002",
        "step-1234567",
        "best",
        "step-000003.tmp-1",
        "step-x",
        "other",
        "step-12",
    ]:
        (tmp_path / name).mkdir()
    assert checkpoint.listing(tmp_path) == [2, 10, 1234567]


def test_publishing_the_same_step_again_keeps_an_equal_one_and_replaces_another(tmp_path):
    path = save(tmp_path, 5)
    inode = path.stat().st_ino
    save(tmp_path, 5)
    assert path.stat().st_ino == inode
    save(tmp_path, 5, mark=1)
    assert path.stat().st_ino != inode
    check(read(path), 5, mark=1)
    (path / "state.json").write_bytes(b"{}")
    save(tmp_path, 5, mark=1)
    check(read(path), 5, mark=1)
    assert os.listdir(tmp_path) == ["step-000005"]


def test_best_is_written_the_same_way_and_is_no_step(tmp_path):
    publish_as(tmp_path, BEST, 3, tensors(3), state(3))
    publish_as(tmp_path, BEST, 8, tensors(8), state(8))
    check(read(tmp_path / BEST), 8)
    assert checkpoint.listing(tmp_path) == [] and os.listdir(tmp_path) == [BEST]
    assert checkpoint.newest_good(tmp_path, None, print) is None


def test_newest_good_takes_the_newest_that_passes_and_tells_of_the_others(tmp_path):
    assert checkpoint.newest_good(tmp_path / "none", None, print) is None
    for step in (1, 2, 3):
        save(tmp_path, step)
    told: list[str] = []
    check(checkpoint.newest_good(tmp_path, None, told.append), 3)
    assert told == []
    check(checkpoint.newest_good(tmp_path, lambda found: found.step < 3, told.append), 2)
    assert len(told) == 1 and "step-000003 is not used" in told[0]

    def journal_check(found: checkpoint.Checkpoint) -> None:
        if found.step > 1:
            raise Corrupt("journal", "its SHA-256 is not the checkpoint's", "")

    check(checkpoint.newest_good(tmp_path, journal_check, told.append), 1)
    assert len(told) == 3 and "its SHA-256 is not" in told[2]


def mutate(path: Path, draw: random.Random) -> str:
    """Damage a checkpoint in one random way; returns which."""
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    file, kind = draw.choice(files), draw.choice(["flip", "cut", "zero", "drop", "add", "grow", "link", "swap"])
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "zero":
        start = draw.randrange(len(data))
        while not any(data[start : start + 4096]):
            start = draw.randrange(len(data))
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    elif kind == "grow":
        data += bytes(draw.randrange(1, 9))
    if kind in ("flip", "cut", "zero", "grow"):
        file.write_bytes(data)
    elif kind == "add":
        (path / draw.choice([".hidden", "theta.safetensors", "x.tmp-1"])).write_bytes(b"")
    elif kind == "drop":
        file.unlink()
    else:
        other = path.parent / f"{file.name}.aside"
        os.replace(file, other)
        if kind == "link":
            file.symlink_to(other)
        else:
            file.mkdir()
    return f"{kind} {file.name}"


def test_two_hundred_mutations_of_the_newest_are_all_found(tmp_path):
    whole = tmp_path / "whole"
    save(whole, 10)
    save(whole, 20)
    draw = random.Random(7)
    for number in range(200):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        what = mutate(folder / "step-000020", draw)
        told: list[str] = []
        found = checkpoint.newest_good(folder, None, told.append)
        assert found is not None and found.step == 10, (number, what)
        assert len(told) == 1 and "step-000020 is not used" in told[0], (number, what)
        if number % 20 == 0:
            check(found, 10)
            mutate(folder / "step-000010", draw)
            with pytest.raises(Corrupt, match="no checkpoint of this run is whole; start a new run with another name"):
                checkpoint.newest_good(folder, None, told.append)
            assert len(told) == 3
        shutil.rmtree(folder)


def test_a_newer_format_stops_instead_of_falling_back(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(manifest, "FORMAT", 2)
    path = manifest.NAME
    content = manifest.Manifest(2, {}).text()
    monkeypatch.setattr(manifest, "FORMAT", 1)
    (tmp_path / "step-000002").mkdir()
    (tmp_path / "step-000002" / path).write_bytes(content)
    with pytest.raises(Newer, match="format 2, this zofo knows 1; use a newer zofo"):
        checkpoint.newest_good(tmp_path, None, print)
    (tmp_path / "step-000002").rename(tmp_path / "best")
    with pytest.raises(Newer):
        checkpoint.cut(tmp_path, 1, print)
    assert (tmp_path / "best" / path).read_bytes() == content, "nothing is deleted that a newer zofo reads"


def test_a_file_forged_with_its_manifest_is_refused_by_its_own_format(tmp_path):
    path = save(tmp_path, 1)
    for content in (b"", b"\x80\x04.", b"\xff" * 200, (2**63).to_bytes(8, "little") + b"{}"):
        (path / manifest.NAME).unlink()
        (path / "adapters.safetensors").write_bytes(content)
        (path / manifest.NAME).write_bytes(manifest.describe(path, 1).text())
        with pytest.raises(Corrupt, match=r"adapters\.safetensors is not readable"):
            read(path).load("adapters")
        with pytest.raises(Corrupt):
            read(path).open("adapters")


def test_a_folder_that_bears_another_steps_name_is_refused(tmp_path):
    os.rename(save(tmp_path, 4), tmp_path / "step-000009")
    with pytest.raises(Corrupt, match="that of step 4"):
        read(tmp_path / "step-000009")


def test_prune_keeps_the_newest_the_protected_and_the_best(tmp_path):
    publish_as(tmp_path, BEST, 2, tensors(2), state(2))
    for step in range(1, 7):
        save(tmp_path, step)
    assert checkpoint.prune(tmp_path, 2, {3}) == [1, 2, 4]
    assert sorted(os.listdir(tmp_path)) == [BEST, "step-000003", "step-000005", "step-000006"]
    assert checkpoint.prune(tmp_path, 9) == []


def test_prune_deletes_nothing_while_the_newest_is_not_whole(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000003" / "state.json").unlink()
    with pytest.raises(Corrupt, match=r"state\.json is missing"):
        checkpoint.prune(tmp_path, 1)
    assert checkpoint.listing(tmp_path) == [1, 2, 3]


def test_cut_deletes_what_is_later_and_a_broken_or_later_best(tmp_path):
    told: list[str] = []
    for step in (1, 2, 3):
        save(tmp_path, step)
    publish_as(tmp_path, BEST, 2, tensors(2), state(2))
    checkpoint.cut(tmp_path, 2, told.append)
    assert sorted(os.listdir(tmp_path)) == [BEST, "step-000001", "step-000002"] and len(told) == 1
    (tmp_path / BEST / "state.json").write_bytes(b"")
    checkpoint.cut(tmp_path, 2, told.append)
    assert not (tmp_path / BEST).exists() and "state.json has 0 bytes" in told[1]
    publish_as(tmp_path, BEST, 2, tensors(2), state(2))
    checkpoint.cut(tmp_path, 1, told.append)
    assert os.listdir(tmp_path) == ["step-000001"]


@pytest.mark.parametrize("name", ["step-000002", BEST])
@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_error_at_every_operation_keeps_the_old_or_has_the_new(tmp_path, failing, number, on, name):
    """A replacement, the case with most operations: the name always holds one of the two, whole."""
    for n in range(1, 100):
        failing(0, 0)
        folder = tmp_path / str(n)
        publish_as(folder, name, 2, tensors(2), state(2))
        disk = failing(n, number, on)
        try:
            publish_as(folder, name, 2, tensors(3), state(2))
        except ZofoError as told:
            assert not isinstance(told, Corrupt) and str(folder) in told.asked
            assert number not in seam.FULL or "bytes needed" in told.found
        if disk.count < n:
            break
        failing(0, 0)
        assert on or (folder / name).is_dir()
        found = read(folder / name)
        check(found, 2, mark=int(found.load("adapters")["a"][0]) - 2)
        publish_as(folder, name, 2, tensors(3), state(2))
        check(read(folder / name), 2, mark=1)
        assert os.listdir(folder) == [name]
        shutil.rmtree(folder)
    assert n > 20


@pytest.mark.parametrize("name", ["step-000003", BEST])
def test_killed_at_every_operation_a_reader_finds_the_previous_or_the_new(tmp_path, killed, name):
    """One save of a run, replacement and pruning included, killed by SIGKILL before or in the middle of each."""
    pristine = tmp_path / "pristine"
    save(pristine, 1)
    save(pristine, 2)
    publish_as(pristine, name, 3, tensors(3), state(3))

    def work() -> None:
        publish_as(folder, name, 3, tensors(4), state(3))
        checkpoint.prune(folder, 1)

    for n in range(1, 100):
        folder = tmp_path / str(n)
        shutil.copytree(pristine, folder)
        if not killed(n, work):
            break
        found = read(folder / name)
        check(found, 3, mark=int(found.load("adapters")["a"][0]) - 3)
        assert all(read(folder / checkpoint.step_name(step)) for step in checkpoint.listing(folder))
        newest = checkpoint.newest_good(folder, None, pytest.fail)
        assert newest is not None and newest.step == (2 if name == BEST else 3)
        checkpoint.sweep(folder)
        assert not [entry for entry in os.listdir(folder) if ".tmp-" in entry]
        check(read(folder / name), 3, mark=int(read(folder / name).load("adapters")["a"][0]) - 3)
        shutil.rmtree(folder)
    check(read(folder / name), 3, mark=1)
    assert n > 30 and checkpoint.listing(folder) == ([2] if name == BEST else [3])


def test_a_checkpoint_that_cannot_fit_is_not_begun(tmp_path, failing, monkeypatch):
    save(tmp_path, 1)
    disk = failing(0, 0)
    monkeypatch.setattr(seam, "free", lambda path: 1000)
    with pytest.raises(ZofoError, match=r"the disk is full \([0-9]+ bytes needed, 1000 free\)"):
        save(tmp_path, 2)
    assert disk.log == [] and os.listdir(tmp_path) == ["step-000001"]


def test_state_is_plain_json(tmp_path):
    with pytest.raises(TypeError):
        publish(tmp_path, 1, {}, {"x": object()})
    assert os.listdir(tmp_path) == []
    text = (save(tmp_path, 1) / "state.json").read_text()
    assert json.loads(text) == state(1)
