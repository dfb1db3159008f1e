"""The hooks by which a model stands where a `Stand` says: on for a block, or for good where weights are outside memory.

Linear layers (`affine`) get a `forward` of their own; other modules are hooked, or, where several points may be stood
at together, get a `forward` that runs them once for each. Everything is put back in a `finally`, on KeyboardInterrupt
too. A module whose weights are outside memory (`stored`) has none but in scratch, at theta too: its hooks stay
for as long as the model does (`for_life`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from zofo.core.probe import Point, affine
from zofo.core.probe.pool import Pool
from zofo.core.probe.stand import (
    CannotStack,
    Owned,
    Stand,
    check_own,
    check_there,
    moved_by,
    owned,
    put,
    refuse_gradients,
    uncompiled,
)
from zofo.core.weights.fetch import Fetcher
from zofo.core.weights.leaves import Leaf, Leaves, base_of
from zofo.core.weights.stored import StoredLeaf


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
    if not moved_by(module, own) or (stand.at_theta and held(module, own)):
        return None
    buffers = stand.live.setdefault(module, [])
    if by_rows(module, own) and len(args) == 1:
        rows, ids = torch.unique(args[0], return_inverse=True)
        module.padding_idx = None  # type: ignore[assignment]
        module._parameters["weight"] = stand.rows_of(own["weight"], rows, buffers)[0]  # type: ignore[assignment]
        return (ids,)
    for attr, leaf in own.items():
        put(module, attr, stand.perturbed(leaf, buffers)[0])
    return None


def leave(stand: Stand, own: Owned, module: nn.Module, args: Any = None, out: Any = None) -> None:
    """Post-hook, also run by the `finally`: put the originals back and free the scratch, but for what an output still holds."""
    if module not in stand.live:  # nothing was put in place
        return
    for attr, leaf in own.items():
        put(module, attr, leaf.param)
    if isinstance(module, nn.Embedding):
        module.padding_idx = stand.padding[module]  # type: ignore[assignment]
    kept = {tensor.untyped_storage()._cdata for tensor in tree_leaves(out) if isinstance(tensor, Tensor)}
    stand.pool.give([b for b in stand.live.pop(module) if b.untyped_storage()._cdata not in kept])


def together(stand: Stand, own: Owned, module: nn.Module, run: Any, around: bool, *args: Any, **options: Any) -> Any:
    """A module's forward at several points: once for each, on its share of the rows, with its parameters.

    around: others that own leaves stand in it, which would take a share for all rows. Raises: CannotStack.
    """
    refuse_gradients()
    if not moved_by(module, own) or (stand.at_theta and held(module, own)):
        return run(*args, **options)
    if around and len(stand.points) > 1:
        raise CannotStack(f"{type(module).__name__} has weights of its own beside those of modules in it")
    if by_rows(module, own) and len(args) == 1 and not options:
        return looked_up(stand, own["weight"], *args)
    buffers = stand.live.setdefault(module, [])
    placed = {attr: stand.perturbed(leaf, buffers) for attr, leaf in own.items()}
    shared = [split(stand, value) for value in args]
    named = {key: split(stand, value) for key, value in options.items()}
    outs = []
    for i in range(len(stand.points)):
        for attr, values in placed.items():
            put(module, attr, values[i])
        outs.append(run(*(part[i] for part in shared), **{key: part[i] for key, part in named.items()}))
    leave(stand, own, module, out=outs)
    return outs[0] if len(outs) == 1 else joined(outs)


def split(stand: Stand, value: Any) -> list[Any]:
    """An argument at each point: its share of a tensor's rows, anything else as it is. Raises: CannotStack."""
    return stand.shares(value) if isinstance(value, Tensor) else [value] * len(stand.points)


def looked_up(stand: Stand, leaf: Leaf, ids: Tensor) -> Tensor:
    """An embedding at several points; ids of one row (positions) serve every row of each point."""
    rows, places = torch.unique(ids, return_inverse=True)
    buffers: list[Tensor] = []
    tables = stand.rows_of(leaf, rows, buffers)
    if len(tables) > 1 and ids.dim() > 1 and ids.shape[0] == 1:
        parts = [table[places].expand(stand.rows, *ids.shape[1:], -1) for table in tables]
    else:
        parts = [table[part] for table, part in zip(tables, stand.shares(places), strict=True)]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
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
    """The model's own pre-hook: how many rows, and tokens, each point has; inside a prompt its virtual tokens too."""
    asked = [options[name] for name in ("inputs_embeds", "input_ids") if name in options]
    first = next((v for v in (*asked, *args, *options.values()) if isinstance(v, Tensor) and v.dim()), None)
    stand.rows = 0 if first is None else first.shape[0] // len(stand.points)
    stand.tokens = stand.rows * (first.shape[1] if first is not None and first.dim() > 1 else 1)


@dataclass
class Hooks:
    """What stands on a model's modules while a `Stand` does."""

    stand: Stand
    places: dict[nn.Module, Owned]
    handles: list[RemovableHandle] = field(default_factory=list)
    forwards: list[nn.Module] = field(default_factory=list)

    def install(self, several: bool = False) -> None:
        """Hook every owner of a leaf. `several`: for points that are stood at together. Raises: CannotStack; BadInput where weights, or modules that own them, were replaced."""
        check_there(self.places, self.stand.model, "probing")
        check_own(self.places, "probing")
        if several:
            before, model = functools.partial(counted, self.stand), self.stand.model
            for one in dict.fromkeys((model, base_of(model))):  # the base: by what peft made of the input
                self.handles.append(one.register_forward_pre_hook(before, with_kwargs=True))
        for module, own in self.places.items():
            self.hook(module, own, several)

    def hook(self, module: nn.Module, own: Owned, several: bool) -> None:
        """Hook one module. Raises: CannotStack where it has hooks of somebody else's."""
        stand = self.stand
        if affine.suits(module, own):
            self.forwards.append(module)
            module.forward = affine.Affine(stand, own, module)  # type: ignore[method-assign]
        elif several:
            if module._forward_pre_hooks or "forward" in vars(module):
                raise CannotStack(f"{type(module).__name__} has hooks of its own")
            self.forwards.append(module)
            around = any(inner in self.places for inner in module.modules() if inner is not module)
            module.forward = functools.partial(together, stand, own, module, module.forward, around)  # type: ignore[method-assign]
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

    def end(self) -> None:
        """Take everything off for good, and end what reads ahead."""
        self.remove()
        if self.stand.fetcher is not None:
            self.stand.fetcher.close()


def hooks(model: nn.Module, leaves: Leaves, pool: Pool, fetcher: Fetcher | None = None) -> Hooks:
    """Hooks that are not yet on the model."""
    places = owned(leaves)
    padding: dict[nn.Module, int | None] = {m: m.padding_idx for m in places if isinstance(m, nn.Embedding)}
    return Hooks(Stand(model, leaves, pool, fetcher, padding=padding), places)


@contextmanager
def standing(model: nn.Module, leaves: Leaves, pool: Pool, several: bool = False) -> Iterator[Stand]:
    """Hook every owner of a leaf for as long as the block runs, and put everything back after it.

    Buffers that a forward pass writes (running means) get their old values back too, before every point (`begin`) and after the
    last. `several`: for points that are stood at together. Raises: CannotStack where a module has hooks of somebody else's.
    """
    made, before = hooks(model, leaves, pool), buffers_of(model)
    made.stand.rewind = functools.partial(restore, before)
    try:
        made.install(several)
        with uncompiled():
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
    made.stand.rewind = functools.partial(restore, before)
    try:
        yield made.stand
    finally:
        made.stand.rewind, made.stand.points = None, (Point(),)
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
