"""What rides on a backward pass: a linear layer keeps x R^T (r numbers a token) and forms Q = (dF/dy)^T (x R^T).

`capturing` puts it on a model for a block. Linear layers get a `forward` of their own; other modules' parameters go
through a view whose gradient is taken: vectors whole, matrices sketched at once; an embedding's rows in use. theta needs no
gradient of autograd's: an anchor, a scalar that everything hangs on, makes the pass go down to the first layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zofo.core.probe import affine
from zofo.core.probe.hooks import by_rows
from zofo.core.probe.stand import Owned, moved_by, owned, put, refuse_unread, uncompiled
from zofo.core.probe.watch import Watch
from zofo.core.sketch import Projection
from zofo.core.sketch.grad import Rows, SketchGrad
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.core.weights.shadow import transposed


@dataclass
class Sums:
    """Sums by leaf name: Q, whole vectors, and rows of embeddings."""

    whole: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, factor: float = 1.0) -> None:
        """Add factor times a Q or a vector. `value` becomes ours where it is the first."""
        if name in self.whole:
            self.whole[name].add_(value, alpha=factor)
        else:
            self.whole[name] = value if factor == 1.0 else value.mul_(factor)

    def add_rows(self, name: str, rows: Tensor, value: Tensor, factor: float = 1.0) -> None:
        """Add factor times the gradients of some rows."""
        value = value if factor == 1.0 else value * factor
        if name in self.rows:
            before, held = self.rows[name]
            every, places = torch.unique(torch.cat([before, rows]), return_inverse=True)
            value = value.new_zeros(len(every), value.shape[1]).index_add_(0, places, torch.cat([held, value]))
            rows = every
        self.rows[name] = rows, value


class Capture:
    """Gathers sketches of backward passes: `now` of the passes since the last `close`, `total` of those that were closed.

    Memory: two sketches, and what the projection keeps.
    """

    def __init__(self, leaves: Leaves, projection: Projection) -> None:
        self.leaves, self.projection = leaves, projection
        self.anchor = torch.zeros((), requires_grad=True)
        self.now, self.total = Sums(), Sums()
        self.reached: set[str] = set()
        self.inside = 0  # operations of ours on weights themselves

    @contextmanager
    def ours(self) -> Iterator[None]:
        """A block in which weights may be read."""
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def close(self, factor: float) -> None:
        """Add factor times what has come since the last time to the total: a term's weight over its rows."""
        for name, value in self.now.whole.items():
            self.total.add(name, value, factor)
        for name, (rows, value) in self.now.rows.items():
            self.total.add_rows(name, rows, value, factor)
        self.now = Sums()

    def grad(self) -> SketchGrad:
        """The total. Raises: BadInput where a leaf's module never ran."""
        missing = [leaf.name for leaf in self.leaves if leaf.name not in self.reached]
        refuse_unread(missing, "sketching the gradient", "freeze these weights, or use zeroth order")
        matrices = {leaf.name for leaf in self.leaves if len(leaf.shape) > 1}
        whole = self.total.whole
        return SketchGrad(
            self.projection,
            {name: value for name, value in whole.items() if name in matrices},
            {name: value for name, value in whole.items() if name not in matrices},
            dict(self.total.rows),
        )

    def take(self, leaf: Leaf, gradient: Tensor) -> None:
        """A whole gradient: of a vector as it is, of a matrix sketched."""
        if gradient.dim() > 1:
            self.now.add(leaf.name, self.projection.sketch(leaf, gradient))
        else:
            self.now.add(leaf.name, wide(gradient).clone())

    def take_rows(self, leaf: Leaf, rows: Tensor, gradient: Tensor) -> None:
        """The gradient of some rows of an embedding."""
        self.now.add_rows(leaf.name, rows, wide(gradient).clone())

    def take_product(self, leaf: Leaf, left: Tensor, right: Tensor) -> None:
        """Q = left^T right of a linear layer, `right` or `left` having gone through sqrt(r) R."""
        self.now.add(leaf.name, wide(left.t() @ right).div_(math.sqrt(self.projection.rank)))


def wide(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def flat(x: Tensor) -> Tensor:
    """Tokens by features."""
    return x.reshape(-1, x.shape[-1])


class SketchedProduct(torch.autograd.Function):
    """y = x W^T + b (Conv1D: x W + b), whose backward pass leaves Q with a `Capture`.

    Kept for it: x R^T, or x itself where the output side is sketched; never W's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, leaves: Any, capture: Capture) -> Tensor:  # fmt: skip
        """leaves: those of weight and bias, and whether the weight is stored as (inputs, outputs)."""
        own, _, flip = leaves
        dtype = affine.computed_in(x, weight)
        x = x.to(dtype)
        by_input = capture.projection.right(own) != flip
        kept = flat(x) @ capture.projection.signs(own, dtype).t() if by_input else x
        ctx.save_for_backward(kept, weight)
        ctx.capture, ctx.leaves, ctx.by_input = capture, leaves, by_input
        return affine.product(x, weight.to(dtype), None if bias is None else bias.to(dtype), flip)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """dF/dx; Q, and the bias's gradient, go to the capture."""
        (kept, weight), (own, bias, flip), capture = ctx.saved_tensors, ctx.leaves, ctx.capture
        dx = None
        if ctx.needs_input_grad[0]:
            with capture.ours():
                w = weight.to(dy.dtype)
            dx = dy @ (w.t() if flip else w)
        rows = flat(dy)
        if bias is not None:
            capture.take(bias, wide(rows).sum(0))
        if ctx.by_input:
            left, right = (kept, rows) if flip else (rows, kept)
        else:
            through = rows @ capture.projection.signs(own, dy.dtype).t()
            left, right = (flat(kept), through) if flip else (through, flat(kept))
        capture.take_product(own, left, right)
        return dx, torch.zeros(()), None, None, None, None


class Taken(torch.autograd.Function):
    """A parameter as it is, whose gradient goes to a function."""

    @staticmethod
    def forward(ctx: Any, param: Tensor, anchor: Tensor, give: Any) -> Tensor:
        ctx.give = give
        return param.view_as(param)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        ctx.give(gradient)
        return None, torch.zeros(()), None


def linear(capture: Capture, own: Owned, module: nn.Module, x: Tensor) -> Tensor:
    """The `forward` of a linear layer while a capture is on."""
    capture.reached.update(leaf.name for leaf in own.values())
    leaves = own["weight"], own.get("bias"), transposed(module)
    bias = module._parameters.get("bias")
    with capture.ours():
        out: Tensor = SketchedProduct.apply(x, capture.anchor, module._parameters["weight"], bias, leaves, capture)  # type: ignore[no-untyped-call]
    return out


def taken(capture: Capture, own: Owned, module: nn.Module, run: Any, *args: Any, **options: Any) -> Any:
    """The `forward` of any other module that owns leaves (one inside another that reads its weights finds them taken)."""
    if not moved_by(module, own):
        return run(*args, **options)
    capture.reached.update(leaf.name for leaf in own.values())
    before = {attr: leaf.param for attr, leaf in own.items()}
    padding = getattr(module, "padding_idx", None)
    try:
        if by_rows(module, own) and len(args) == 1:
            args = (looked_up(capture, own["weight"], module, args[0]),)
        else:
            for attr, leaf in own.items():
                give = functools.partial(capture.take, leaf)
                with capture.ours():
                    put(module, attr, Taken.apply(leaf.param, capture.anchor, give))  # type: ignore[no-untyped-call]
        return run(*args, **options)
    finally:
        for attr, param in before.items():
            put(module, attr, param)
        if isinstance(module, nn.Embedding):
            module.padding_idx = padding  # type: ignore[assignment]


def looked_up(capture: Capture, leaf: Leaf, module: Any, ids: Tensor) -> Tensor:
    """Give an embedding the rows in use, and ids that count them; the padding row learns nothing, as in torch."""
    rows, places = torch.unique(ids, return_inverse=True)
    padding = module.padding_idx

    def give(gradient: Tensor) -> None:
        if padding is not None:
            gradient = gradient.masked_fill((rows == padding)[:, None], 0)
        capture.take_rows(leaf, rows, gradient)

    module.padding_idx = None
    module._parameters["weight"] = Taken.apply(leaf.data[rows], capture.anchor, give)  # type: ignore[no-untyped-call]
    return cast(Tensor, places)


@contextmanager
def capturing(leaves: Leaves, projection: Projection) -> Iterator[Capture]:
    """Let backward passes of a block leave their sketches: `torch.autograd.grad(loss, [..., capture.anchor])`.

    Everything is put back after it, on an exception too. Raises: BadInput where the model reads a weight outside its module. Cost: r numbers kept a token and linear layer, 2 r (inputs + outputs)
    operations a token; no gradient of a weight matrix is formed.
    """
    capture, before = Capture(leaves, projection), dict[nn.Module, Any]()
    try:
        for module, own in owned(leaves).items():
            plain = affine.suits(module, own)
            before[module] = vars(module).get("forward")
            run = functools.partial(linear, capture, own, module) if plain else functools.partial(taken, capture, own, module, module.forward)  # fmt: skip
            module.forward = run
        with uncompiled(), Watch(leaves, lambda: capture.inside > 0, "sketching the gradient", "freeze this weight"):
            yield capture
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
