"""Which modules compute with weights that other modules hold: seen in one pass, so that these weights are stood on there too.

`leaves.find` foresees some by the module's kind (`read_around`). Any other (a state space model that multiplies by the weight
of its linear layer, a layer that scales by a vector of a module which is not run) is found by looking. What is read by no
module at all is refused, before anything is trained: its noise would be in theta's step and not in the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from zofo.core.probe.stand import refuse_unread
from zofo.core.probe.watch import computes, tensors
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaf, Leaves

TOKENS = 8
"""Tokens of the pass that is looked at."""


class Seen(TorchFunctionMode):
    """Keeps which modules ran, and of each leaf the modules around its own that read it while its own did not run."""

    def __init__(self, leaves: Leaves) -> None:
        super().__init__()
        self.leaves = {id(leaf.param): leaf for leaf in leaves}
        self.running, self.ran = list[nn.Module](), set[nn.Module]()
        self.around: dict[str, list[nn.Module]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run it, and look at what it was given."""
        out = func(*args, **(kwargs or {}))
        if computes(func, out):
            for tensor in tensors((*args, *(kwargs or {}).values())):
                if id(tensor) in self.leaves:
                    self.note(self.leaves[id(tensor)])
        return out

    def note(self, leaf: Leaf) -> None:
        """Note who reads a leaf, where none of its owners runs: the innermost module around one of them."""
        owners = [module for module, _ in leaf.owners]
        if any(module in owners for module in self.running):
            return
        inside = owners[0]
        reader = next((m for m in reversed(self.running) if any(part is inside for part in m.modules())), None)
        if reader is not None and reader not in self.around.setdefault(leaf.name, []):
            self.around[leaf.name].append(reader)

    def enter(self, module: nn.Module, args: Any) -> None:
        """A module begins to run."""
        self.running.append(module)
        self.ran.add(module)

    def leave(self, module: nn.Module, args: Any, out: Any) -> None:
        """A module has run."""
        self.running.pop()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A block in which it is known which modules run."""
        before, after = register_module_forward_pre_hook(self.enter), register_module_forward_hook(self.leave)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()


@torch.no_grad()
def looked(model: nn.Module, leaves: Leaves) -> Seen:
    """What a causal language model's pass over a few tokens reads, and where. Cost: that pass."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    table = embedding.weight
    ids = (torch.arange(TOKENS) * 7919 % table.shape[0]).to(table.device)  # far apart
    half, seen = table.dtype in (torch.bfloat16, torch.float16), Seen(leaves)  # beside fp32 vectors: computed in it
    with seen.looking(), torch.autocast(table.device.type, table.dtype if half else None, enabled=half):
        model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False)
    return seen


def bypassed(model: nn.Module) -> set[nn.Module]:
    """The modules that do not run themselves, their weights being read by one around them: what is put on one of them does nothing.

    Nothing is known of a model without weights (meta device). Cost: as `looked`.
    """
    if any(param.is_meta for param in model.parameters()):
        return set()
    leaves = tree.find(model)
    seen = looked(model, leaves)
    return {leaf.owners[0][0] for leaf in leaves if leaf.name in seen.around} - seen.ran


def surveyed(model: nn.Module, leaves: Leaves) -> Leaves:
    """The leaves with every module that reads them as an owner.

    Raises: BadInput where it reads some of them nowhere. Cost: as `looked`.
    """
    seen = looked(model, leaves)
    found = [replace(leaf, owners=leaf.owners + seen_by(leaf, seen)) for leaf in leaves]
    missing = [leaf.name for leaf in found if not any(module in seen.ran for module, _ in leaf.owners)]
    refuse_unread(missing, "moving all weights")
    return Leaves(tuple(found))


def seen_by(leaf: Leaf, seen: Seen) -> tuple[tuple[nn.Module, str], ...]:
    """The modules that were seen to read a leaf of a module inside them, and where it is in them."""
    module, attr = leaf.owners[0]
    return tuple((m, f"{path_in(m, module)}.{attr}") for m in seen.around.get(leaf.name, ()))


def path_in(around: nn.Module, module: nn.Module) -> str:
    """A module's path in one around it."""
    paths: dict[nn.Module, str] = {part: path for path, part in around.named_modules()}
    return paths[module]
