"""An adapter is probed at the right points, alone or with the weights, and comes back to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.probe import Point
from zofo.core.probe.beside import Beside
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves

Tiny = Callable[..., nn.Module]


class Pair(nn.Module):
    """A linear layer that is called, and a table that is only read, as peft reads a prompt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.table = nn.Linear(6, 5).double(), nn.Embedding(3, 6).double()

    def forward(self) -> Tensor:
        return torch.tanh(self.layer(self.table.weight)).sum(1)


def parts(model: Pair) -> tuple[Leaves, Leaves]:
    """The leaves that are walked, and the others."""
    own = tree.find(model, keep=lambda p: p is model.table.weight)
    return own, tree.find(model, keep=lambda p: p is not model.table.weight)


@pytest.mark.parametrize("together", [False, True])
def test_values_are_those_of_moved_copies(together: bool) -> None:
    model = Pair().requires_grad_(False)
    own, others = parts(model)
    probe = Beside(own, Scratch(model, others) if together else None)
    z = [own.direction("gaussian", key) for key in (1, 2)]
    points = [Point(z[0], 0.1), Point(z[0], -0.1), Point(), Point(z[1], 0.2)]
    got, before = probe(model, points), {n: p.clone() for n, p in model.named_parameters()}
    for value, point in zip(got, points, strict=True):
        twin = Pair().requires_grad_(False)
        for leaf in (*parts(twin)[0], *(parts(twin)[1] if together else ())):
            if point.z is not None:
                noise.perturb(leaf.data, leaf.data, point.z, point.a, leaf.tid)
        torch.testing.assert_close(value, twin(), rtol=0, atol=1e-12)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_error_in_an_evaluation_leaves_every_bit(error: type[BaseException], n: int) -> None:
    model, calls = Pair().requires_grad_(False), []
    own, others = parts(model)
    before = {name: p.clone() for name, p in model.named_parameters()}

    def objective() -> Tensor:
        calls.append(1)
        if len(calls) == n:
            raise error
        return model()

    z = own.direction("rademacher", 1)
    with pytest.raises(error):
        Beside(own, Scratch(model, others))(objective, [Point(z, 0.1), Point(z, -0.1), Point()])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
