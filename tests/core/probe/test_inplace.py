"""The walk in place evaluates at the right points, drifts, and says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zofo.core.probe import Point, inplace
from zofo.core.probe.inplace import Inplace
from zofo.core.weights import leaves as tree

Tiny = Callable[..., nn.Module]


def test_evaluates_at_the_points(tiny: Tiny, rows: Tensor, moved: Callable[..., nn.Module]) -> None:
    """Several directions, both signs and theta itself: the values of really moved copies, to rounding."""
    model = tiny("llama-tied").double()
    leaves = tree.find(model)
    plan = [(1, 0.01), (1, -0.01), (None, 0.0), (2, 0.02), (1, 0.01)]
    points = [Point(leaves.direction("gaussian", key), a) if key else Point() for key, a in plan]
    got = Inplace(leaves)(lambda: model(rows, use_cache=False).logits.reshape(-1), points)
    with torch.no_grad():
        for value, (key, a) in zip(got, plan, strict=True):
            twin = moved(model, "gaussian", (key, a)) if key else model
            assert torch.allclose(value, twin(rows, use_cache=False).logits.reshape(-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.3), (torch.bfloat16, 0.3)])
def test_drifts_and_says_so(dtype: torch.dtype, least: float) -> None:
    """After one probe more than 30 % of the weights differ (the module's docstring tells of 47 %)."""
    torch.manual_seed(0)
    model = nn.Linear(200, 100, bias=False)
    nn.init.normal_(model.weight, std=0.05)
    model = model.to(dtype)
    leaves, before = tree.find(model), model.weight.detach().clone()
    z = leaves.direction("gaussian", 1)
    Inplace(leaves)(lambda: torch.zeros(()), [Point(z, 1e-3), Point(z, -1e-3)])
    changed = float((model.weight != before).double().mean())
    assert changed > least
    assert torch.allclose(model.weight, before, atol=2e-3 if dtype == torch.bfloat16 else 1e-7)
    assert "47 %" in str(inplace.__doc__) and "does not restore" in str(inplace.__doc__)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_walks_back_after_an_error(error: type[BaseException], n: int) -> None:
    model = nn.Linear(20, 20)
    leaves = tree.find(model)
    before, calls = tree.snapshot(leaves), []

    def objective() -> Tensor:
        calls.append(float((model.weight - before["weight"]).abs().max()))
        if len(calls) > n:
            raise error
        return torch.zeros(())

    points = [Point(leaves.direction("gaussian", key), a) for key, a in ((1, 0.1), (1, -0.1), (2, 0.1))]
    with pytest.raises(error):
        Inplace(leaves)(objective, points)
    assert min(calls) > 0.05, "the weights did move"
    assert all(torch.allclose(leaf.data, before[leaf.name], atol=1e-6) for leaf in leaves)


def test_an_autocast_block_around_sees_every_point() -> None:
    """torch keeps half copies of fp32 weights for as long as an autocast block lasts."""
    model = nn.Linear(8, 8)
    leaves = tree.find(model)
    z = leaves.direction("gaussian", 1)
    with torch.autocast("cpu", torch.bfloat16):
        a, b, c = Inplace(leaves)(lambda: model(torch.ones(8)).float(), [Point(z, 0.5), Point(z, -0.5), Point()])
    assert not torch.equal(a, b) and not torch.equal(b, c)


def test_allocates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 the walk goes through the kernel: no z, no copy."""
    model = nn.Linear(64, 64)
    leaves = tree.find(model)
    z = leaves.direction("rademacher", 1)
    run = Inplace(leaves)
    run(lambda: torch.zeros(()), [Point(z, 0.1)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(lambda: torch.zeros(()), [Point(z, 0.1), Point(z, -0.1)])
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    assert max((e.nbytes() for e in events), default=0) < 1024
