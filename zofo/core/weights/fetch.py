"""Reading a store ahead: the next piece is read by a thread while the one before is computed with.

`Fetcher` guesses what comes next, for forward passes; `sweep` goes over pieces that are known, and may write them
back. Both hold two buffers.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from zofo.core.weights.store import Piece, Store


class Ahead(NamedTuple):
    """A piece that is being read: its future, and the store's count of writes when that began."""

    piece: Piece
    future: Future[Tensor]
    writes: int


class Fetcher:
    """Pieces of a store, one at a time, each read while the one before is in use where it was foreseen.

    What followed a piece the last time is expected to follow it again (`order`: what to expect at first). A piece that
    was not foreseen is read at once; one that may have been written since is read again. `missed` counts both.
    Memory: two buffers of the largest piece. For one thread; `close` ends the reading one.
    """

    def __init__(self, store: Store, order: Iterable[Piece] = ()) -> None:
        self.store, self.missed = store, 0
        self.follows = dict(itertools.pairwise(order))
        self.last: Piece | None = None
        self.ahead: Ahead | None = None
        self.used = self.spare = torch.empty(0, dtype=store.dtype)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="zofo-store")

    def take(self, piece: Piece) -> Tensor:
        """A piece's elements, flat, in a buffer that is the caller's (to write in, too) until the next call.

        Raises: what reading it raised in the thread. Afterwards the next piece is being read.
        """
        found = self._arrived(piece)
        if found is None:
            self.missed += 1
            found = self._read(piece)
        self.used, self.spare = self.spare, self.used
        if self.last is not None:
            self.follows[self.last] = piece
        self.last = piece
        if (following := self.follows.get(piece)) is not None:
            self.ahead = Ahead(following, self.worker.submit(self._read, following), self.store.writes)
        return found

    def _arrived(self, piece: Piece) -> Tensor | None:
        """Wait for what is being read (it fills the spare buffer), and return it if it is the piece as it stands now."""
        if self.ahead is None:
            return None
        error, ahead = self.ahead.future.exception(), self.ahead
        self.ahead = None
        if ahead.piece != piece or ahead.writes != self.store.writes:
            return None
        if error is not None:
            raise error
        return ahead.future.result()

    def _read(self, piece: Piece) -> Tensor:
        """Read a piece into the spare buffer, made larger if need be."""
        if self.spare.numel() < piece.n:
            self.spare = self.spare.new_empty(0)  # the old one goes before the new one comes
            self.spare = self.spare.new_empty(piece.n)
        return self.store.read(*piece, self.spare[: piece.n])

    def close(self) -> None:
        """Wait for the reading thread and end it."""
        self.worker.shutdown()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


Sweep = Generator[tuple[Piece, Tensor], None, None]


def sweep(store: Store, pieces: Iterable[Piece], keep: bool = False) -> Sweep:
    """Yield each piece with its elements, flat, in a buffer that is the caller's until the next one is asked for.

    With `keep`, what stands in the buffer then is written back (pieces must not overlap); the piece at which a caller
    stops is not. Reading and writing go on in a thread meanwhile. Raises what they raised, two pieces later at most.
    Memory: two buffers of the largest piece.
    """
    todo = list(pieces)
    largest = max((piece.n for piece in todo), default=0)
    buffers = [torch.empty(largest, dtype=store.dtype) for _ in todo[:2]]
    with ThreadPoolExecutor(1, thread_name_prefix="zofo-store") as worker:
        jobs = deque(worker.submit(turn, store, None, *pair) for pair in zip(todo, buffers, strict=False))
        for piece, then in itertools.zip_longest(todo, todo[2:]):
            found = jobs.popleft().result()
            assert found is not None
            yield piece, found
            jobs.append(worker.submit(turn, store, (piece, found) if keep else None, then, buffers[0]))
            buffers.reverse()
        for job in jobs:
            job.result()


def turn(store: Store, old: tuple[Piece, Tensor] | None, new: Piece | None, buffer: Tensor) -> Tensor | None:
    """Write back what a buffer holds, then read another piece into it: the two ends of its use."""
    if old is not None:
        store.write(old[0].name, old[0].start, old[1])
    return store.read(*new, buffer[: new.n]) if new is not None else None
