"""Standing at theta + a z without moving: perturbed parameters live in scratch memory while their module runs.

Just before a module that owns leaves runs, w + a z is written to scratch and stands in its place; after it
the originals are back. Linear layers (`affine`) get a `forward` of their own: in tiles, in the type that autocast
computes in, with low-rank noise beside the weight. Where several points are stood at together (`points`), the
rows of each input are theirs in equal shares, in order. Everything is put back in a `finally`, on KeyboardInterrupt too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.probe import Point
from zofo.core.probe.pool import Pool
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.errors import BadInput

Owned = dict[str, Leaf]  # a module's own leaves by attribute
NO_GRADIENTS = "zofo probes with gradients off: scratch memory is reused, so gradients would be wrong"


class CannotStack(Exception):
    """A module's inputs do not fall into equal shares of rows, so points are evaluated one by one."""


@dataclass
class Stand:
    """One probing context: the points stood at, what is swapped, and which leaves were reached.

    rows: rows of the model's input that a point has, where several are stood at together.
    """

    model: nn.Module
    leaves: Leaves
    pool: Pool
    points: tuple[Point, ...] = (Point(),)
    rows: int = 0
    reached: set[int] = field(default_factory=set)
    live: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    @property
    def at_theta(self) -> bool:
        """Whether every point is theta itself."""
        return all(point.z is None for point in self.points)

    def perturbed(self, leaf: Leaf, buffers: list[Tensor]) -> list[Tensor]:
        """w + a z of a whole leaf in scratch, at each point (at theta itself, a copy)."""
        whole = leaf.data.contiguous()
        return self.spread(leaf, whole, whole.shape, buffers)

    def rows_of(self, leaf: Leaf, rows: Tensor, buffers: list[Tensor]) -> list[Tensor]:
        """Some rows of w + a z in scratch, at each point."""
        return self.spread(leaf, leaf.data, (rows.numel(), leaf.data.shape[1]), buffers, rows=rows)

    def tile(self, leaf: Leaf, at: int, height: int, dtype: torch.dtype, buffers: list[Tensor]) -> list[Tensor]:
        """Rows at..at + height of w + a z in scratch, at each point, rounded to a type."""
        part = leaf.data[at : at + height]
        return self.spread(leaf, part, part.shape, buffers, start=at * part[0].numel(), dtype=dtype)

    def spread(
        self, leaf: Leaf, w: Tensor, shape: Sequence[int], buffers: list[Tensor], *, start: int = 0,
        dtype: torch.dtype | None = None, rows: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """A piece of a leaf at each point; theta + a z and theta - a z are written in one pass over it."""
        outs: list[Tensor] = []
        for _ in self.points:
            buffer, out = self.pool.take(w, shape, dtype)
            buffers.append(buffer)
            outs.append(out)
        done: set[int] = set()
        for i, point in enumerate(self.points):
            if i in done:
                continue
            if point.z is None:
                outs[i].copy_(w if rows is None else w[rows])
                continue
            self.reached.add(leaf.tid)
            j = next((j for j in range(i + 1, len(outs)) if self.points[j] == Point(point.z, -point.a)), None)
            minus = None if j is None else outs[j]
            done |= set() if j is None else {j}
            if rows is None:
                noise.perturb(
                    outs[i], w, point.z, point.a, leaf.tid, start, width=noise.columns(leaf.data), minus=minus
                )
            else:
                noise.perturb_rows(outs[i], w, rows, point.z, point.a, leaf.tid, minus)
        return outs

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
    return plain and own["weight"].data.is_contiguous()


def enter(stand: Stand, own: Owned, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pre-hook: put perturbed parameters in place (an embedding gets its rows, and ids that count them)."""
    refuse_gradients()
    if stand.at_theta and getattr(module, "max_norm", None) is None:
        return None  # theta itself; an embedding with max_norm writes its weight, so it gets a copy
    buffers = stand.live.setdefault(module, [])
    if by_rows(module, own) and len(args) == 1:
        rows, ids = torch.unique(args[0], return_inverse=True)
        module.padding_idx = None  # type: ignore[assignment]
        module._parameters["weight"] = stand.rows_of(own["weight"], rows, buffers)[0]  # type: ignore[assignment]
        return (ids,)
    for attr, leaf in own.items():
        module._parameters[attr] = stand.perturbed(leaf, buffers)[0]  # type: ignore[assignment]
    return None


def leave(stand: Stand, own: Owned, padding: int | None, module: nn.Module, args: Any = None, out: Any = None) -> None:
    """Post-hook, also run by the `finally`: put the originals back and free the scratch."""
    for attr, leaf in own.items():
        module._parameters[attr] = leaf.param
    if isinstance(module, nn.Embedding):
        module.padding_idx = padding
    stand.pool.give(stand.live.pop(module, []))


def together(
    stand: Stand, own: Owned, padding: int | None, module: nn.Module, run: Any, *args: Any, **options: Any
) -> Any:
    """A module's forward at several points: once for each, on its share of the rows, with its parameters."""
    refuse_gradients()
    if stand.at_theta:
        return run(*args, **options)
    if any(isinstance(value, Tensor) for value in options.values()):
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
    leave(stand, own, padding, module)
    return joined(outs)


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


@contextmanager
def standing(model: nn.Module, leaves: Leaves, pool: Pool, several: bool = False) -> Iterator[Stand]:
    """Hook every owner of a leaf for as long as the block runs, and put everything back after it.

    Buffers that a forward pass writes (running means) get their old values back too. `several`: for points that are
    stood at together. Raises: CannotStack where a module has hooks of somebody else's.
    """
    from zofo.core.probe import affine

    stand, places = Stand(model, leaves, pool), owned(leaves)
    before = buffers_of(model)
    padding: dict[nn.Module, int | None] = {m: m.padding_idx for m in places if isinstance(m, nn.Embedding)}
    handles, forwards = [], dict[nn.Module, Any]()
    try:
        if several:
            handles.append(model.register_forward_pre_hook(functools.partial(counted, stand), with_kwargs=True))
        for module, own in places.items():
            if affine.suits(module, own):
                forwards[module] = None
                module.forward = affine.Affine(stand, own, module)  # type: ignore[method-assign]
            elif several:
                if module._forward_pre_hooks or "forward" in vars(module):
                    raise CannotStack(f"{type(module).__name__} has hooks of its own")
                forwards[module] = None
                module.forward = functools.partial(together, stand, own, padding.get(module), module, module.forward)  # type: ignore[method-assign]
            else:
                first = not isinstance(
                    module, nn.Embedding
                )  # others' hooks see perturbed weights, but an embedding's own ids
                handles.append(module.register_forward_pre_hook(functools.partial(enter, stand, own), prepend=first))
                handles.append(module.register_forward_hook(functools.partial(leave, stand, own, padding.get(module))))
        yield stand
    finally:
        for handle in handles:
            handle.remove()
        for module in forwards:
            module.__dict__.pop("forward", None)
        for module, own in places.items():
            leave(stand, own, padding.get(module), module)
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
