"""A whole estimate g against a gradient G, leaf by leaf, and the formula of E|g - G|^2 / |G|^2.

    g = c z, c = <G, z>    d - 1 + Cov(<G, z>^2, |z|^2) / |G|^2,  for every law of covariance 1
        rademacher, sphere     d - 1                              |z|^2 = d
        gaussian               d + 1
        low rank               d - 1 + 2 (1 - 1/r) |G_M|^2 / |G|^2    M: the matrices
    g = Q R                sum_l |G_l - E_l|^2 (n_l +- 1) / r / |G|^2    over matrices l with a Q; + Gaussian, - Rademacher

E_l: the rows of an embedding, exact; vectors are exact too. Of low rank, z = U V^T / sqrt(r) with signs: |z|^2 has
(u_k . u_k')(v_k . v_k') for each pair of columns, whose product with that of <G, z>^2 has the mean |G|^2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zofo.bench.gradient import Gradient
from zofo.core import noise, sketch
from zofo.core.devices import wide
from zofo.core.kernels.reference import rank_of
from zofo.core.noise import Direction
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import Rows, SketchGrad
from zofo.core.weights.leaves import Leaf, Leaves

Estimated = SeedGrad | SketchGrad
Squares = Mapping[str, float]
"""|G_l|^2 by leaf name."""


@dataclass(frozen=True)
class Near:
    """<g, G>, |g|^2 and |G|^2 of an estimate, and what E|g - G|^2 / |G|^2 is by its formula."""

    inner: float
    square: float
    truth: float
    formula: float

    @property
    def cosine(self) -> float:
        """<g, G> / (|g| |G|) (nan where one is 0)."""
        lengths = math.sqrt(self.square * self.truth)
        return self.inner / lengths if lengths else math.nan

    @property
    def variance(self) -> float:
        """|g - G|^2 / |G|^2 (nan where G is 0)."""
        return (self.square - 2 * self.inner + self.truth) / self.truth if self.truth else math.nan


@torch.no_grad()
def near(g: Estimated, G: Gradient, squares: Squares, leaves: Leaves) -> Near:
    """An estimate against a gradient. Cost: a pass of noise (a sketch: of its product) and of fp64. Memory: a leaf's."""
    if isinstance(g, SketchGrad):
        pieces, formula = functools.partial(multiplied, g), of_sketch(g, G, squares, leaves)
    else:
        z = [(leaves.direction(g.law, key), c) for key, c in g.terms]
        pieces, formula = functools.partial(drawn, z), of_seeds(g, squares, leaves)
    parts = [against(pieces(leaf), G.get(leaf.name)) for leaf in leaves]
    truth = sum(squares.values())
    return Near(sum(i for i, _ in parts), sum(s for _, s in parts), truth, formula / truth if truth else math.nan)


def against(pieces: Iterator[Tensor], grad: Tensor | None) -> tuple[float, float]:
    """A leaf's own part of <g, G> and |g|^2, in fp64."""
    inner = square = 0.0
    for i, piece in enumerate(pieces):
        part = piece.cpu().double()
        square += float(part @ part)
        if grad is not None:
            there = grad.reshape(-1)[i * noise.CHUNK : i * noise.CHUNK + len(part)]
            inner += float(part @ there.cpu().double())
    return inner, square


def multiplied(g: SketchGrad, leaf: Leaf) -> Iterator[Tensor]:
    """Q R of a leaf, in pieces of `noise.CHUNK`. Memory: the leaf's size."""
    yield from g.dense(leaf).reshape(-1).split(noise.CHUNK)


def drawn(z: Sequence[tuple[Direction, float]], leaf: Leaf) -> Iterator[Tensor]:
    """sum_i c_i z_i of a leaf, in pieces of `noise.CHUNK`."""
    kind = torch.float64 if leaf.dtype == torch.float64 else torch.float32
    for start in range(0, leaf.numel, noise.CHUNK):
        out = torch.zeros(min(noise.CHUNK, leaf.numel - start), dtype=kind)
        for direction, c in z:
            noise.perturb(out, out, direction, c, leaf.tid, start, width=noise.columns(leaf.data))
        yield out


def of_seeds(g: SeedGrad, squares: Squares, leaves: Leaves) -> float:
    """E|g - G|^2 of a mean over q directions, a q-th of that along one z."""
    total, rank = sum(squares.values()), rank_of(g.law)
    matrices = sum(squares.get(leaf.name, 0.0) for leaf in leaves if noise.columns(leaf.data))
    spread = 2 * (1 - 1 / rank) * matrices if rank else {"gaussian": 2 * total}.get(g.law, 0.0)
    return ((leaves.count - 1) * total + spread) / len(g.terms)


def of_sketch(g: SketchGrad, G: Gradient, squares: Squares, leaves: Leaves) -> float:
    """E|g - G|^2 of a sketch: its matrices', less the rows of a tied one that are exact."""
    R, total = g.projection, 0.0
    for leaf in leaves:
        if leaf.name in g.matrices and leaf.name in G:
            taken_out = removed(G[leaf.name], g.rows[leaf.name]) if leaf.name in g.rows else 0.0
            total += sketch.variance(R.law, R.width(leaf), R.rank) * (squares[leaf.name] - taken_out)
    return total


def removed(grad: Tensor, rows: Rows) -> float:
    """|G|^2 - |G - E|^2 of some rows E."""
    numbers, E = rows
    part = wide(grad[numbers])
    return float(part.square().sum() - (part - wide(E)).square().sum())
