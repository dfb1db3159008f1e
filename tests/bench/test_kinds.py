"""Every kind takes steps, and moves the weights where it says so."""

from __future__ import annotations

import pytest
from torch import nn

from zofo.bench.how import How, batch
from zofo.bench.kinds import KINDS, chosen
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import snapshot

pytestmark = pytest.mark.filterwarnings("ignore:Adapter name")


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("how", [How(), pytest.param(How("bf16", full=True), marks=pytest.mark.slow)])
def test_each_kind_takes_steps(model: nn.Module, name: str, how: How) -> None:
    made = batch(model, 2, 8)
    before = snapshot(tree.find(model))
    step = KINDS[name].make(model, made, how)
    step(), step()
    after = snapshot(tree.find(model))
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    moves = name.split("-")[0] in ("zofo", "mezo", "upper", "iteration", "sketch") and not name.endswith("plain")
    assert (moved > 1e-9) == moves and moved < 1e-3  # a pass of noise alone is of 1e-12


def test_the_references_are_always_among_those_chosen() -> None:
    labels = [label for label, _, _ in chosen(["zofo"], ["rademacher", "sphere"], How("bf16"))]
    assert labels == [
        "plain forward", "plain forward, logits at all positions", "zofo step, rademacher", "zofo step, sphere",
    ]  # fmt: skip
    assert [how.law for _, kind, how in chosen(["zofo"], ["sphere"], How()) if kind.laws] == ["sphere"]
    assert len(list(chosen([], [], How()))) == 2
