"""Watching one probe for weights that are read outside the module that owns them: there they still stand at theta.

A head that takes the embedding's weight by hand, or a layer that takes the norm of another's, would be probed half:
the loss would not be that of theta + a z, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from zofo.core.probe.stand import Stand
from zofo.errors import BadInput

OURS = ("data", "grad")  # attributes that hold a tensor and are not the model's to compute with


class Watch(TorchFunctionMode):
    """Refuse every operation on a leaf's own parameter that gives a tensor, while the stand is not at theta."""

    def __init__(self, stand: Stand) -> None:
        super().__init__()
        self.stand = stand
        self.names = {id(leaf.param): leaf.name for leaf in stand.leaves}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run it, and look at what it was given. Raises: BadInput."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not self.stand.at_theta and named(func) not in OURS:
            self.refuse(named(func), (*args, *(kwargs or {}).values()))
        return out

    def refuse(self, what: str, given: Iterable[Any]) -> None:
        """Raise where one of the arguments is a leaf."""
        name = next((self.names[id(x)] for x in given if isinstance(x, Tensor) and id(x) in self.names), None)
        if name is not None:
            found = f"the forward pass reads {name} outside the module that owns it ({what}), where it is not moved"
            raise BadInput("probing by scratch", found, "freeze this weight, or use the inplace policy")


def named(func: Callable[..., Any]) -> str:
    """An operation's name; of an attribute that is read, the attribute's."""
    name = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def watching(stand: Stand, wanted: bool) -> AbstractContextManager[Any]:
    """A block that is watched, where that is wanted. Cost: some microseconds an operation."""
    return Watch(stand) if wanted else nullcontext()
