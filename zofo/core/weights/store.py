"""A working file that holds weights outside memory: every leaf at an aligned place, read and written by pieces.

Nothing is mapped: bytes go between the file and a tensor's own memory (`preadv`, `pwritev`), so that only buffers
are resident (what the system caches of the file is not the process's). The file has no name: it goes with the
process, however that ends. It is a working copy, never a checkpoint, and is not fsynced.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

ALIGN = 4096  # bytes: every leaf begins on a page
PIECE = 1 << 20  # elements moved at a time where nobody says more (4 MiB in fp32)

Named = tuple[str, Sequence[int], Iterable[Tensor]]
"""A tensor that comes in parts: its name, its shape, and its elements in order, in tensors of any size and type."""


class Piece(NamedTuple):
    """Elements start..start+n of a leaf, by flat index."""

    name: str
    start: int
    n: int


class Place(NamedTuple):
    """Where a leaf stands in the file (in bytes), and its shape."""

    at: int
    shape: torch.Size


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU: its own memory, not a copy."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def fill(file: int, view: memoryview, at: int, what: str) -> None:
    """Fill memory with the bytes of an open file from `at` on. Raises `OSError` where it ends before."""
    while view:
        done = os.preadv(file, [view], at)
        if done == 0:
            raise OSError(errno.EIO, f"{what} ends too early")
        view, at = view[done:], at + done


def cut(name: str, numel: int, size: int = PIECE) -> list[Piece]:
    """Cut a leaf into pieces of `size` elements, the last one shorter."""
    return [Piece(name, at, min(size, numel - at)) for at in range(0, numel, size)]


class Store:
    """Leaves of one type in a nameless file of a folder; closed by `close`, at the end of a `with` block, or with the object.

    `writes` counts writes, so that who read ahead can tell that bytes may be old. Reading and writing may go on in
    several threads. Memory: none.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        file = tempfile.TemporaryFile(dir=folder, prefix="zofo-store-", buffering=0)  # noqa: SIM115
        self.file, self.dtype, self.places = file, dtype, dict[str, Place]()
        self.end = self.writes = 0
        self.close = weakref.finalize(self, file.close)

    @classmethod
    def create(cls, folder: Path, tensors: Iterable[Named], dtype: torch.dtype = torch.float32) -> Store:
        """Copy tensors into a new store, converted to `dtype`. Memory: a part of a tensor as it comes, and a converted piece."""
        store = cls(folder, dtype)
        try:
            for named in tensors:
                store.add(*named)
        except BaseException:
            store.close()
            raise
        return store

    def add(self, name: str, shape: Sequence[int], parts: Iterable[Tensor]) -> None:
        """Append a leaf. Raises `ValueError` when the name is there already or the parts are not `shape`'s elements."""
        if name in self.places:
            raise ValueError(f"{name} is in the store already")
        place, done = Place(self.end, torch.Size(shape)), 0
        self.places[name] = place
        for part in parts:
            for piece in part.detach().reshape(-1).split(PIECE):
                self.write(name, done, piece.to("cpu", self.dtype))
                done += piece.numel()
        if done != place.shape.numel():
            raise ValueError(f"{name} has {done} elements, not the {place.shape.numel()} of {tuple(shape)}")
        self.end += -(-done * self.dtype.itemsize // ALIGN) * ALIGN

    def read(self, name: str, start: int, n: int, out: Tensor) -> Tensor:
        """Read elements start..start+n of a leaf into a contiguous tensor on the CPU, and return it."""
        fill(self.file.fileno(), *self._span(name, start, n, out), "the working copy of the weights")
        return out

    def write(self, name: str, start: int, tensor: Tensor) -> None:
        """Write a contiguous tensor's elements over those of a leaf from `start` on."""
        view, at = self._span(name, start, tensor.numel(), tensor)
        self.writes += 1
        while view:
            done = os.pwritev(self.file.fileno(), [view], at)
            view, at = view[done:], at + done

    def _span(self, name: str, start: int, n: int, tensor: Tensor) -> tuple[memoryview, int]:
        """A tensor's bytes, and where those of the leaf begin. Raises when they do not fit one another."""
        place = self.places[name]
        if start < 0 or n < 0 or start + n > place.shape.numel():
            raise IndexError(f"{name} has no elements {start}..{start + n}: it has {place.shape.numel()}")
        if tensor.numel() != n or tensor.dtype != self.dtype:
            raise ValueError(f"{tensor.numel()} elements of {tensor.dtype} for {n} of {self.dtype}")
        return raw(tensor), place.at + start * self.dtype.itemsize

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
