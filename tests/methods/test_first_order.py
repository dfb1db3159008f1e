"""First-order training is peft and torch.optim, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig
from zofo.methods import first_order
from zofo.methods.state import Problem

Tiny = Callable[..., nn.Module]


class Rows:
    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[torch.Tensor]:
        assert part == "all"
        return [self.ids]


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
