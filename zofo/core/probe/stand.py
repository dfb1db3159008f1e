"""Standing at theta + a z without moving: perturbed parameters live in scratch memory while their module runs.

Just before a module that owns leaves runs, w + a z is written to scratch and stands in its place; after it
the originals are back (`hooks`). Linear layers (`affine`) go in tiles, in the type that autocast computes in, with
low-rank noise beside the weight. Where several points are stood at together (`points`), the rows of each input are
theirs in equal shares, in order. Leaves outside memory come from their store by pieces.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.probe import Point
from zofo.core.probe.pool import Pool
from zofo.core.weights.fetch import Fetcher
from zofo.core.weights.leaves import Leaf, Leaves, slot
from zofo.core.weights.store import Piece, cut
from zofo.core.weights.stored import StoredLeaf
from zofo.errors import BadInput

Owned = dict[str, Leaf]  # a module's own leaves by attribute
NO_GRADIENTS = "zofo probes with gradients off: scratch memory is reused, so gradients would be wrong"


class CannotStack(Exception):
    """A module's inputs do not fall into equal shares of rows, so points are evaluated one by one."""


class Part(NamedTuple):
    """Weights of a leaf and where they are to be written, moved: all flat, or (`rows`) a table and places for some rows."""

    w: Tensor
    start: int
    places: list[Tensor]
    rows: Tensor | None = None


@dataclass
class Stand:
    """One probing context: the points stood at, what is swapped, and which leaves were reached.

    rows, tokens: of the model's input that a point has, where several are stood at together; fetcher: reads stored leaves.
    """

    model: nn.Module
    leaves: Leaves
    pool: Pool
    fetcher: Fetcher | None = None
    points: tuple[Point, ...] = (Point(),)
    rows: int = 0
    tokens: int = 0
    reached: set[int] = field(default_factory=set)
    live: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    last: tuple[Tensor, int, Tensor] | None = None  # an input, its version, and its cast
    padding: dict[nn.Module, int | None] = field(default_factory=dict)
    rewind: Callable[[], None] | None = None  # put the model's buffers back

    def begin(self, points: Sequence[Point]) -> None:
        """Stand at other points: what the model keeps is as it was before the first."""
        if self.rewind is not None:
            self.rewind()
        self.points = tuple(points)

    @property
    def at_theta(self) -> bool:
        """Whether every point is theta itself."""
        return all(point.z is None for point in self.points)

    def perturbed(self, leaf: Leaf, buffers: list[Tensor]) -> list[Tensor]:
        """w + a z of a whole leaf in scratch, at each point (at theta itself, a copy)."""
        return self.spread(leaf, leaf.shape, buffers)

    def rows_of(self, leaf: Leaf, rows: Tensor, buffers: list[Tensor]) -> list[Tensor]:
        """Some rows of w + a z in scratch, at each point."""
        return self.spread(leaf, (rows.numel(), leaf.shape[1]), buffers, rows=rows)

    def tile(self, leaf: Leaf, at: int, height: int, dtype: torch.dtype, buffers: list[Tensor]) -> list[Tensor]:
        """Rows at..at + height of w + a z in scratch, at each point, rounded to a type."""
        width = leaf.shape[1]
        return self.spread(leaf, (height, width), buffers, start=at * width, dtype=dtype)

    def original(self, leaf: Leaf, buffers: list[Tensor]) -> Tensor:
        """A whole leaf at theta: itself, or read from its store into scratch."""
        if not isinstance(leaf, StoredLeaf):
            return leaf.data
        buffer, out = self.pool.take(leaf.param, leaf.shape)
        buffers.append(buffer)
        for part in self.parts(leaf, 0, [out]):
            part.places[0].copy_(part.w)
        return out

    def spread(
        self, leaf: Leaf, shape: Sequence[int], buffers: list[Tensor], *, start: int = 0,
        dtype: torch.dtype | None = None, rows: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """A piece of a leaf at each point, read once."""
        outs: list[Tensor] = []
        for _ in self.points:
            buffer, out = self.pool.take(leaf.param, shape, dtype)
            buffers.append(buffer)
            outs.append(out)
        for part in self.parts(leaf, start, outs) if rows is None else self.single_rows(leaf, rows, outs):
            self.write(leaf, part)
        if not self.at_theta:
            self.reached.add(leaf.tid)
        return outs

    def parts(self, leaf: Leaf, start: int, outs: list[Tensor]) -> Iterator[Part]:
        """The elements of a leaf from `start` on, to fill `outs`: as they stand, or piece by piece from a store."""
        flat = [out.view(-1) for out in outs]
        n = flat[0].numel()
        if not isinstance(leaf, StoredLeaf):
            yield Part(leaf.data.contiguous().view(-1)[start : start + n], start, flat)
            return
        assert self.fetcher is not None
        for piece in cut(leaf.name, n):
            w = self.fetcher.take(Piece(leaf.name, start + piece.start, piece.n)).to(leaf.param.device)
            yield Part(w, start + piece.start, [out[piece.start : piece.start + piece.n] for out in flat])

    def single_rows(self, leaf: Leaf, rows: Tensor, outs: list[Tensor]) -> Iterator[Part]:
        """Rows of a leaf, to fill `outs`: all together, or one by one from a store."""
        if not isinstance(leaf, StoredLeaf):
            yield Part(leaf.data, 0, outs, rows)
            return
        width = leaf.shape[1]
        row = torch.empty(width, dtype=leaf.dtype)
        for place, number in enumerate(rows.tolist()):
            leaf.store.read(leaf.name, number * width, width, row)
            yield Part(row.to(leaf.param.device), number * width, [out[place] for out in outs])

    def write(self, leaf: Leaf, part: Part) -> None:
        """Write a part at each point; theta + a z and theta - a z come of one pass over it."""
        w, start, outs, rows = part
        done: set[int] = set()
        for i, point in enumerate(self.points):
            if i in done:
                continue
            if point.z is None:
                outs[i].copy_(w if rows is None else w[rows])
                continue
            j = next((j for j in range(i + 1, len(outs)) if self.points[j] == Point(point.z, -point.a)), None)
            minus = None if j is None else outs[j]
            done |= set() if j is None else {j}
            if rows is None:
                width = noise.columns(leaf.param)
                noise.perturb(outs[i], w, point.z, point.a, leaf.tid, start, width=width, minus=minus)
            else:
                noise.perturb_rows(outs[i], w, rows, point.z, point.a, leaf.tid, minus)

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x in the type that is computed in; the cast is kept for the next layers that read the same x (query, key, value)."""
        if x.dtype == dtype:
            return x
        if torch.is_inference(x):  # has no version
            return x.to(dtype)
        if self.last is None or self.last[0] is not x or self.last[1] != x._version or self.last[2].dtype != dtype:
            self.last = (x, x._version, x.to(dtype))
        return self.last[2]

    def shares(self, x: Tensor, chosen: bool = False) -> list[Tensor]:
        """The rows of an input that belong to each point: the model's rows, or all their tokens one after the other; anything
        else (tokens sorted by expert, say, or repeated for each) is in an order of its own, unless they are `chosen` in order. Raises: CannotStack."""
        n = len(self.points)
        if n == 1:
            return [x]
        known = chosen or not self.rows or (x.dim() > 0 and x.shape[0] in (n * self.rows, n * self.tokens))
        if not known or x.dim() == 0 or x.shape[0] % n:
            raise CannotStack(f"{tuple(x.shape)} does not fall into {n} shares")
        return list(x.chunk(n))


def uncompiled() -> AbstractContextManager[Any]:
    """A block in which `torch.compile`d models run as they are written: compiled code would not see other weights."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return, no-untyped-call]


def refuse_gradients() -> None:
    """Raise where autograd would record a probe."""
    if torch.is_grad_enabled():
        raise RuntimeError(NO_GRADIENTS)


def owned(leaves: Leaves) -> dict[nn.Module, Owned]:
    """Return every module that owns leaves, with its attributes."""
    found: dict[nn.Module, Owned] = {}
    for leaf in leaves:
        for module, attr in leaf.owners:
            found.setdefault(module, {})[attr] = leaf
    return found


def own_of(module: nn.Module, attr: str) -> nn.Parameter | None:
    """The parameter that a module has under an attribute (a dotted one: that a module inside it has)."""
    held, name = slot(module, attr)
    return held.get(name)


def put(module: nn.Module, attr: str, value: Tensor) -> None:
    """Put a tensor in a parameter's place."""
    held, name = slot(module, attr)
    held[name] = value  # type: ignore[assignment]


def moved_by(module: nn.Module, own: Owned) -> bool:
    """Whether a module has the leaves' own parameters: not those that somebody put there for a call (`functional_call`)."""
    return all(own_of(module, attr) is leaf.param for attr, leaf in own.items())


def check_own(places: dict[nn.Module, Owned], asked: str) -> None:
    """Raise where weights are not those that were found when the optimizer was made."""
    for module, own in places.items():
        if not moved_by(module, own):
            names = ", ".join(leaf.name for leaf in own.values())
            found = f"{names} of the model was replaced by another parameter since (load_state_dict(assign=True)?)"
            raise BadInput(asked, found, "copy values into the parameters that are there, or make the optimizer anew")


def check_there(places: dict[nn.Module, Owned], model: nn.Module, asked: str) -> None:
    """Raise where a module that owns weights is in the model no more: another one runs in its place, which no probe reaches. Cost: a walk over the modules."""
    there = set(model.modules())
    for module, own in places.items():
        if module not in there:
            names = ", ".join(leaf.name for leaf in own.values())
            found = f"the module that owns {names} is no longer part of the model (another was put in its place?)"
            raise BadInput(asked, found, "put it back, or make the optimizer anew")


def check_reached(stand: Stand) -> None:
    """Raise when a leaf was never asked for: its noise would be in theta's step and not in the losses."""
    if not stand.reached:
        found = "none of the weights was read: the loss was computed without the model"
        raise BadInput("probing by scratch", found, "call the model where the loss is computed, each time")
    do = "freeze these weights, or use the inplace policy"
    refuse_unread([leaf.name for leaf in stand.leaves if leaf.tid not in stand.reached], "probing by scratch", do)


def refuse_unread(
    missing: Sequence[str], asked: str, do: str = "train an adapter instead (`--preset fo-lora`)"
) -> None:
    """Raise where there are weights that no module reads, by their names."""
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadInput(asked, f"the forward pass never ran the module that owns {', '.join(missing[:3])}{more}", do)
