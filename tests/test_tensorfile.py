"""safetensors by pieces: the library reads what is written, and what the library writes is read, to the byte."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from zofo import tensorfile
from zofo.errors import BadInput
from zofo.tensorfile import Flat


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"z.weight": (5, 7), "a.weight": (40,), "émile\n": (2, 1, 3), "one": (), "none": (0, 4)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def flat(tensor: Tensor, size: int = 6) -> Flat:
    return Flat(tensor.dtype, tensor.shape, lambda: tensor.reshape(-1).split(size))


def flats(made: dict[str, Tensor]) -> dict[str, Flat]:
    return {name: flat(tensor) for name, tensor in made.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_bytes_are_those_that_safetensors_writes(dtype: torch.dtype) -> None:
    made = tensors(dtype)
    for about in (None, {"format": "pt"}):
        assert b"".join(tensorfile.serialised(flats(made), about)) == save(made, about)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    made = tensors() | {"half": torch.ones(3).half(), "count": torch.tensor([7]), "mask": torch.tensor([True, False])}
    tensorfile.write(tmp_path / "model.safetensors", flats(made))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(made)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in made.items())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_the_library_writes_is_read(tmp_path: Path, size: int) -> None:
    made = tensors() | {"half": torch.ones(3).half(), "count": torch.tensor([7])}
    save_file(made, tmp_path / "m", {"format": "pt"})
    found = tensorfile.entries(tmp_path / "m")
    assert set(found) == set(made)
    for name, tensor in made.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        parts = [part.clone() for part in tensorfile.pieces(found[name], size)]
        assert all(part.numel() <= size for part in parts)
        assert torch.equal(torch.cat(parts or [tensor.new_empty(0)]).view(tensor.shape), tensor)
        assert torch.equal(tensorfile.whole(found[name]), tensor)


def test_pieces_share_one_buffer(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "m")
    held = tensorfile.entries(tmp_path / "m")["a.weight"]
    assert len({part.data_ptr() for part in tensorfile.pieces(held, 16)}) == 1


def test_a_file_is_not_mapped(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "mapped-or-not")
    for part in tensorfile.pieces(tensorfile.entries(tmp_path / "mapped-or-not")["a.weight"], 16):
        assert part.numel() and "mapped-or-not" not in Path("/proc/self/maps").read_text()


def test_a_tensor_is_asked_for_anew_each_time(tmp_path: Path) -> None:
    held = flats(tensors())
    for name in ("one", "two"):
        tensorfile.write(tmp_path / name, held)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "pieces",
    [lambda: [torch.zeros(5)], lambda: [torch.zeros(7)], lambda: [torch.zeros(6).double()], lambda: []],
)
def test_pieces_that_are_not_the_tensor_are_refused(pieces: Callable[[], Iterable[Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"^w: "):
        list(tensorfile.serialised({"w": Flat(torch.float32, torch.Size([2, 3]), pieces)}))


def forged(**values: object) -> bytes:
    """A file of 8 data bytes with a line of the header changed."""
    line = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | values
    text = json.dumps({"w": line}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        forged(data_offsets=[0, 12]),
        forged(data_offsets=[4, 12]),
        forged(data_offsets=[-4, 4]),
        forged(data_offsets=[0]),
        forged(shape=[3]),
        forged(shape="x"),
        forged(shape=[-2]),
        forged(dtype="F8_E4M3"),
        forged(dtype=None),
    ],
)
def test_a_file_that_is_not_whole_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(BadInput, match="bring the file back"):
        tensorfile.entries(tmp_path / "m")


def test_the_forgery_is_right_where_it_is_not_wrong(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(forged())
    assert not tensorfile.whole(tensorfile.entries(tmp_path / "m")["w"]).any()
    assert not load_file(tmp_path / "m")["w"].any()


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "m")
    held = tensorfile.entries(tmp_path / "m")["a.weight"]
    os.truncate(tmp_path / "m", held.at + 20)
    with pytest.raises(OSError, match="too early"):
        list(tensorfile.pieces(held))
