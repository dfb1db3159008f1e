"""Standing at theta + a z without moving: perturbed parameters live in scratch memory while their module runs.

Just before a module that owns leaves runs, w + a z is written to scratch and stands in its place; after it
the originals are back. Where weights are outside memory (`stored`), a module has none but in scratch, at theta too, so
its hooks stay for as long as the model does (`for_life`). Linear layers (`affine`) get a `forward` of their own: in tiles, in the type that autocast
computes in, with low-rank noise beside the weight. Where several points are stood at together (`points`), the
rows of each input are theirs in equal shares, in order. Everything is put back in a `finally`, on KeyboardInterrupt too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zofo.core import noise
from zofo.core.probe import Point
from zofo.core.probe.pool import Pool
from zofo.core.weights.fetch import Fetcher
from zofo.core.weights.leaves import Leaf, Leaves
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

    rows: rows of the model's input that a point has, where several are stood at together; fetcher: reads stored leaves.
    """

    model: nn.Module
    leaves: Leaves
    pool: Pool
    fetcher: Fetcher | None = None
    points: tuple[Point, ...] = (Point(),)
    rows: int = 0
    reached: set[int] = field(default_factory=set)
    live: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    padding: dict[nn.Module, int | None] = field(default_factory=dict)

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
            return leaf.param
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

    def shares(self, x: Tensor) -> list[Tensor]:
        """The rows of an input that belong to each point. Raises: CannotStack."""
        if len(self.points) == 1:
            return [x]
        if x.dim() == 0 or x.shape[0] % len(self.points):
            raise CannotStack(f"{tuple(x.shape)} does not fall into {len(self.points)} shares")
        return list(x.chunk(len(self.points)))


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


def by_rows(module: nn.Module, own: Owned) -> bool:
    """Whether a module is a plain embedding, of which only the rows in use need noise."""
    plain = type(module) is nn.Embedding and module.max_norm is None and set(own) == {"weight"}
    return plain and own["weight"].contiguous


def held(module: nn.Module, own: Owned) -> bool:
    """Whether a module has its weights at theta without us, in memory (one with max_norm writes them, so it gets a copy)."""
    resident = not any(isinstance(leaf, StoredLeaf) for leaf in own.values())
    return resident and getattr(module, "max_norm", None) is None


def enter(stand: Stand, own: Owned, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pre-hook: put perturbed parameters in place (an embedding gets its rows, and ids that count them)."""
    refuse_gradients()
    if stand.at_theta and held(module, own):
        return None
    buffers = stand.live.setdefault(module, [])
    if by_rows(module, own) and len(args) == 1:
        rows, ids = torch.unique(args[0], return_inverse=True)
        module.padding_idx = None  # type: ignore[assignment]
        module._parameters["weight"] = stand.rows_of(own["weight"], rows, buffers)[0]  # type: ignore[assignment]
        return (ids,)
    for attr, leaf in own.items():
        module._parameters[attr] = stand.perturbed(leaf, buffers)[0]  # type: ignore[assignment]
    return None


def leave(stand: Stand, own: Owned, module: nn.Module, args: Any = None, out: Any = None) -> None:
    """Post-hook, also run by the `finally`: put the originals back and free the scratch."""
    for attr, leaf in own.items():
        module._parameters[attr] = leaf.param
    if isinstance(module, nn.Embedding):
        module.padding_idx = stand.padding[module]  # type: ignore[assignment]
    stand.pool.give(stand.live.pop(module, []))


def together(stand: Stand, own: Owned, module: nn.Module, run: Any, *args: Any, **options: Any) -> Any:
    """A module's forward at several points: once for each, on its share of the rows, with its parameters."""
    refuse_gradients()
    if stand.at_theta and held(module, own):
        return run(*args, **options)
    if len(stand.points) > 1 and any(isinstance(value, Tensor) for value in options.values()):
        raise CannotStack(f"{type(module).__name__} takes tensors by keyword")
    if by_rows(module, own):
        return looked_up(stand, own["weight"], *args)
    buffers = stand.live.setdefault(module, [])
    placed = {attr: stand.perturbed(leaf, buffers) for attr, leaf in own.items()}
    parts = [stand.shares(a) if isinstance(a, Tensor) else [a] * len(stand.points) for a in args]
    outs = []
    for i in range(len(stand.points)):
        for attr, values in placed.items():
            module._parameters[attr] = values[i]  # type: ignore[assignment]
        outs.append(run(*(part[i] for part in parts), **options))
    leave(stand, own, module)
    return outs[0] if len(outs) == 1 else joined(outs)


def looked_up(stand: Stand, leaf: Leaf, ids: Tensor) -> Tensor:
    """An embedding at several points; ids of one row (positions) serve every row of each point."""
    rows, places = torch.unique(ids, return_inverse=True)
    buffers: list[Tensor] = []
    tables = stand.rows_of(leaf, rows, buffers)
    if ids.dim() > 1 and ids.shape[0] == 1:
        parts = [table[places].expand(stand.rows, *ids.shape[1:], -1) for table in tables]
    else:
        parts = [table[part] for table, part in zip(tables, stand.shares(places), strict=True)]
    out = torch.cat(parts)
    stand.pool.give(buffers)
    return out


def joined(outs: Sequence[Any]) -> Any:
    """The outputs of all points as one: tensors by rows, tuples place by place."""
    if isinstance(outs[0], Tensor):
        return torch.cat(list(outs))
    if isinstance(outs[0], tuple):
        return tuple(joined(parts) for parts in zip(*outs, strict=True))
    raise CannotStack(f"a module returned {type(outs[0]).__name__}")


def counted(stand: Stand, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """The model's own pre-hook: how many rows each point has."""
    first = next((v for v in (*args, *options.values()) if isinstance(v, Tensor) and v.dim()), None)
    stand.rows = 0 if first is None else first.shape[0] // len(stand.points)


@dataclass
class Hooks:
    """What stands on a model's modules while a `Stand` does."""

    stand: Stand
    places: dict[nn.Module, Owned]
    handles: list[RemovableHandle] = field(default_factory=list)
    forwards: list[nn.Module] = field(default_factory=list)

    def install(self, several: bool = False) -> None:
        """Hook every owner of a leaf. `several`: for points that are stood at together. Raises: CannotStack."""
        if several:
            before = functools.partial(counted, self.stand)
            self.handles.append(self.stand.model.register_forward_pre_hook(before, with_kwargs=True))
        for module, own in self.places.items():
            self.hook(module, own, several)

    def hook(self, module: nn.Module, own: Owned, several: bool) -> None:
        """Hook one module. Raises: CannotStack where it has hooks of somebody else's."""
        from zofo.core.probe import affine

        stand = self.stand
        if affine.suits(module, own):
            self.forwards.append(module)
            module.forward = affine.Affine(stand, own, module)  # type: ignore[method-assign]
        elif several:
            if module._forward_pre_hooks or "forward" in vars(module):
                raise CannotStack(f"{type(module).__name__} has hooks of its own")
            self.forwards.append(module)
            module.forward = functools.partial(together, stand, own, module, module.forward)  # type: ignore[method-assign]
        else:
            first = not isinstance(module, nn.Embedding)
            # others' hooks see perturbed weights, but an embedding's own ids
            before, after = functools.partial(enter, stand, own), functools.partial(leave, stand, own)
            self.handles.append(module.register_forward_pre_hook(before, prepend=first))
            self.handles.append(module.register_forward_hook(after))

    def put_back(self) -> None:
        """Every module's own parameters."""
        for module, own in self.places.items():
            leave(self.stand, own, module)

    def remove(self) -> None:
        """Take everything off the model."""
        for handle in self.handles:
            handle.remove()
        for module in self.forwards:
            module.__dict__.pop("forward", None)
        self.put_back()


def hooks(model: nn.Module, leaves: Leaves, pool: Pool, fetcher: Fetcher | None = None) -> Hooks:
    """Hooks that are not yet on the model."""
    places = owned(leaves)
    padding: dict[nn.Module, int | None] = {m: m.padding_idx for m in places if isinstance(m, nn.Embedding)}
    return Hooks(Stand(model, leaves, pool, fetcher, padding=padding), places)


@contextmanager
def standing(model: nn.Module, leaves: Leaves, pool: Pool, several: bool = False) -> Iterator[Stand]:
    """Hook every owner of a leaf for as long as the block runs, and put everything back after it.

    Buffers that a forward pass writes (running means) get their old values back too. `several`: for points that are
    stood at together. Raises: CannotStack where a module has hooks of somebody else's.
    """
    made, before = hooks(model, leaves, pool), buffers_of(model)
    try:
        made.install(several)
        yield made.stand
    finally:
        made.remove()
        restore(before)


def for_life(model: nn.Module, leaves: Leaves, fetcher: Fetcher) -> Hooks:
    """Hook a model with weights outside memory for good: it stands at theta, and elsewhere in a `borrowed` block."""
    made = hooks(model, leaves, Pool(), fetcher)
    made.install(several=True)
    return made


@contextmanager
def borrowed(made: Hooks) -> Iterator[Stand]:
    """Probe with hooks that stay: as `standing`, but afterwards the model stands at theta."""
    before = buffers_of(made.stand.model)
    try:
        yield made.stand
    finally:
        made.stand.points = (Point(),)
        made.put_back()
        restore(before)


Held = list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]]  # module, its buffers, their copies


def buffers_of(model: nn.Module) -> Held:
    """Return the buffers of every module that has some, and a copy of each. Cost: the buffers' memory."""
    found: Held = []
    for module in model.modules():
        if module._buffers:
            copies = {name: buffer.clone() for name, buffer in module._buffers.items() if buffer is not None}
            found.append((module, dict(module._buffers), copies))
    return found


def restore(before: Held) -> None:
    """Put back buffers and their values, however they were written (`.data` and inference mode leave no trace)."""
    for module, held, copies in before:
        module._buffers.update(held)
        for name, copy in copies.items():
            module._buffers[name].data.copy_(copy)  # type: ignore[union-attr]


def check_reached(stand: Stand) -> None:
    """Raise when a leaf was never asked for: its noise would be in theta's step and not in the losses."""
    missing = [leaf.name for leaf in stand.leaves if leaf.tid not in stand.reached]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadInput(
            "probing by scratch",
            f"the forward pass never ran the module that owns {', '.join(missing[:3])}{more}",
            "freeze these weights, or use the inplace policy",
        )
