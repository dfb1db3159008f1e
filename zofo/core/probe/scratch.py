"""The exact policy: perturbed parameters live in scratch memory while their module runs.

Just before a module that owns leaves runs, w + a z is written to scratch and stands in its place;
after it the originals are back. Nothing is added to a weight and taken away again, so nothing
drifts. An embedding perturbs only the rows that its input names; a large linear layer is done in
tiles of rows. Everything is put back in a `finally`, on KeyboardInterrupt too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core import noise
from zofo.core.probe import Objective, Point, as_row
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.errors import BadInput

TILE = 1 << 20  # elements of a linear layer's weight perturbed at a time (4 MiB in fp32)


@dataclass
class Pool:
    """Scratch memory, kept between probes: flat buffers, taken and given back like a stack."""

    free: list[Tensor] = field(default_factory=list)

    def take(self, like: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return (buffer, its first elements seen as `shape`), of the type and device of `like`.

        The smallest buffer that is large enough serves; where none is, the largest gives way to a new one,
        so that a small tensor does not hold a large buffer while a second one is made.
        """
        n = torch.Size(shape).numel()
        same = [i for i, b in enumerate(self.free) if b.dtype == like.dtype and b.device == like.device]
        same.sort(key=lambda i: self.free[i].numel())
        at = next((i for i in same if self.free[i].numel() >= n), None)
        if at is not None:
            buffer = self.free.pop(at)
            return buffer, buffer[:n].view(shape)
        if same:
            del self.free[same[-1]]
        buffer = torch.empty(n, dtype=like.dtype, device=like.device)
        return buffer, buffer.view(shape)

    def give(self, buffers: Sequence[Tensor]) -> None:
        """Take buffers back."""
        self.free.extend(buffers)


@dataclass
class Stand:
    """One probing context: which point is being evaluated, what is swapped, and which leaves were reached."""

    model: nn.Module
    leaves: Leaves
    pool: Pool
    point: Point = field(default_factory=Point)
    reached: set[int] = field(default_factory=set)
    live: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    def perturbed(self, leaf: Leaf, buffers: list[Tensor]) -> Tensor:
        """Return w + a z of a whole leaf in scratch (at theta itself, a copy)."""
        whole = leaf.data.contiguous()
        buffer, out = self.pool.take(whole, whole.shape)
        buffers.append(buffer)
        if self.point.z is None:
            return out.copy_(whole)
        self.reached.add(leaf.tid)
        return noise.perturb(out, whole, self.point.z, self.point.a, leaf.tid)

    def rows(self, leaf: Leaf, rows: Tensor, buffers: list[Tensor]) -> Tensor:
        """Return some rows of w + a z in scratch."""
        assert self.point.z is not None
        buffer, out = self.pool.take(leaf.data, (rows.numel(), leaf.data.shape[1]))
        buffers.append(buffer)
        self.reached.add(leaf.tid)
        return noise.perturb_rows(out, leaf.data, rows, self.point.z, self.point.a, leaf.tid)


Owned = dict[str, Leaf]  # a module's own leaves by attribute


def owned(leaves: Leaves) -> dict[nn.Module, Owned]:
    """Return every module that owns leaves, with its attributes."""
    found: dict[nn.Module, Owned] = {}
    for leaf in leaves:
        for module, attr in leaf.owners:
            found.setdefault(module, {})[attr] = leaf
    return found


def by_rows(module: nn.Module, leaf: Leaf) -> bool:
    """Whether a module is a plain embedding, of which only the rows in use need noise."""
    return type(module) is nn.Embedding and module.max_norm is None and leaf.data.is_contiguous()


def enter(stand: Stand, own: Owned, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pre-hook: put perturbed parameters in place (an embedding gets its rows, and ids that count them)."""
    if torch.is_grad_enabled():
        raise RuntimeError("zofo probes with gradients off: scratch memory is reused, so gradients would be wrong")
    if stand.point.z is None and getattr(module, "max_norm", None) is None:
        return None  # theta itself; an embedding with max_norm writes its weight, so it gets a copy
    buffers = stand.live.setdefault(module, [])
    if "weight" in own and by_rows(module, own["weight"]) and len(args) == 1 and len(own) == 1:
        rows, ids = torch.unique(args[0], return_inverse=True)
        module.padding_idx = None  # type: ignore[assignment]
        module._parameters["weight"] = stand.rows(own["weight"], rows, buffers)  # type: ignore[assignment]
        return (ids,)
    for attr, leaf in own.items():
        module._parameters[attr] = stand.perturbed(leaf, buffers)  # type: ignore[assignment]
    return None


def leave(stand: Stand, own: Owned, padding: int | None, module: nn.Module, args: Any = None, out: Any = None) -> None:
    """Post-hook, also run by the `finally`: put the originals back and free the scratch."""
    for attr, leaf in own.items():
        module._parameters[attr] = leaf.param
    if isinstance(module, nn.Embedding):
        module.padding_idx = padding
    stand.pool.give(stand.live.pop(module, []))


def tiled(stand: Stand, own: Owned, module: nn.Module, x: Tensor) -> Tensor:
    """y = x (W + a z)^T + (b + a z), a tile of output rows at a time. Cost: one tile of scratch."""
    if torch.is_grad_enabled():
        raise RuntimeError("zofo probes with gradients off: scratch memory is reused, so gradients would be wrong")
    z, a = stand.point.z, stand.point.a
    if z is None:
        return F.linear(x, cast(nn.Linear, module).weight, cast(nn.Linear, module).bias)
    leaf, buffers = own["weight"], list[Tensor]()
    bias = stand.perturbed(own["bias"], buffers) if "bias" in own else cast(nn.Linear, module).bias
    width, height = leaf.data.shape[1], max(1, TILE // leaf.data.shape[1])
    stand.reached.add(leaf.tid)
    parts = []
    for at in range(0, leaf.data.shape[0], height):
        w = leaf.data[at : at + height]
        buffer, out = stand.pool.take(w, w.shape)
        noise.perturb(out, w, z, a, leaf.tid, at * width)
        parts.append(F.linear(x, out, bias[at : at + height] if bias is not None else None))
        stand.pool.give([buffer])
    stand.pool.give(buffers)
    return torch.cat(parts, dim=-1)


def in_tiles(module: nn.Module, own: Owned) -> bool:
    """Whether a module is a linear layer too large for one piece of scratch."""
    big = "weight" in own and own["weight"].data.numel() > TILE and own["weight"].data.is_contiguous()
    return type(module) is nn.Linear and big and "forward" not in module.__dict__


@contextmanager
def standing(model: nn.Module, leaves: Leaves, pool: Pool) -> Iterator[Stand]:
    """Hook every owner of a leaf for as long as the block runs, and put everything back after it.

    Buffers that a forward pass writes (running means) get their old values back too.
    """
    stand, places = Stand(model, leaves, pool), owned(leaves)
    before = buffers_of(model)
    padding: dict[nn.Module, int | None] = {m: m.padding_idx for m in places if isinstance(m, nn.Embedding)}
    handles = []
    try:
        for module, own in places.items():
            if in_tiles(module, own):
                module.forward = functools.partial(tiled, stand, own, module)  # type: ignore[method-assign]
                continue
            first = not isinstance(
                module, nn.Embedding
            )  # others' hooks see perturbed weights, but an embedding's own ids
            handles.append(module.register_forward_pre_hook(functools.partial(enter, stand, own), prepend=first))
            handles.append(module.register_forward_hook(functools.partial(leave, stand, own, padding.get(module))))
        yield stand
    finally:
        for handle in handles:
            handle.remove()
        for module, own in places.items():
            module.__dict__.pop("forward", None) if in_place(module, stand) else None
            leave(stand, own, padding.get(module), module)
        restore(before)


def in_place(module: nn.Module, stand: Stand) -> bool:
    """Whether a module's `forward` is this context's tiled one."""
    forward = module.__dict__.get("forward")
    return isinstance(forward, functools.partial) and forward.func is tiled and forward.args[0] is stand


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


class Scratch:
    """The exact policy as a `Probe`. Memory: the largest module's weights, or one tile; kept between calls."""

    def __init__(self, model: nn.Module, leaves: Leaves) -> None:
        self.model, self.leaves = model, leaves
        self.pool = Pool()
        self.checked = False

    @torch.no_grad()
    def __call__(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Return the terms at every point, (points, terms) in fp64. Cost: one call of the objective a point."""
        values = []
        with standing(self.model, self.leaves, self.pool) as stand:
            for point in points:
                stand.point = point
                values.append(as_row(objective()))
                if point.z is not None and not self.checked:
                    check_reached(stand)
                    self.checked = True
        return torch.stack(values)
