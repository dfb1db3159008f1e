"""Reptile against its formula on explicit tensors, and on linear tasks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_tasks import Rows, loss
from torch import Tensor, nn

from zofo.adapters.slots import Slots
from zofo.config import MethodConfig
from zofo.errors import NotFinite
from zofo.methods import reptile
from zofo.methods.state import Member, Problem, State


class Toy(nn.Module):
    """x -> (W + B A) x in fp64, W = 0, with p a LoRA pair of rank one."""

    active_adapter = "p"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False, dtype=torch.float64).requires_grad_(False)
        self.linear.weight.zero_()
        self.A = nn.Parameter(torch.randn(1, 4, generator=torch.Generator().manual_seed(2)).double() / 2)
        self.B = nn.Parameter(torch.zeros(4, 1).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.A.t() @ self.B.t()  # type: ignore[no-any-return]


class AllRows(Rows):
    """Eight rows a batch, never a mixed one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, 8)

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Any]:
        raise AssertionError("Reptile draws from all rows")


def family(n: int) -> tuple[Member, ...]:
    return tuple(Member(f"set/{i}", AllRows(str(i)), loss, None, 10) for i in range(n))


def made(n: int = 3, steps: int = 10, **options: Any) -> Problem:
    toy = Toy()
    slots = Slots(toy, {"p": {"A": toy.A, "B": toy.B}})  # type: ignore[arg-type]
    config = MethodConfig(**(dict(name="reptile", tasks=3, T=2, lr_p=0.1, max_bad=2) | options))
    return Problem(toy, loss, config, 0, steps, slots=slots, members=family(n))


def reference(A: Tensor, B: Tensor, problem: Problem, uses: dict[str, int], rate: float) -> tuple[Tensor, Tensor]:
    """p + rate mean_i (p_i - p), p_i after T plain steps down the gradient (SGD, no clip)."""
    gone = [torch.zeros_like(A), torch.zeros_like(B)]
    for member in problem.members:
        a, b = A.clone(), B.clone()
        for t in range(2):
            ((x, y),) = member.source.batch("all", "train", uses.get(member.name, 0) * 2 + t, 1)
            a, b = a.requires_grad_(), b.requires_grad_()
            value = (x @ a.t() @ b.t() - y).square().mean()
            ga, gb = torch.autograd.grad(value, (a, b))
            a, b = (a - 0.1 * ga).detach(), (b - 0.1 * gb).detach()
        gone = [g + (q - p) for g, q, p in zip(gone, (a, b), (A, B), strict=True)]
    n = len(problem.members)
    return A + rate * gone[0] / n, B + rate * gone[1] / n


def test_steps_equal_the_formula() -> None:
    problem = made(optimizer="sgd", clip=0.0, lr_outer=0.7, schedule="linear")
    assert problem.slots is not None
    A, B = problem.slots.list("p")
    a, b, state, uses = A.detach().clone(), B.detach().clone(), State(), dict[str, int]()
    for k in range(3):
        a, b = reference(a, b, problem, uses, 0.7 * (1 - k / 10))
        state, report = reptile.step(problem, state, problem.members[0].source)
        uses = {member.name: k + 1 for member in problem.members}
        torch.testing.assert_close(A.detach(), a, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(B.detach(), b, rtol=1e-10, atol=1e-12)
    assert dict(state.uses) == uses and (report.forwards, report.backwards) == (6, 6)
    assert report.numbers["lr_outer"] == pytest.approx(0.7 * 0.8) and report.moved is None
    assert not problem.model.linear.weight.any(), "theta is frozen"  # type: ignore[union-attr, operator]


def test_each_task_begins_with_a_new_optimizer() -> None:
    """With Adam a task's first step is of length lr in every number, however often the task was used."""
    problem = made(1, T=1, clip=0.0)
    state, assert_slots = State(), problem.slots
    assert assert_slots is not None
    for _ in range(3):
        before = assert_slots.tensors("p")["A"]
        state, _ = reptile.step(problem, state, problem.members[0].source)
        gone = (assert_slots.tensors("p")["A"] - before).abs()
        assert torch.all((gone < 1e-6) | ((gone - 0.1).abs() < 1e-4))


def test_a_task_that_is_not_finite_is_left_out_and_stops_the_run_by_name() -> None:
    problem, without = made(), made()
    sick = replace(problem.members[1], loss=lambda m, b: loss(m, b) * math.nan)
    problem = replace(problem, members=(problem.members[0], sick, problem.members[2]), config=problem.config.model_copy(update={"max_bad": 3}))  # fmt: skip
    without = replace(without, members=(without.members[0], without.members[2]))
    state, report = reptile.step(problem, State(), problem.members[0].source)
    reptile.step(without, State(), without.members[0].source)
    assert problem.slots is not None and without.slots is not None
    for one, two in zip(problem.slots.list("p"), without.slots.list("p"), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-15)
    assert report.numbers["tasks"] == 2 and "set/1" in report.notes[0]
    before = problem.slots.tensors("p")
    with pytest.raises(NotFinite, match="of task set/1"):
        reptile.step(problem, state, problem.members[0].source)
    assert all(torch.equal(t, before[n]) for n, t in problem.slots.tensors("p").items())


def test_the_start_comes_nearer_to_the_tasks(tmp_path: Path) -> None:
    """Tasks have BEST in common, and a rank-one adapter goes to what it can hold of it."""
    problem = made(6, 40, tasks=3, T=5, lr_outer=0.5)

    def value() -> float:
        with torch.no_grad():
            batches = [m.source.batch("all", "look", 0, 1) for m in problem.members]
            return float(torch.stack([loss(problem.model, b[0]).mean() for b in batches]).mean())

    before, state = value(), State()
    for _ in range(20):
        state, _ = reptile.step(problem, state, problem.members[0].source)
    assert value() < 0.8 * before


def test_it_is_a_module(tmp_path: Path) -> None:
    assert isinstance(made().model, nn.Module) and reptile.slots(MethodConfig()) == ("p",)
