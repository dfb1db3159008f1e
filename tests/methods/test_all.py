"""What holds for every row of the table: it learns, costs what it says, repeats itself, and stops without a trace."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo.adapters.bank import Bank
from zofo.adapters.slots import attach
from zofo.config import build
from zofo.core.weights import leaves as tree
from zofo.methods.check import check
from zofo.methods.losses import mean_loss
from zofo.methods.state import Member, Problem, Report, State, from_checkpoint, to_checkpoint
from zofo.methods.table import METHODS, effective
from zofo.objectives import Objective
from zofo.problem import joined
from zofo.scoring.batch import Encoded, lm_batch
from zofo.scoring.objective import row_losses
from zofo.settled import plain
from zofo.tasks.batches import Batches

Tiny = Callable[..., nn.Module]
LR = {"method.lr_p": 1e-2, "method.lr_theta": 1e-5, "method.noise": "rademacher"}
ADAPTER = {"method.name": "mezo", "method.tune": "adapter", "method.noise": "rademacher"}
FIRST = {"method.name": "first-order", "method.lr_p": 1e-2}
META = {
    "method.name": "meta",
    "method.tasks": 2,
    "method.T": 2,
    "method.lr_p": 1e-2,
    "method.lr_s": 1e-2,
    "method.noise": "rademacher",
}
SKETCH = {"method.rule": "normalised", "method.noise": "rademacher"}

# flags; steps to learn in; forward and backward passes of a step, as docs/methods.md has them (q = 1, T = 2)
CASES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "bilevel": (LR | {"method.T": 2, "method.lr_s": 1e-2}, 12, 2 * 2 + 6, 2 * 2),
    "bilevel, outer": (LR | {"method.T": 2, "method.coupling": "outer", "method.lr_s": 1e-2}, 30, 2 + 2 + 6, 2 + 2),
    "bilevel, follow": ({"method.T": 2, "method.coupling": "follow", "method.lr_s": 1e-2}, 12, 2 + 2, 2),
    "bilevel, lambda 0": (LR | {"method.T": 2, "method.lam": 0.0}, 12, 2 + 2, 2),
    "bilevel, zeroth order below": (
        {"method.T": 2, "method.lower": "zeroth-order", "method.lr_s": 3e-3, "method.lr_p": 3e-3}, 60, 2 * 2 * 2 + 6, 0
    ),
    "bilevel, prefix": (LR | {"method.T": 2, "method.lr_s": 1e-2, "adapter.kind": "prefix"}, 15, 2 * 2 + 6, 2 * 2),
    "bilevel, prompt": (LR | {"method.T": 2, "method.lr_s": 1e-2, "adapter.kind": "prompt"}, 15, 2 * 2 + 6, 2 * 2),
    "bilevel, sketch": (
        SKETCH | {"method.T": 2, "method.upper": "sketch", "method.lr_s": 1e-2, "method.lr_p": 1e-2, "method.lr_theta": 0.05},
        12, 2 * 2 + 3, 2 * 2 + 3,
    ),
    "alternating": (LR | {"method.T": 2, "method.s": "off"}, 12, 2 + 2, 2),
    "mezo": ({"method.name": "mezo", "method.lr_theta": 3e-4, "method.noise": "rademacher"}, 100, 2, 0),
    "mezo, lora": (ADAPTER | {"method.lr_theta": 1e-2}, 150, 2, 0),
    "mezo, prefix": (ADAPTER | {"method.lr_theta": 1e-2, "adapter.kind": "prefix"}, 150, 2, 0),
    "mezo, prompt": (ADAPTER | {"method.lr_theta": 1e-2, "adapter.kind": "prompt"}, 150, 2, 0),
    "first-order": (FIRST, 20, 1, 1),
    "first-order, prefix": (FIRST | {"adapter.kind": "prefix"}, 30, 1, 1),
    "first-order, prompt": (FIRST | {"adapter.kind": "prompt"}, 30, 1, 1),
    "first-order, full": ({"method.name": "first-order", "method.tune": "full", "method.lr_theta": 1e-3}, 10, 1, 1),
    "first-order, full, sgd": (
        {"method.name": "first-order", "method.tune": "full", "method.lr_theta": 0.1, "method.optimizer": "sgd"}, 10, 1, 1,
    ),
    "two-stage": (LR | {"method.name": "two-stage"}, 20, 1, 1),
    "two-stage, prompt": (LR | {"method.name": "two-stage", "adapter.kind": "prompt"}, 40, 1, 1),
    "two-stage, at once": (
        LR | {"method.name": "two-stage", "method.stage_one": 1, "method.lr_theta": 3e-4}, 100, 1, 1,
    ),
    "addax": ({"method.name": "addax", "method.lr_theta": 0.02, "method.alpha": 1e-3}, 12, 2 + 1, 1),
    "addax, by length": (
        {"method.name": "addax", "method.lr_theta": 0.02, "method.alpha": 1e-3, "method.short_tokens": 6}, 15, 2 + 1, 1,
    ),
    "meta": (META | {"method.lr_theta": 1e-5}, 12, 2 * (2 * 2 + 6), 2 * 2 * 2),
    "meta, outer": (META | {"method.coupling": "outer", "method.lr_theta": 1e-5}, 25, 2 * (2 + 2 + 6), 2 * (2 + 2)),
    "meta, shared": (
        META | {"method.adapters": "shared", "method.coupling": "outer", "method.sampling": "size"}, 15, 2 * (2 + 2 + 6), 2 * (2 + 2),
    ),
    "meta, sketch": (
        META | SKETCH | {"method.upper": "sketch", "method.lr_theta": 0.05}, 12, 2 * (2 * 2 + 3), 2 * (2 * 2 + 3),
    ),
    "reptile": ({"method.name": "reptile", "method.tasks": 2, "method.T": 2, "method.lr_p": 1e-2}, 20, 2 * 2, 2 * 2),
    "sketch": (SKETCH | {"method.name": "sketch", "method.lr_theta": 0.2}, 15, 1, 1),
}  # fmt: skip
SLOW = {
    "bilevel, prefix", "bilevel, prompt", "bilevel, follow", "bilevel, zeroth order below", "first-order, full, sgd", "mezo, prompt",
    "meta, outer", "meta, shared",
}  # fmt: skip
EVERY = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in sorted(CASES)]
)
STEPS = 4


def rows() -> tuple[Encoded, ...]:
    """Sixteen rows of 4 to 9 tokens, each with an answer of one or two."""
    draw = torch.Generator().manual_seed(7)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 96, (n,), generator=draw).tolist())

    return tuple(Encoded(ids(4 + k % 5), (ids(1 + k % 2),), 0) for k in range(16))


def source() -> Batches:
    held = rows()
    short = tuple(row for row in held if row.length <= 6)
    parts = {"all": held, "f": held[:5], "p": held[5:], "short": short, "long": tuple(set(held) - set(short))}
    return Batches(parts, 4, 0, 3)


def problem(tiny: Tiny, case: str, steps: int = STEPS, loss: Any = None) -> Problem:
    """A run's problem, as `zofo.job.assemble` joins it, on a tiny model."""
    config = plain(build({**CASES[case][0], "run.steps": steps, "run.seed": 3, "model.name": "x"}))
    check(config, CASES[case][0])
    model = tiny("llama-tied").requires_grad_(False)
    leaves, names = tree.find(model), METHODS[config.method.name].load().slots(config.method)
    slots = attach(model, config.adapter, names, 3) if names else None
    objective = Objective("lm", loss or partial(row_losses, dtype="fp32"), None, lm_batch, "loss")
    return among(joined(config, slots.model if slots else model, leaves, slots, objective, None))


def among(given: Problem) -> Problem:
    """The problem of a method over several tasks, of five or six rows each, with a bank where each has its own adapters."""
    held, members = rows(), list[Member]()
    if given.config.name not in ("meta", "reptile"):
        return given
    for i, (a, b) in enumerate([(0, 6), (6, 11), (11, 16)]):
        own = Batches({"all": held[a:b], "f": held[a : a + 2], "p": held[a + 2 : b]}, 4, 0, 3)
        members.append(Member(f"set/{i}", own, given.loss, given.upper, b - a))
    bank = None
    if given.config.name == "meta" and given.config.adapters == "own":
        assert given.slots is not None
        start = {slot: given.slots.tensors(slot) for slot in given.slots.params}
        bank = Bank(Path(tempfile.gettempdir()), [m.name for m in members], start)
    return replace(given, members=tuple(members), bank=bank)


def tensors(given: Problem) -> dict[str, Tensor]:
    """A copy of everything that a method may move."""
    return {name: t.detach().clone() for name, t in given.model.state_dict(keep_vars=True).items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(t, two[name]) for name, t in one.items())


def walked(given: Problem, n: int, state: State | None = None) -> tuple[State, list[Report]]:
    module, batches, reports = METHODS[given.config.name].load(), source(), []
    state = module.init(given) if state is None else state
    for _ in range(n):
        state, report = module.step(given, state, batches)
        reports.append(report)
    return state, reports


def loss_of(given: Problem) -> float:
    slot = "p" if given.slots is not None else None
    with torch.no_grad():
        if given.bank is None or given.slots is None:
            return float(mean_loss(given, [lm_batch(rows(), range(16), 0)], slot, upper=False))
        total = 0.0  # of each task with its own adapter
        for member in given.members:
            given.bank.into(given.slots, member.name)
            total += float(mean_loss(given, member.source.batch("all", "look", 0, 2), slot, upper=False))
        given.bank.rest(given.slots)
        return total / len(given.members)


def test_every_method_has_a_case() -> None:
    assert {build(flags).method.name for flags, *_ in CASES.values()} == set(METHODS)


@EVERY
def test_it_lowers_its_loss(tiny: Tiny, case: str) -> None:
    given = problem(tiny, case, CASES[case][1])
    before = loss_of(given)
    walked(given, CASES[case][1])
    assert loss_of(given) < before - 0.2


@contextmanager
def counting(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Calls of the model, and of autograd (which calls itself where functions are overridden), in a block."""
    found, real, inside = [0, 0], torch.autograd.grad, [False]

    def grad(*args: Any, **options: Any) -> Any:
        outer, inside[0] = not inside[0], True
        found[1] += outer
        try:
            return real(*args, **options)
        finally:
            inside[0] = not outer

    def call(*_: Any) -> None:
        found[0] += 1

    monkeypatch.setattr(torch.autograd, "grad", grad)
    handle = model.register_forward_pre_hook(call)
    yield found
    handle.remove()


@EVERY
def test_a_step_takes_the_passes_that_the_documentation_says(tiny: Tiny, case: str, monkeypatch: Any) -> None:
    given, (_, _, forwards, backwards) = problem(tiny, case), CASES[case]
    with counting(given.model, monkeypatch) as found:
        _, (report,) = walked(given, 1)
    assert found == [forwards, backwards] == [report.forwards, report.backwards]


def test_the_second_of_two_stages_takes_two_forward_passes(tiny: Tiny, monkeypatch: Any) -> None:
    given = problem(tiny, "two-stage", 4)
    state, _ = walked(given, 2)
    with counting(given.model, monkeypatch) as found:
        _, (report,) = walked(given, 1, state)
    assert found == [2, 0] == [report.forwards, report.backwards]  # half of the steps are the first stage's


@EVERY
def test_it_repeats_itself_and_goes_on_from_what_a_checkpoint_holds(tiny: Tiny, case: str) -> None:
    whole, cut = problem(tiny, case), problem(tiny, case)
    walked(whole, STEPS)
    state, _ = walked(cut, 2)
    numbers, held = copy.deepcopy(to_checkpoint(state))
    fresh = METHODS[cut.config.name].load().init(cut)
    walked(cut, STEPS - 2, from_checkpoint(fresh, numbers, held))
    assert same(tensors(whole), tensors(cut))


@EVERY
def test_an_exception_in_any_pass_leaves_every_bit(tiny: Tiny, case: str) -> None:
    """And the step, made again, has the end of one that nothing stopped."""
    calls, at = [0], [-1]

    def failing(model: nn.Module, batch: Any) -> Tensor:
        value = row_losses(model, batch, "fp32")
        calls[0] += 1
        if calls[0] == at[0]:
            raise KeyboardInterrupt
        return value

    whole = problem(tiny, case, loss=failing)
    walked(whole, 2)
    given = problem(tiny, case, loss=failing)
    state, _ = walked(given, 1)
    before, forwards = tensors(given), CASES[case][2]
    for k in range(1, forwards + 1):
        calls[0], at[0] = 0, k
        with pytest.raises(KeyboardInterrupt):
            walked(given, 1, state)
        assert same(tensors(given), before), f"pass {k} of {forwards}"
        assert all(p.grad is None for p in given.model.parameters())
    at[0] = -1
    walked(given, 1, state)
    assert same(tensors(given), tensors(whole))


@EVERY
def test_what_is_frozen_wants_no_gradient_after_a_step(tiny: Tiny, case: str) -> None:
    given = problem(tiny, case)
    before = {name for name, p in given.model.named_parameters() if p.requires_grad and "default" not in name}
    walked(given, 1)
    wanting = {name for name, p in given.model.named_parameters() if p.requires_grad}
    base = {name for name in wanting if "lora_" not in name and "prompt_encoder" not in name}
    assert not base, before


@EVERY
def test_a_loss_that_is_not_finite_moves_nothing(tiny: Tiny, case: str) -> None:
    given = problem(tiny, case, loss=lambda model, batch: row_losses(model, batch, "fp32") * float("nan"))
    before = tensors(given)
    state, (report,) = walked(replace(given, config=given.config.model_copy(update={"max_bad": 99})), 1)
    assert same(tensors(given), before) and state.bad > 0 and report.moved is None


def test_options_of_cases_have_an_effect() -> None:
    for flags, *_ in CASES.values():
        assert set(flags) <= effective(build(flags))
