"""The formulas of E|g - G|^2 against every sign pattern or many keys; products against dense vectors. All in fp64."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from zofo.bench import gradient, nearness
from zofo.bench.gradient import Gradient
from zofo.bench.nearness import Near, near
from zofo.core import noise
from zofo.core.kernels import reference
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch import Law, Projection, Side
from zofo.core.sketch.capture import capturing
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves


class Tied(nn.Module):
    """An embedding, a linear layer with bias, and a head that is the embedding."""

    def __init__(self, wide: int = 2) -> None:
        super().__init__()
        self.embed, self.up = nn.Embedding(5, 2), nn.Linear(2, wide)
        self.down, self.head = nn.Linear(wide, 2, bias=False), nn.Linear(2, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """A loss."""
        x = self.embed(ids)
        out: Tensor = self.head(x + self.down(self.up(x).tanh()))
        return out.logsumexp(-1).square().mean()


IDS = torch.tensor([[0, 3, 3], [1, 0, 3]])


def made(model: nn.Module) -> tuple[nn.Module, Leaves]:
    """A model of fixed weights in fp64."""
    generator = torch.Generator().manual_seed(2)
    model = model.double().requires_grad_(False)
    for param in model.parameters():
        param.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64))
    return model, tree.find(model)


def true_gradient(model: nn.Module, leaves: Leaves) -> Gradient:
    with gradient.differentiable(model, leaves):
        model(IDS).backward()
        return {leaf.name: leaf.param.grad for leaf in leaves if leaf.param.grad is not None}


def dense(G: Gradient, leaves: Leaves) -> Tensor:
    return torch.cat([G[leaf.name].reshape(-1) for leaf in leaves])


def z_of(law: str, key: int, leaves: Leaves) -> Tensor:
    """z in full, drawn by the torch reference."""
    z = leaves.direction(law, key)
    drawn = [noise.draw(z, leaf.tid, leaf.numel, width=noise.columns(leaf.data)) for leaf in leaves]
    return torch.cat(drawn)


def along(law: str, key: int, G: Gradient, leaves: Leaves) -> SeedGrad:
    """c z with c = <G, z>."""
    return SeedGrad(law, ((key, float(dense(G, leaves) @ z_of(law, key, leaves))),))


def sketched(model: nn.Module, leaves: Leaves, projection: Projection) -> SketchGrad:
    with capturing(leaves, projection) as capture:
        torch.autograd.grad(model(IDS), [capture.anchor], allow_unused=True)
        capture.close(1.0)
    return capture.grad()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """Signs are the bits of the key, those of a tensor from a place on: the keys 0, 1, ... are every pattern once."""
    places: dict[int, int] = {}
    monkeypatch.setattr(reference, "signs", lambda key, tid, index: (key >> (places[tid] + index)) & 1)
    yield places


def places_of(leaves: Leaves, bits: dict[str, int]) -> tuple[dict[int, int], int]:
    """Where each tensor's bits begin, and how many there are."""
    places, total = {}, 0
    for leaf in leaves:
        places[leaf.tid] = total
        total += bits.get(leaf.name, 0)
    return places, total


@pytest.mark.parametrize("law", ["rademacher", "low-rank-1", pytest.param("low-rank-2", marks=pytest.mark.slow)])
def test_the_variance_over_every_pattern_of_signs_is_the_formulas(law: str, counting: dict[int, int]) -> None:
    """Of a 2 x 3 matrix and a vector of two: exactly, for a gradient of any shape."""
    _, leaves = made(nn.Linear(3, 2))
    rank = reference.rank_of(law)
    places, total = places_of(leaves, {"weight": rank * 5 if rank else 6, "bias": 2})
    counting.update(places)
    G = {"weight": torch.tensor([[1.0, -2, 0.5], [0.1, 3, 0]]).double(), "bias": torch.tensor([0.7, -1.1]).double()}
    squares = gradient.squares(G)
    found = [near(along(law, key, G, leaves), G, squares, leaves) for key in range(2**total)]
    assert statistics.fmean(one.variance for one in found) == pytest.approx(found[0].formula, rel=1e-9)
    share = squares["weight"] / sum(squares.values())
    assert found[0].formula == pytest.approx(8 - 1 + (2 * (1 - 1 / rank) * share if rank else 0))
    assert statistics.fmean(one.inner for one in found) == pytest.approx(sum(squares.values()))  # unbiased


@pytest.mark.slow
def test_low_rank_by_its_own_key_stream() -> None:
    """The formula of low-rank-8 over 4,000 keys: |z|^2 varies with <G, z>^2 where that of Rademacher does not."""
    _, leaves = made(nn.Linear(4, 3, bias=False))
    G = {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    products = [(float(G["weight"].reshape(-1) @ z), float(z @ z)) for z in (z_of("low-rank-8", key, leaves) for key in range(4000))]  # fmt: skip
    square = float(G["weight"].square().sum())
    covariance = [(c * c / square - 1) * (length - 12) for c, length in products]
    se = statistics.stdev(covariance) / 4000**0.5
    assert se < 0.25 and abs(statistics.fmean(covariance) - 2 * (1 - 1 / 8)) < 4 * se


@pytest.mark.parametrize(
    ("law", "formula"), [("sphere", 8 - 1), pytest.param("gaussian", 8 + 1, marks=pytest.mark.slow)]
)
def test_the_variance_over_many_keys_is_the_formulas(law: str, formula: float) -> None:
    _, leaves = made(nn.Linear(3, 2))
    G = {"weight": torch.tensor([[1.0, -2, 0.5], [0.1, 3, 0]]).double(), "bias": torch.tensor([0.7, -1.1]).double()}
    squares = gradient.squares(G)
    found = [near(along(law, key, G, leaves), G, squares, leaves) for key in range(1500)]
    variances = [one.variance for one in found]
    se = statistics.stdev(variances) / len(variances) ** 0.5
    assert found[0].formula == pytest.approx(formula) and se < 0.06 * formula
    assert abs(statistics.fmean(variances) - formula) < 3 * se


def test_the_table_of_quantiles_has_a_gaussians_moments() -> None:
    """Of independent entries of variance 1 the formula is d - 2 + E z^4, and E z^4 is 3."""
    z = reference.table().double()
    assert float(z.square().mean()) == pytest.approx(1, abs=1e-6) and float(z.pow(4).mean()) == pytest.approx(
        3, abs=2e-2
    )


def test_a_sphere_has_the_length_that_the_formula_asks() -> None:
    _, leaves = made(nn.Linear(3, 2))
    assert all(float(z_of("sphere", key, leaves).square().sum()) == pytest.approx(8, rel=1e-5) for key in range(20))


@pytest.mark.parametrize("side", ["input", "smaller"])
def test_a_sketchs_variance_over_every_pattern_of_signs_is_the_formulas(side: Side, counting: dict[int, int]) -> None:
    """Of a whole backward pass: the head's part of the tied matrix alone is sketched, its rows and the bias are exact."""
    model, leaves = made(Tied(wide=3))
    projection = Projection("rademacher", 0, 1, side)
    bits = {leaf.name: projection.width(leaf) for leaf in leaves if len(leaf.shape) > 1}
    assert bits == {"embed.weight": 2, "up.weight": 2, "down.weight": 2 if side == "smaller" else 3}
    places, total = places_of(leaves, bits)
    counting.update(places)
    G = true_gradient(model, leaves)
    squares = gradient.squares(G)
    found = [
        near(sketched(model, leaves, Projection("rademacher", key, 1, side)), G, squares, leaves)
        for key in range(2**total)
    ]
    assert statistics.fmean(one.variance for one in found) == pytest.approx(found[0].formula, rel=1e-9)
    assert statistics.fmean(one.inner for one in found) == pytest.approx(sum(squares.values()), rel=1e-9)
    assert found[0].formula > 0.1


@pytest.mark.parametrize(
    ("law", "rank"),
    [
        ("rademacher", 1),
        ("gaussian", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("rademacher", 3), ("gaussian", 1))),
    ],
)
def test_a_sketchs_variance_over_many_keys_is_the_formulas(law: Law, rank: int) -> None:
    model, leaves = made(Tied(wide=6))
    G = true_gradient(model, leaves)
    squares = gradient.squares(G)
    found = [near(sketched(model, leaves, Projection(law, key, rank)), G, squares, leaves) for key in range(500)]
    variances = [one.variance for one in found]
    se = statistics.stdev(variances) / len(variances) ** 0.5
    assert se < 0.15 * found[0].formula and abs(statistics.fmean(variances) - found[0].formula) < 3.5 * se


@pytest.mark.parametrize("law", noise.LAWS)
def test_along_a_direction_the_numbers_are_those_of_dense_vectors(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CHUNK", 3)  # every leaf in pieces
    model, leaves = made(Tied())
    G = true_gradient(model, leaves)
    g = SeedGrad(law, ((7, -2.5), (9, 0.3)))
    check(
        near(g, G, gradient.squares(G), leaves),
        -2.5 * z_of(law, 7, leaves) + 0.3 * z_of(law, 9, leaves),
        dense(G, leaves),
    )


def test_of_a_sketch_the_numbers_are_those_of_dense_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CHUNK", 3)
    model, leaves = made(Tied())
    G = true_gradient(model, leaves)
    g = sketched(model, leaves, Projection("gaussian", 5, 2))
    full = torch.cat([g.dense(leaf).reshape(-1) for leaf in leaves])
    check(near(g, G, gradient.squares(G), leaves), full, dense(G, leaves))


def check(found: Near, g: Tensor, G: Tensor) -> None:
    """Cosine and variance against torch's own of two vectors."""
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(g, G, dim=0)), rel=1e-9)
    assert found.variance == pytest.approx(float((g - G).square().sum() / G.square().sum()), rel=1e-9)


def test_a_mean_over_directions_is_so_much_nearer() -> None:
    _, leaves = made(nn.Linear(3, 2))
    squares = {"weight": 3.0, "bias": 1.0}
    one, four = SeedGrad("gaussian", ((1, 1.0),)), SeedGrad("gaussian", ((1, 1.0),) * 4)
    assert nearness.of_seeds(one, squares, leaves) == 4 * 9.0 == 4 * nearness.of_seeds(four, squares, leaves)


def test_a_gradient_of_nothing_and_an_estimate_that_is_not_finite_have_no_number() -> None:
    _, leaves = made(nn.Linear(3, 2))
    nothing = near(SeedGrad("rademacher", ((1, 2.0),)), {}, {}, leaves)
    assert all(x != x for x in (nothing.cosine, nothing.variance, nothing.formula))
    G = {"weight": torch.ones(2, 3, dtype=torch.float64)}
    for c in (float("inf"), float("nan")):
        wild = near(SeedGrad("rademacher", ((1, c),)), G, gradient.squares(G), leaves)
        assert wild.cosine != wild.cosine and not abs(wild.variance) < float("inf")
