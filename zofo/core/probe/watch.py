"""Watching a pass for weights that are read outside the module that owns them.

Where weights stand in for one another while their module runs (probing), or leave their gradient there (the sketch), a head
that takes the embedding's weight by hand, or a layer that takes the norm of another's, would be half of it: the loss
would not be that of theta + a z, or the gradient not theirs, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from zofo.core.probe.stand import Stand, own_of
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput

OURS = ("data", "grad")  # attributes that hold a tensor and are not the model's to compute with


class Watch(TorchFunctionMode):
    """Refuse every operation on a leaf's own parameter that gives tensors, but while `allowed`."""

    def __init__(self, leaves: Leaves, allowed: Callable[[], bool], asked: str, do: str) -> None:
        super().__init__()
        self.allowed, self.asked, self.do = allowed, asked, do
        places = [(leaf, own_of(module, attr)) for leaf in leaves for module, attr in leaf.owners]
        self.names = {id(param): leaf.name for leaf, param in places}  # a shadow of it, where one stands there

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run it, and look at what it was given. Raises: BadInput."""
        out = func(*args, **(kwargs or {}))
        name = self.given(args) or (self.given(kwargs.values()) if kwargs else None)
        if name and not self.allowed() and computes(func, out):
            found = (
                f"the forward pass reads {name} outside the module that owns it ({named(func)}), where it is not seen"
            )
            raise BadInput(self.asked, found, self.do)
        return out

    def given(self, values: Iterable[Any]) -> str | None:
        """The name of a leaf among an operation's arguments, or in lists of them. Every operation of a pass comes here: be quick."""
        for x in values:
            if id(x) in self.names:
                return self.names[id(x)]
            if isinstance(x, (list, tuple)) and (name := self.given(x)):
                return name
        return None


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values, and in lists and tuples of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def computes(func: Callable[..., Any], out: Any) -> bool:
    """Whether an operation with that result reads numbers, and does not describe a tensor only."""
    return named(func) not in OURS and next(tensors((out,)), None) is not None


def named(func: Callable[..., Any]) -> str:
    """An operation's name; of an attribute that is read, the attribute's."""
    name = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def watching(stand: Stand, wanted: bool) -> AbstractContextManager[Any]:
    """A block of probing that is watched, where that is wanted: not at theta. Cost: some microseconds an operation."""
    if not wanted:
        return nullcontext()
    do = "freeze this weight, or use the inplace policy"
    return Watch(stand.leaves, lambda: stand.at_theta, "probing by scratch", do)
