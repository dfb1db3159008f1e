"""A weight that is read outside the module that owns it is refused at the first probe; what only describes it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zofo.core.noise import Direction
from zofo.core.probe import Point
from zofo.core.probe.scratch import AGAIN, Scratch
from zofo.core.sketch import Projection
from zofo.core.sketch.capture import capturing
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput

Z = Direction("gaussian", 7)
IDS = torch.arange(8).view(2, 4)


class Reader(nn.Module):
    """An embedding, a head, and something that reads a weight by hand; both of the weights have modules that run."""

    def __init__(self, read: Callable[[Reader, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.mid, self.head, self.read = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16), read

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self, self.head(self.mid(self.embed(ids))))


BY_HAND: dict[str, Callable[[Reader, Tensor], Tensor]] = {
    "tied head": lambda m, x: x[..., :8] @ m.embed.weight.T,
    "called": lambda m, x: F.linear(x[..., :8], m.head.weight),
    "named argument": lambda m, x: F.linear(x[..., :8], weight=m.mid.weight),
    "norm": lambda m, x: x / m.mid.weight.norm(),
    "cut": lambda m, x: x + m.head.bias[:1],
    "in a list": lambda m, x: F.linear(x[..., :8], torch.cat([m.mid.weight, m.mid.weight])),
    "in parts": lambda m, x: F.linear(x[..., :8], m.mid.weight.chunk(2)[0]),
}
DESCRIBED: dict[str, Callable[[Reader, Tensor], Tensor]] = {
    "type": lambda m, x: x.to(m.mid.weight.dtype),
    "size": lambda m, x: x * m.mid.weight.size(0) + len(m.head.bias) + m.mid.weight.shape[1],
    "nothing": lambda m, x: x,
}


def probed(model: nn.Module, points: list[Point]) -> Tensor:
    """The model's outputs at some points."""
    return Scratch(model, tree.find(model))(lambda: model(IDS).reshape(-1), points)


@pytest.mark.parametrize("read", BY_HAND)
def test_a_weight_read_by_hand_is_refused_and_nothing_is_changed(read: str) -> None:
    model = Reader(BY_HAND[read])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadInput, match=r"outside the module that owns it"):
        probed(model, [Point(Z, 0.1), Point(Z, -0.1)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.mid._forward_hooks and "forward" not in vars(model.head)


@pytest.mark.parametrize("read", BY_HAND)
def test_it_is_refused_where_the_first_point_is_theta_too(read: str) -> None:
    with pytest.raises(BadInput, match=r"outside the module that owns it"):
        probed(Reader(BY_HAND[read]), [Point(), Point(Z, 0.1)])


@pytest.mark.parametrize("several", [False, True])
def test_of_an_objective_that_may_be_another_one_later_passes_are_watched_too(several: bool) -> None:
    """A penalty that begins later: found within `AGAIN` calls."""
    model, read = Reader(DESCRIBED["nothing"]), BY_HAND["norm"]
    probe, points = Scratch(model, tree.find(model), several=several), [Point(Z, 0.1), Point(Z, -0.1)]
    probe(lambda: model(IDS).reshape(-1), points)
    model.read = read
    with pytest.raises(BadInput, match=r"outside the module") if several else nullcontext():
        for _ in range(AGAIN):
            probe(lambda: model(IDS).reshape(-1), points)


def test_the_message_names_the_weight_and_the_operation() -> None:
    with pytest.raises(BadInput, match=r"reads mid\.weight outside .* \(norm\)"):
        probed(Reader(BY_HAND["norm"]), [Point(Z, 0.1)])


@pytest.mark.parametrize("read", DESCRIBED)
def test_what_only_describes_a_weight_is_allowed(read: str) -> None:
    model = Reader(DESCRIBED[read])
    at_theta, moved = probed(model, [Point(), Point(Z, 0.1)])
    assert torch.equal(at_theta, model(IDS).detach().reshape(-1).double())
    assert not torch.equal(at_theta, moved)


@pytest.mark.parametrize("read", BY_HAND)
def test_the_sketch_refuses_it_too(read: str) -> None:
    model = Reader(BY_HAND[read])
    leaves = tree.find(model)
    with (
        pytest.raises(BadInput, match=r"^sketching the gradient: .*outside the module that owns it"),
        capturing(leaves, Projection("rademacher", 7, 4, "input")),
    ):
        model(IDS)
    assert "forward" not in vars(model.mid)


@pytest.mark.parametrize("read", DESCRIBED)
def test_the_sketch_allows_what_only_describes(read: str) -> None:
    model = Reader(DESCRIBED[read])
    with capturing(tree.find(model), Projection("rademacher", 7, 4, "input")) as held:
        torch.autograd.grad(model(IDS).square().mean(), [held.anchor])
        held.close(1.0)
    assert set(held.grad().matrices) | set(held.grad().rows) == {"embed.weight", "mid.weight", "head.weight"}
