"""Two stages: a first-order adapter, then theta and p along one z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo.adapters.slots import attach
from zofo.config import AdapterConfig, MethodConfig, build
from zofo.core import noise
from zofo.core.probe.beside import Beside
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods import first_order, table, two_stage
from zofo.methods.check import check
from zofo.methods.state import Problem
from zofo.problem import own_leaves, union

Tiny = Callable[..., nn.Module]


class Rows:
    """Always the same micro-batch."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Tensor]:
        assert (part, stream) == ("all", "train")
        return [self.ids]


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return -out[:, -2].log_softmax(-1).gather(1, ids[:, -1:]).squeeze(1)


def problem(tiny: Tiny, kind: Any = "lora", steps: int = 6, **options: Any) -> Problem:
    model = tiny("opt").double().requires_grad_(False)
    leaves, slots = tree.find(model), attach(model, AdapterConfig(kind=kind, r=2, tokens=0), ("p",), 1)
    own, config = own_leaves(slots), MethodConfig(name="two-stage", **options)
    probe = Beside(own, Scratch(slots.model, leaves))
    return Problem(slots.model, loss, config, 0, steps, union(leaves, own), probe, slots)


def held(given: Problem) -> dict[str, Tensor]:
    assert given.leaves is not None
    return tree.snapshot(given.leaves)


def test_the_first_stage_is_first_order_training_by_its_own_schedule(tiny: Tiny, rows: Tensor) -> None:
    """theta stands still, and p's rate falls to 0 over stage_one steps, not over all."""
    options = {"lr_p": 1e-2, "schedule": "linear"}
    given, alone = problem(tiny, stage_one=4, **options), problem(tiny, steps=4, **options)
    state, other, before = two_stage.init(given), first_order.init(alone), held(given)
    for k in range(4):
        state, report = two_stage.step(given, state, Rows(rows))  # type: ignore[arg-type]
        other, _ = first_order.step(alone, other, Rows(rows))  # type: ignore[arg-type]
        assert report.numbers["lr_p"] == pytest.approx(1e-2 * (1 - k / 4)) and report.moved is None
    assert given.slots is not None and alone.slots is not None
    assert all(torch.equal(p, q) for p, q in zip(given.slots.list("p"), alone.slots.list("p"), strict=True))
    own = set(given.slots.params["p"])
    assert all(torch.equal(now, before[name]) for name, now in held(given).items() if name not in own)


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_the_second_moves_theta_and_p_by_minus_lr_c_z(tiny: Tiny, rows: Tensor, kind: str) -> None:
    given = problem(tiny, kind, stage_one=1, lr_theta=1e-3, lr_p=1e-2, schedule_theta="linear", q=2)
    state, _ = two_stage.step(given, two_stage.init(given), Rows(rows))  # type: ignore[arg-type]
    leaves, before = given.leaves, held(given)
    assert leaves is not None
    z = [
        {
            leaf.name: noise.draw(d, leaf.tid, leaf.data.numel(), width=noise.columns(leaf.data)).view_as(leaf.data)
            for leaf in leaves
        }
        for d in given.directions(1)
    ]

    def at(i: int, a: float) -> float:
        for leaf in leaves:
            leaf.data.copy_(before[leaf.name] + a * z[i][leaf.name])
        with torch.no_grad():
            return float(loss(given.model, rows).mean())

    c = [(at(i, 1e-3) - at(i, -1e-3)) / 2e-3 / 2 for i in range(2)]
    for leaf in leaves:
        leaf.data.copy_(before[leaf.name])
    state, report = two_stage.step(given, state, Rows(rows))  # type: ignore[arg-type]
    assert report.numbers["lr_theta"] == 1e-3 and report.moved is not None and report.moved.replay
    for name, now in held(given).items():
        wanted = before[name] - 1e-3 * sum(c[i] * z[i][name] for i in range(2))
        torch.testing.assert_close(now, wanted, atol=1e-7, rtol=0)
    state, report = two_stage.step(given, state, Rows(rows))  # type: ignore[arg-type]
    assert report.numbers["lr_theta"] == pytest.approx(1e-3 * 4 / 5)  # over the five steps of its stage


@pytest.mark.parametrize(("asked", "steps", "first"), [(0, 7, 3), (0, 1, 0), (5, 7, 5)])
def test_how_many_steps_the_first_stage_has(tiny: Tiny, asked: int, steps: int, first: int) -> None:
    assert two_stage.stage_one(problem(tiny, steps=steps, stage_one=asked)) == first


def test_a_first_stage_as_long_as_the_run_is_refused() -> None:
    config = build({"method.name": "two-stage", "method.stage_one": 60, "run.steps": 60})
    with pytest.raises(
        BadInput, match=r"--method.stage_one 60: the run has 60 steps.*ask for fewer, or for more --steps"
    ):
        check(config, ())


def test_what_a_journal_replays_is_theta_alone_so_a_law_that_scales_by_all_is_not_replayed() -> None:
    flags = {"method.name": "two-stage"}
    assert table.replays(build(flags)) and not table.replays(build(flags | {"method.noise": "sphere"}))
