"""First-order training is peft and torch.optim, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig, build
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput, NotFinite
from zofo.methods import first_order
from zofo.methods.check import check
from zofo.methods.state import Problem

Tiny = Callable[..., nn.Module]


class Rows:
    def __init__(self, *ids: torch.Tensor) -> None:
        self.ids = list(ids)

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[torch.Tensor]:
        assert part == "all"
        return self.ids


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


def test_steps_equal_peft_with_torch_adam(tiny: Tiny, rows: torch.Tensor) -> None:
    ends: list[list[torch.Tensor]] = []
    for own in (True, False):
        slots = attach(tiny("llama").requires_grad_(False), AdapterConfig(r=2), ("p",), 1)
        if own:
            config = MethodConfig(name="first-order", lr_p=1e-2, clip=0.0)
            given = Problem(slots.model, loss, config, 0, 3, slots=slots)
            state: Any = first_order.init(given)
            for _ in range(3):
                state, report = first_order.step(given, state, Rows(rows))  # type: ignore[arg-type]
                assert (report.forwards, report.backwards, report.moved) == (1, 1, None)
        else:
            optimizer = torch.optim.Adam(slots.list("p"), lr=1e-2)
            for _ in range(3):
                optimizer.zero_grad()
                loss(slots.model, rows).mean().backward()
                optimizer.step()
        ends.append([p.detach().clone() for p in slots.list("p")])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)  # Adam near a zero gradient: a sum against a mean


def test_the_base_keeps_no_gradient_and_does_not_move(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama").requires_grad_(False)
    base = {n: p.clone() for n, p in model.named_parameters()}
    slots = attach(model, AdapterConfig(r=2), ("p",), 1)
    given = Problem(slots.model, loss, MethodConfig(name="first-order", lr_p=1e-2), 0, 3, slots=slots)
    first_order.step(given, first_order.init(given), Rows(rows))  # type: ignore[arg-type]
    for name, param in slots.model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(param, base[name.replace(".base_layer", "")]) and param.grad is None


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_all_weights_step_as_torchs_own_with_decay_and_clipping(tiny: Tiny, rows: torch.Tensor, kind: str) -> None:
    """fp64; the gradient is of the mean over rows however they are cut, and a tied weight has one."""
    mine, theirs = tiny("gpt2").double().requires_grad_(False), tiny("gpt2").double()
    options = {
        "tune": "full",
        "optimizer": kind,
        "lr_theta": 1e-2,
        "decay": 0.1,
        "clip": 0.5,
        "schedule_theta": "linear",
    }
    given = Problem(mine, loss, MethodConfig(name="first-order", **options), 0, 4, tree.find(mine))
    make: Any = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    optimizer = make(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    state: Any = first_order.init(given)
    for k in range(3):
        state, report = first_order.step(given, state, Rows(rows[:1], rows[1:]))  # type: ignore[arg-type]
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - k / 4)
        optimizer.zero_grad()
        value = loss(theirs, rows).mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        assert report.numbers["A"] == pytest.approx(float(value.detach()), rel=1e-9)
        assert report.numbers["lr_theta"] == pytest.approx(optimizer.param_groups[0]["lr"])
        assert (report.forwards, report.backwards, report.moved) == (1, 1, None)
    assert isinstance(state.learners["theta"].optimizer, make)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        assert not a.requires_grad and a.grad is None


def test_weights_that_no_row_reaches_have_a_gradient_of_zero(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama").double().requires_grad_(False)
    model.register_parameter("apart", nn.Parameter(torch.ones(3).double(), requires_grad=False))
    config = MethodConfig(name="first-order", tune="full", lr_theta=1e-2)
    given = Problem(model, loss, config, 0, 3, tree.find(model))
    first_order.step(given, first_order.init(given), Rows(rows))  # type: ignore[arg-type]
    assert torch.equal(model.get_parameter("apart"), torch.ones(3).double())


def test_all_weights_are_masters_in_fp32_when_bf16_computes(tiny: Tiny, rows: torch.Tensor) -> None:
    """Steps far below half a unit in the last place of bf16 move the weights."""
    model = tiny("llama").requires_grad_(False)

    def half(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(m, ids).float()

    config = MethodConfig(name="first-order", tune="full", lr_theta=1e-7)
    given = Problem(model, half, config, 0, 3, tree.find(model))
    before = [p.clone() for p in model.parameters()]
    first_order.step(given, first_order.init(given), Rows(rows))  # type: ignore[arg-type]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert sum(int((p != b).sum()) for p, b in zip(model.parameters(), before, strict=True)) > 1000


def test_a_step_that_ends_a_run_is_not_counted_by_its_schedule(tiny: Tiny, rows: torch.Tensor) -> None:
    """Of all weights: a run that goes on from the steps before it is at their next rate, as often as it ends so."""
    model = tiny("llama").requires_grad_(False)
    config = MethodConfig(name="first-order", tune="full", max_bad=1)
    given = Problem(model, lambda m, ids: loss(m, ids) * float("nan"), config, 0, 9, tree.find(model))
    state = first_order.init(given)
    for _ in range(2):
        with pytest.raises(NotFinite):
            first_order.step(given, state, Rows(rows))  # type: ignore[arg-type]
    assert state.learners["theta"].t == state.k == 0


def test_half_precision_weights_are_refused_for_all_weights_alone() -> None:
    flags = {"method.name": "first-order", "model.weights": "bf16"}
    check(build(flags), ())
    with pytest.raises(BadInput, match=r"--model.weights bf16: torch's optimizers lose small steps.*tune the adapter"):
        check(build(flags | {"method.tune": "full"}), ())
