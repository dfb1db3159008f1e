"""safetensors files by pieces: read with `preadv`, written as they come. Nothing is mapped, no tensor is ever whole.

A file that `serialised` made of tensors of one type has the bytes that safetensors itself would write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zofo.core.weights.leaves import Leaf
from zofo.core.weights.store import PIECE, fill, raw
from zofo.core.weights.stored import reading
from zofo.errors import BadInput

MAX_HEADER = 100_000_000  # bytes, as safetensors has it
PLAIN: Mapping[str, str] = {"format": "pt"}
KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {kind: code for code, kind in KINDS.items()}


class Entry(NamedTuple):
    """A tensor in a file: the file, its type, its shape, and where its bytes begin."""

    path: Path
    dtype: torch.dtype
    shape: torch.Size
    at: int


class Flat(NamedTuple):
    """A tensor that is written by pieces: its type, its shape, and a function that gives its elements in order."""

    dtype: torch.dtype
    shape: torch.Size
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.shape.numel() * self.dtype.itemsize


def flats(leaves: Iterable[Leaf]) -> dict[str, Flat]:
    """Leaves as tensors of a safetensors file that is written by pieces."""
    return {leaf.name: flat(leaf) for leaf in leaves}


def flat(leaf: Leaf) -> Flat:
    """One leaf, read anew each time it is written."""
    return Flat(leaf.dtype, leaf.shape, lambda: (part for _, _, part in reading([leaf])))


def entries(path: Path) -> dict[str, Entry]:
    """What stands in a safetensors file. Raises `BadInput` when it is not a whole one, or holds a type that torch has not."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= MAX_HEADER else b""
        end = os.fstat(file.fileno()).st_size
    try:
        held = json.loads(text)
        held.pop("__metadata__", None)
        return {name: entry(path, values, 8 + size, end) for name, values in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"not a whole safetensors file ({type(error).__name__}: {error})"
        raise BadInput(str(path), found, "bring the file back") from None


def entry(path: Path, values: Mapping[str, Any], begin: int, end: int) -> Entry:
    """One line of a header, checked against the file's length."""
    kind, shape = KINDS[str(values["dtype"])], torch.Size(values["shape"])
    first, last = values["data_offsets"]
    if not 0 <= first <= last <= end - begin or last - first != shape.numel() * kind.itemsize:
        raise ValueError(f"bytes {first}..{last} of {end - begin} for {values['dtype']} {tuple(shape)}")
    return Entry(path, kind, shape, begin + first)


def pieces(held: Entry, size: int = PIECE) -> Iterator[Tensor]:
    """The elements of a tensor in a file, flat, in its own type, in a buffer that is the caller's until the next piece.

    Memory: one piece.
    """
    left, at = held.shape.numel(), held.at
    buffer = torch.empty(min(size, left), dtype=held.dtype)
    with held.path.open("rb", buffering=0) as file:
        while left:
            part = buffer[: min(size, left)]
            fill(file.fileno(), raw(part), at, str(held.path))
            yield part
            left, at = left - part.numel(), at + part.nbytes


def whole(held: Entry) -> Tensor:
    """A tensor of a file, in its own type. Memory: all of it."""
    out = torch.empty(held.shape, dtype=held.dtype)
    with held.path.open("rb", buffering=0) as file:
        fill(file.fileno(), raw(out), held.at, str(held.path))
    return out


def serialised(tensors: Mapping[str, Flat], about: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """A safetensors file, in parts to be written one after the other; `about` is its metadata.

    Raises: ValueError when a tensor's pieces are not its elements. Memory: a piece as it comes.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # as safetensors: large types first
    header: dict[str, object] = {"__metadata__": dict(about)} if about else {}
    at = 0
    for name in order:
        held = tensors[name]
        header[name] = {"dtype": CODES[held.dtype], "shape": list(held.shape), "data_offsets": [at, at + held.nbytes]}
        at += held.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield from checked(name, tensors[name])


def checked(name: str, held: Flat) -> Iterator[memoryview]:
    """The bytes of a tensor, piece by piece."""
    done = 0
    for piece in held.pieces():
        if piece.dtype != held.dtype:
            raise ValueError(f"{name}: a piece of {piece.dtype} for {held.dtype}")
        view = raw(piece.cpu().contiguous())
        done += len(view)
        yield view
    if done != held.nbytes:
        raise ValueError(f"{name}: {done} bytes for {tuple(held.shape)} of {held.dtype}")


def write(path: Path, tensors: Mapping[str, Flat], about: Mapping[str, str] = PLAIN) -> None:
    """Write a safetensors file piece by piece (not fsynced: for a folder that gets its name when it is whole)."""
    with path.open("wb") as file:
        for part in serialised(tensors, about):
            file.write(part)
