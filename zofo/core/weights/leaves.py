"""Leaves: the tensors that zeroth order perturbs, under canonical names, ties counted once.

A tensor's noise depends on its name in the unwrapped base model, so peft's, data-parallel's and
torch.compile's wrappers are taken off a name, and adapters do not change it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zofo.core.noise import Direction, Law, direction, tensor_id
from zofo.errors import BadInput

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
INNER = re.compile(r"\.(base_layer|_orig_mod)(?=\.)")


@dataclass(frozen=True)
class Leaf:
    """One tensor: canonical name, 64-bit id, and every (module, attribute) that holds it.

    Where a module around the one that holds it reads it too (`read_around`), that one is an owner as well, by a dotted attribute.
    """

    name: str
    tid: int
    param: nn.Parameter
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def data(self) -> Tensor:
        """The tensor itself, outside autograd."""
        return self.param.data

    @property
    def shape(self) -> torch.Size:
        """Its shape."""
        return self.param.shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of its elements."""
        return self.param.dtype

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return self.param.numel()

    @property
    def contiguous(self) -> bool:
        """Whether its elements stand one after the other, so that parts of it are views."""
        return self.data.is_contiguous()


@dataclass(frozen=True)
class Leaves:
    """All leaves of a model, in the order of its `named_parameters`."""

    items: tuple[Leaf, ...]

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def count(self) -> int:
        """d, the number of elements in all leaves."""
        return sum(leaf.param.numel() for leaf in self.items)

    def direction(self, law: Law, key: int) -> Direction:
        """The z of a key over these leaves (for Sphere: one pass over the noise)."""
        return direction(law, key, ((leaf.tid, leaf.param.numel()) for leaf in self.items))


def canonical(name: str, wrapped: bool = False) -> str:
    """Return a parameter's name in the unwrapped base model (`wrapped`: the name was read through a peft model)."""
    name = WRAPPERS.sub("", name)
    if wrapped:
        name = re.sub(r"^base_model\.(model\.(?=.*\.)|)", "", name)
    return INNER.sub("", name)


def base_of(model: nn.Module) -> nn.Module:
    """Return the base model inside a peft model, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) and hasattr(model, "peft_config") else model


def slot(module: nn.Module, attr: str) -> tuple[dict[str, nn.Parameter | None], str]:
    """Where a module keeps a parameter: the parameters of the module that holds it (itself, or by a dotted attribute one inside it), and its name there."""
    path, _, name = attr.rpartition(".")
    return (module.get_submodule(path) if path else module)._parameters, name


def read_around(module: nn.Module) -> bool:
    """Whether a module's weights are read by the modules around it: a convolution over time (state space models compute with
    its weight by themselves), or one that is never run, having no `forward`."""
    return type(module) is nn.Conv1d or not runs(module)


def runs(module: nn.Module) -> bool:
    """Whether a module has a `forward` of its own."""
    return type(module).forward is not nn.Module.forward


def reader(modules: Mapping[str, nn.Module], path: str) -> tuple[nn.Module, str] | None:
    """The innermost module that runs around the one at a path, and the path from there; None where there is none."""
    parts = path.split(".")
    for k in range(len(parts) - 1, -1, -1):
        if runs(around := modules[".".join(parts[:k])]):
            return around, ".".join(parts[k:])
    return None


def warn_half_vectors(leaves: Leaves) -> None:
    """Warn of norms and biases in a half type: near 1 they lose a probe of 1e-3, and a step, altogether."""
    half = [
        leaf.name for leaf in leaves if leaf.param.dim() < 2 and leaf.param.dtype in (torch.float16, torch.bfloat16)
    ]
    if half:
        warnings.warn(
            f"{half[0]} and {len(half) - 1} other vectors are in a half type, which loses small steps near 1: "
            "load the model with dtype=torch.float32, or put its vectors in fp32",
            stacklevel=4,
        )


def find(model: nn.Module, keep: Callable[[nn.Parameter], bool] | None = None) -> Leaves:
    """Collect the floating-point parameters of a model (those that `keep` accepts) as leaves.

    A tied parameter is one leaf, named by its first name, with all its owners. One that a module around its own reads has that
    one as an owner too: whichever of them runs first gives it its place. The names are those
    of the base model inside a peft wrapper. Raises `BadInput` when nothing is left or two names
    collide in 64 bits. Cost: no copy of any weight.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    named: dict[int, tuple[str, nn.Parameter]] = {}
    modules = dict(base_of(model).named_modules(remove_duplicate=True))
    for path, module in modules.items():
        around = reader(modules, path) if path and module._parameters and read_around(module) else None
        for attr, param in module._parameters.items():
            if param is None or not param.is_floating_point() or (keep is not None and not keep(param)):
                continue
            owners.setdefault(id(param), []).append((module, attr))
            if around is not None:
                owners[id(param)].append((around[0], f"{around[1]}.{attr}"))
            named.setdefault(id(param), (canonical(f"{path}.{attr}" if path else attr), param))
    return collect((name, param, tuple(owners[id(param)])) for name, param in named.values())


def collect(named: Iterable[tuple[str, nn.Parameter, tuple[tuple[nn.Module, str], ...]]]) -> Leaves:
    """Give each (name, parameter, owners) its id; refuse an empty list, a collision, or a tensor without weights."""
    items = tuple(Leaf(name, tensor_id(name), param, owners) for name, param, owners in named)
    if not items:
        raise BadInput("zeroth-order weights", "no floating-point parameter was found", "pass a model that has some")
    seen: dict[int, str] = {}
    for leaf in items:
        if leaf.tid in seen:
            raise BadInput(leaf.name, f"its noise id equals that of {seen[leaf.tid]}", "rename one of the two modules")
        if leaf.param.device.type == "meta":
            raise BadInput(leaf.name, "the tensor has no weights (meta device)", "load the weights first")
        seen[leaf.tid] = leaf.name
    return Leaves(items)


def refuse_frozen(params: Iterable[nn.Parameter], asked: str) -> None:
    """Raise BadInput where there are floating-point parameters, and none of them requires a gradient."""
    floating = [param for param in params if param.is_floating_point()]
    if floating and not any(param.requires_grad for param in floating):
        do = "call model.requires_grad_(True), or thaw what is to move (peft freezes a base, and taking it off thaws nothing)"
        raise BadInput(asked, "every weight is frozen (requires_grad is False), so theta is empty", do)


def positional(params: Iterable[nn.Parameter]) -> Leaves:
    """Make leaves of bare parameters, named by position: no module, so no hooks, so only the `inplace` policy."""
    return collect((f"parameter.{i}", p, ()) for i, p in enumerate(params))


@torch.no_grad()
def snapshot(leaves: Leaves) -> dict[str, Tensor]:
    """Return a copy of every leaf by name. Cost: one copy of the weights; tests and small models only."""
    return {leaf.name: leaf.data.clone() for leaf in leaves}
