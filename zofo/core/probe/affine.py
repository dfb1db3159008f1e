"""Linear layers at theta + a z: y = x (W + a z)^T + (b + a z), a tile of output rows at a time.

A tile is rounded once to the type that the product is computed in: where autocast computes fp32 weights in a half
type, scratch is of that type, and the bits are those of a cast afterwards. Low-rank noise is not materialised: y =
x W^T + a / sqrt(r) (x V) U^T, the weight read once for all points.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core import noise
from zofo.core.kernels.reference import rank_of
from zofo.core.probe import stand as stands
from zofo.core.probe.stand import Owned, Stand
from zofo.core.weights.head import plain_head
from zofo.core.weights.shadow import transposed

TILE = 1 << 20  # elements of a linear layer's weight perturbed at a time (4 MiB in fp32)


def suits(module: nn.Module, own: Owned) -> bool:
    """Whether a module is a plain linear layer that nobody else has changed."""
    plain = (type(module) is nn.Linear or transposed(module)) and "weight" in own and set(own) <= {"weight", "bias"}
    return plain and own["weight"].contiguous and not module._forward_pre_hooks and "forward" not in vars(module)


def product(x: Tensor, w: Tensor, bias: Tensor | None, flip: bool) -> Tensor:
    """x W^T + b (`flip`: x W + b, as Conv1D computes it)."""
    if not flip:
        return F.linear(x, w, bias)
    size = (*x.shape[:-1], w.shape[1])
    flat = x.reshape(-1, x.shape[-1])
    return (flat @ w if bias is None else torch.addmm(bias, flat, w)).view(size)


def into(out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, flip: bool) -> None:
    """The same of two-dimensional x, written to its place."""
    w = w if flip else w.t()
    if bias is None:
        torch.mm(x, w, out=out)
    else:
        torch.addmm(bias.to(out.dtype), x, w, out=out)


def computed_in(x: Tensor, w: Tensor) -> torch.dtype:
    """The type that a product of x with w is computed in: autocast's where it is on, else the weight's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and w.dtype != torch.float64 else w.dtype


class Affine:
    """The `forward` of a linear layer while a `Stand` stands. Cost: one tile of scratch a point; low-rank: U and V."""

    def __init__(self, stand: Stand, own: Owned, module: Any) -> None:
        self.stand, self.own, self.module, self.flip = stand, own, module, transposed(module)
        self.head = module is plain_head(stand.model)  # which may be given some positions alone, in the rows' order

    def shares(self, x: Tensor) -> list[Tensor]:
        """The rows of an input, or of an output, that belong to each point. Raises: CannotStack."""
        return self.stand.shares(x, chosen=self.head)

    def __call__(self, x: Tensor) -> Tensor:
        """y at each point, on its share of the rows of x."""
        stands.refuse_gradients()
        if not stands.moved_by(self.module, self.own):
            return product(x, self.module.weight, self.module.bias, self.flip)
        if self.stand.at_theta:
            return self.at_theta(x)
        low = any(point.z is not None and rank_of(point.z.law) for point in self.stand.points)
        self.shares(x)  # each point has its rows
        leaf = self.own["weight"]
        rows = self.stand.cast(x, computed_in(x, leaf.param)).reshape(-1, x.shape[-1])
        out = rows.new_empty(rows.shape[0], leaf.shape[1 if self.flip else 0])
        (self.beside if low else self.tiles)(rows, out)
        return out.view(*x.shape[:-1], out.shape[1])

    def at_theta(self, x: Tensor) -> Tensor:
        """The product with the weight itself, in one piece wherever it is: tiles of it would have other bits."""
        buffers: list[Tensor] = []
        weight, bias = self.stand.original(self.own["weight"], buffers), self.module.bias
        if "bias" in self.own:
            bias = self.stand.original(self.own["bias"], buffers)
        y = product(x, weight, bias, self.flip)
        self.stand.pool.give(buffers)
        return y

    def biases(self, buffers: list[Tensor]) -> list[Tensor | None]:
        """The bias at each point."""
        if "bias" in self.own:
            return [*self.stand.perturbed(self.own["bias"], buffers)]
        return [self.module.bias] * len(self.stand.points)

    def tiles(self, x: Tensor, out: Tensor) -> None:
        """The product with dense noise, a tile at a time."""
        leaf, kept, biases = self.own["weight"], list[Tensor](), list[Tensor | None]()
        height, width = leaf.shape
        step = height if self.flip else max(1, TILE // width)
        xs, outs = self.stand.shares(x, chosen=True), self.stand.shares(out, chosen=True)
        for at in range(0, height, step):
            buffers: list[Tensor] = []
            tiles = self.stand.tile(leaf, at, min(step, height - at), x.dtype, buffers)
            biases = biases or self.biases(kept)  # after the tile, which is to have the larger buffer
            for part, place, w, bias in zip(xs, outs, tiles, biases, strict=True):
                cut = bias if bias is None or self.flip else bias[at : at + step]
                into(place if step >= height else place[:, at : at + step], part, w, cut, self.flip)
            self.stand.pool.give(buffers)
        self.stand.pool.give(kept)

    def beside(self, x: Tensor, out: Tensor) -> None:
        """The product with the weight itself, and low-rank noise beside it, as an adapter is."""
        leaf, stand, buffers, held = self.own["weight"], self.stand, list[Tensor](), dict[int, tuple[Tensor, Tensor]]()
        stand.reached.add(leaf.tid)
        rows, width = leaf.shape
        into(out, x, stand.original(leaf, buffers).to(x.dtype), None, self.flip)
        for point, part, place, bias in zip(
            stand.points,
            stand.shares(x, chosen=True),
            stand.shares(out, chosen=True),
            self.biases(buffers),
            strict=True,
        ):
            if point.z is not None:
                if point.z.key not in held:
                    held[point.z.key] = noise.factors(point.z, leaf.tid, rows, width, x)
                inner, outer = held[point.z.key] if self.flip else held[point.z.key][::-1]
                place.addmm_(torch.mm(part, inner).mul_(point.a / math.sqrt(rank_of(point.z.law))), outer.t())
            if bias is not None:
                place.add_(bias)
        stand.pool.give(buffers)

    def few(self, x: Tensor, rows: Tensor) -> Tensor:
        """Some outputs alone: x (W + a z)[rows]^T, for a head of which few words are wanted."""
        stands.refuse_gradients()
        buffers: list[Tensor] = []
        tables = self.stand.rows_of(self.own["weight"], rows, buffers)
        if self.stand.at_theta:
            return F.linear(x, tables[0])
        parts = [F.linear(part, w) for part, w in zip(self.shares(x), tables, strict=True)]
        self.stand.pool.give(buffers)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
