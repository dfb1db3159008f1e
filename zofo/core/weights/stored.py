"""Leaves whose weights are in a store: in the model stand placeholders that have a shape and no memory.

`reading` and `changing` go over leaves of either kind, so that their callers need not know which they have.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zofo.core.weights.fetch import Sweep, sweep
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.core.weights.store import PIECE, Piece, Store, cut

Part = tuple[Leaf, int, Tensor]
"""Elements of a leaf: the leaf, the flat index of the first, and the elements, flat."""


@dataclass(frozen=True)
class StoredLeaf(Leaf):
    """A leaf that is read from a store and written to it, never whole; `param` is a placeholder."""

    store: Store

    @property
    def data(self) -> Tensor:
        """There is none: a copy of it would lose what is written to it."""
        raise RuntimeError(f"{self.name} is not in memory: it is read and written by pieces")

    @property
    def contiguous(self) -> bool:
        """They do in the store, whatever the placeholder says."""
        return True

    def cut(self, size: int = PIECE) -> list[Piece]:
        """Its pieces of `size` elements."""
        return cut(self.name, self.numel, size)


def placeholder(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A frozen parameter with shape, type and device, all of whose elements are one NaN: memory for one number.

    What computes with it is NaN; writing to it in place is refused by torch.
    """
    return nn.Parameter(torch.full((), math.nan, dtype=dtype, device=device).expand(shape), requires_grad=False)


def stored(leaves: Leaves, store: Store) -> Leaves:
    """The same leaves, those that are in the store as stored ones."""
    return Leaves(
        tuple(
            StoredLeaf(leaf.name, leaf.tid, leaf.param, leaf.owners, store) if leaf.name in store.places else leaf
            for leaf in leaves
        )
    )


def reading(leaves: Iterable[Leaf]) -> Iterator[Part]:
    """Yield the elements of leaves in order, to be read: one in memory at once, a stored one by pieces, read ahead.

    A part is the caller's until the next one is asked for. Memory: two pieces (one leaf, if it is not contiguous).
    """
    return parts(leaves, keep=False)


def changing(leaves: Iterable[Leaf]) -> Iterator[Part]:
    """Yield the elements of leaves in order, to be changed in place; a part is kept when the next one is asked for.

    Go on to the end: where a caller stops, that part's change may be lost, and those before it are made.
    Memory: as `reading`.
    """
    return parts(leaves, keep=True)


def parts(leaves: Iterable[Leaf], keep: bool) -> Iterator[Part]:
    """What `reading` and `changing` share."""
    leaves = list(leaves)
    held = [leaf for leaf in leaves if isinstance(leaf, StoredLeaf)]
    if len({id(leaf.store) for leaf in held}) > 1:
        raise ValueError("leaves of more than one store")
    with contextlib.closing(ahead(held, keep)) as coming:
        for leaf in leaves:
            if isinstance(leaf, StoredLeaf):
                yield from ((leaf, piece.start, found) for _, (piece, found) in zip(leaf.cut(), coming, strict=False))
            else:
                yield from resident(leaf, keep)
        for _ in coming:  # the last piece is written when a next one is asked for
            pass


def ahead(held: list[StoredLeaf], keep: bool) -> Sweep:
    """All pieces of stored leaves of one store."""
    if held:
        yield from sweep(held[0].store, [piece for leaf in held for piece in leaf.cut()], keep)


def resident(leaf: Leaf, keep: bool) -> Iterator[Part]:
    """A leaf in memory as one part: itself, or a contiguous copy that is copied back."""
    whole = leaf.data.contiguous()
    yield leaf, 0, whole.view(-1)
    if keep and not leaf.data.is_contiguous():
        leaf.data.copy_(whole)
