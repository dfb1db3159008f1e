"""The bank: what is put to rest comes back to the bit, all of a block's tasks or none, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zofo.adapters import bank as banks
from zofo.adapters.bank import Bank
from zofo.adapters.slots import Slots
from zofo.errors import BadInput, ZofoError

NAMES = ("set/a", "b", "set/c")


def slots() -> Slots:
    model = nn.Module()
    return Slots(model, {s: {"q": nn.Parameter(torch.full((2, 3), float(i)))} for i, s in enumerate("ps")})  # type: ignore[arg-type]


def tensors(value: float) -> dict[str, Tensor]:
    moments = {"optimizer.s.0.step": torch.tensor(value), "optimizer.s.0.exp_avg": torch.full((2, 3), value / 2)}
    return {f"adapter.{s}.q": torch.full((2, 3), value + i) for i, s in enumerate("ps")} | moments


def made(folder: Path) -> Bank:
    own = slots()
    return Bank(folder, NAMES, {s: own.tensors(s) for s in own.params})


def test_a_task_never_used_has_the_start_and_a_used_one_its_own(tmp_path: Path) -> None:
    held, own = made(tmp_path), slots()
    held.keep("b", tensors(7.3))
    assert all(torch.equal(t, tensors(7.3)[name]) for name, t in held.take("b").items())
    held.into(own, "b")
    assert own.params["p"]["q"].eq(torch.tensor(7.3)).all() and own.params["s"]["q"].eq(torch.tensor(8.3)).all()
    held.into(own, "set/a")
    assert own.params["p"]["q"].eq(0).all() and own.params["s"]["q"].eq(1).all()
    held.into(own, "b")
    held.rest(own)
    assert own.params["s"]["q"].eq(1).all()
    with pytest.raises(BadInput, match="task d: the run has no such training task"):
        held.take("d")


def test_a_block_keeps_all_or_none(tmp_path: Path) -> None:
    held = made(tmp_path)
    held.keep("b", tensors(1.0))
    with pytest.raises(KeyboardInterrupt), held.changing() as keep:
        keep("b", tensors(2.0))
        keep("set/c", tensors(3.0))
        raise KeyboardInterrupt
    assert held.take("b")["adapter.p.q"].eq(1).all() and held.groups().keys() == {"task-0001"}
    assert len(list(held.folder.iterdir())) == 1
    with held.changing() as keep:
        keep("b", tensors(2.0))
        assert held.take("b")["adapter.p.q"].eq(1).all(), "nothing has changed before the end"
        keep("set/c", tensors(3.0))
        keep("b", tensors(4.0))
    assert held.take("b")["adapter.p.q"].eq(4).all() and held.groups().keys() == {"task-0001", "task-0002"}
    assert len(list(held.folder.iterdir())) == 2 and held.named() == {"task-0001": "b", "task-0002": "set/c"}


def test_a_file_that_cannot_be_written_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = made(tmp_path)
    held.keep("b", tensors(1.0))

    def full(held: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(banks, "save_file", full)
    with pytest.raises(ZofoError, match=r"put adapters to rest in .*: no space left"):
        held.keep("b", tensors(2.0))
    assert held.take("b")["adapter.p.q"].eq(1).all() and len(list(held.folder.iterdir())) == 1


def test_restoring_takes_copies_of_a_checkpoints_files(tmp_path: Path) -> None:
    one, two = made(tmp_path), made(tmp_path)
    one.keep("set/c", tensors(5.0))
    two.keep("b", tensors(1.0))
    two.restore(one.groups())
    one.keep("set/c", tensors(6.0))
    assert two.take("set/c")["adapter.p.q"].eq(5).all() and two.take("b")["adapter.p.q"].eq(0).all()
    assert set(two.files) == {"set/c"} and len(list(two.folder.iterdir())) == 1


def test_a_bank_goes_with_its_object_and_those_of_the_dead_are_swept(tmp_path: Path) -> None:
    held = made(tmp_path)
    place = held.folder
    left, other = (tmp_path / f"bank-{platform.node()}-{pid}-x" for pid in (2**22 + 5, os.getpid()))
    theirs = tmp_path / f"bank-{platform.node()}-9-{2**22 + 5}-x"  # of a host whose name begins with this one's
    for folder in (left, other, theirs):
        folder.mkdir()
    second = made(tmp_path)
    assert place.is_dir() and other.is_dir() and theirs.is_dir() and not left.exists()
    del held
    gc.collect()
    assert not place.exists() and second.folder.is_dir()
