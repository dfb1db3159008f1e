"""Mean losses and their gradients: over rows, not over micro-batches; exact, or along one z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig
from zofo.core import noise, streams
from zofo.methods import losses
from zofo.methods.state import Problem
from zofo.models import recompute

Tiny = Callable[..., nn.Module]


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


@pytest.fixture
def problem(tiny: Tiny) -> Problem:
    slots = attach(tiny("llama").requires_grad_(False), AdapterConfig(r=2), ("p", "s"), 3)
    with torch.no_grad():
        for param in slots.list("p"):
            param.add_(0.05)
    return Problem(slots.model, loss, MethodConfig(lower_eps=1e-3), 0, 1, slots=slots)


def test_the_mean_is_over_rows_however_they_are_cut(problem: Problem, rows: torch.Tensor) -> None:
    whole = losses.mean_loss(problem, [rows], "p")
    assert whole.dtype == torch.float64
    torch.testing.assert_close(losses.mean_loss(problem, [rows[:1], rows[1:]], "p"), whole, rtol=1e-6, atol=0)
    assert losses.mean_loss(problem, [rows], "s") != whole  # the slot named is the one that is used


def test_the_gradient_is_autograds_and_no_other_slot_or_weight_gets_one(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    slope = losses.gradient(problem, [rows[:1], rows[1:]], "p")
    problem.slots.use("p")
    wanted = torch.autograd.grad(loss(problem.model, rows).mean(), problem.slots.list("p"))
    for found, exact in zip(slope.grads, wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    assert slope.loss == pytest.approx(float(loss(problem.model, rows).mean().detach()), rel=1e-6)
    assert all(param.grad is None for param in problem.model.parameters())


def test_the_estimate_is_c_z_and_leaves_the_adapter_to_the_bit(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    before = problem.slots.tensors("p")
    exact = losses.gradient(problem, [rows], "p").grads
    slope = losses.estimated_gradient(problem, [rows], "p", 4, 1)
    assert all(torch.equal(param, before[name]) for name, param in problem.slots.params["p"].items())
    key = streams.key(0, "noise-p", 4, 1)
    z = [
        noise.draw(noise.Direction("gaussian", key), noise.tensor_id(name), value.numel()).view_as(value)
        for name, value in before.items()
    ]
    c = sum(float((g.double() * d).sum()) for g, d in zip(exact, z, strict=True))
    for found, d in zip(slope.grads, z, strict=True):
        torch.testing.assert_close(found.double(), c * d, rtol=2e-2, atol=1e-4)


def test_an_exception_in_an_estimate_leaves_the_adapter_to_the_bit(problem: Problem, rows: torch.Tensor) -> None:
    assert problem.slots is not None
    calls: list[Any] = []

    def failing(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        calls.append(ids)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(model, ids)

    before = problem.slots.tensors("p")
    broken = Problem(problem.model, failing, problem.config, 0, 1, slots=problem.slots)
    with pytest.raises(KeyboardInterrupt):
        losses.estimated_gradient(broken, [rows], "p")
    assert all(torch.equal(param, before[name]) for name, param in problem.slots.params["p"].items())


def test_weighted_is_the_weighted_sum_and_changes_no_part() -> None:
    one, two = losses.Slope(1.0, [torch.tensor([1.0, 2.0])]), losses.Slope(2.0, [torch.tensor([10.0, 0.0])])
    (found,) = losses.weighted([(0.5, one), (0.25, two)])
    assert found.tolist() == [3.0, 1.0]
    assert one.grads[0].tolist() == [1.0, 2.0] and two.grads[0].tolist() == [10.0, 0.0]


DROPOUT: dict[str, dict[str, float]] = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("arch", sorted(DROPOUT))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_bases_dropout_stays_off_and_the_adapters_is_a_function_of_the_step(
    tiny: Tiny, rows: torch.Tensor, checkpointing: bool, arch: str
) -> None:
    def slopes(dropout: float) -> tuple[torch.Tensor, ...]:
        model = tiny(arch, **DROPOUT[arch]).requires_grad_(False)
        if checkpointing:
            recompute(model)
        slots = attach(model, AdapterConfig(r=2, dropout=dropout), ("p",), 3)
        with torch.no_grad():
            for param in slots.list("p"):
                param.add_(0.05)
        made = Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots)
        found = [
            losses.gradient(made, [rows], "p", *step, dropout=on)
            for step, on in (((1,), True), ((1,), True), ((2,), True), ((1,), False))
        ]
        assert not any(module.training for module in slots.model.modules())
        return tuple(torch.cat([g.flatten() for g in slope.grads]) for slope in found)

    first, again, other, exact = slopes(0.0)
    assert torch.equal(first, again) and torch.equal(first, other) and torch.equal(first, exact)
    first, again, other, without = slopes(0.5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(without, exact)


def test_activation_checkpointing_recomputes_in_both_levels(tiny: Tiny, rows: torch.Tensor) -> None:
    model = tiny("llama").requires_grad_(False)
    recompute(model)
    slots = attach(model, AdapterConfig(r=2), ("p",), 3)
    calls: list[int] = []
    handles = [
        m.register_forward_pre_hook(lambda *_: calls.append(1))
        for n, m in slots.model.named_modules()
        if n.endswith(".mlp")
    ]
    made = Problem(slots.model, loss, MethodConfig(), 0, 1, slots=slots)
    for dropout in (True, False):
        calls.clear()
        losses.gradient(made, [rows], "p", 0, dropout=dropout)
        assert len(calls) == 2 * len(handles)
