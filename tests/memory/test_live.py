"""The counter of live bytes: what is counted, to which part, and that it agrees with the allocator's own records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.memory.live import Live


def records(run: Callable[[], Any]) -> int:
    """Bytes of CPU tensors alive at the peak, above the start, from torch's own allocation records."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        held = run()
    del held
    kept = profile.profiler.kineto_results  # type: ignore[union-attr]
    live = most = 0
    for event in sorted((e for e in kept.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def test_the_peak_is_what_stands_together() -> None:
    given = torch.zeros(1000)
    live = Live()
    with live:
        first = given + 1
        second = first * 2
        del first
        third = torch.zeros(250)
    assert live.peak == 8000 and live.now.total() == 5000
    del second, third
    assert live.now.total() == 0 and live.peak == 8000


def test_views_changes_in_place_and_what_comes_from_outside_are_not_counted() -> None:
    given = torch.zeros(1000)
    live = Live()
    with live:
        for _ in (given.view(10, 100), given[:5], given.detach(), given.add_(1)):
            pass
    assert live.peak == 0


def test_each_part_has_its_own_at_the_peak() -> None:
    live = Live("one")
    with live:
        first = torch.zeros(100)
        with live.during("two"):
            second = torch.zeros(50)
        del first
        live.part = "three"
        third = torch.zeros(10)
    assert live.at_peak == {"one": 400, "two": 200}
    assert live.now == {"one": 0, "two": 200, "three": 40}
    del second, third


def test_copies_of_what_stood_before_in_another_type_are_told_apart() -> None:
    weight, live = torch.zeros(1000), Live("made", copies="copies")
    with live:
        half = weight.to(torch.bfloat16)
        own = torch.zeros(10).to(torch.bfloat16)
    assert live.now == {"copies": 2000, "made": 20}
    del half, own


def test_what_backward_keeps_and_makes_is_seen() -> None:
    x = torch.zeros(1000, requires_grad=True)
    live = Live("forward")
    with live:
        y = x.exp().exp().sum()  # both keep what they made for the backward pass
        with live.during("backward"):
            torch.autograd.grad(y, x)
    assert live.at_peak["forward"] == 8004 and 4000 <= live.at_peak["backward"] <= 8004
    assert not live.now.total() - 4  # the sum alone is left


@pytest.mark.parametrize("name", ["gpt2", "llama-tied"])
def test_it_agrees_with_the_allocators_records(tiny, rows: torch.Tensor, name: str) -> None:
    model = tiny(name)

    def forward() -> Any:
        with torch.no_grad():
            return model(input_ids=rows, use_cache=False).logits

    def backward() -> list[torch.Tensor]:
        return list(torch.autograd.grad(model(input_ids=rows, use_cache=False).logits.sum(), list(model.parameters())))

    for run in (forward, backward):
        run()
        live = Live()
        with live:
            run()
        assert live.peak == pytest.approx(records(run), rel=0.02)


def test_a_failure_inside_leaves_the_counter_off() -> None:
    live = Live()
    with pytest.raises(RuntimeError), live:
        nn.Linear(2, 2)(torch.zeros(3))
    before = live.now.total()
    kept = torch.zeros(100)
    assert live.now.total() == before
    del kept
