"""Meta-training: on linear tasks whose best theta is known, the mean of estimates, flat memory, and nothing half done."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_tasks import BEST, N, Rows, loss
from torch import Tensor, nn

from zofo.adapters.bank import Bank
from zofo.adapters.slots import Slots
from zofo.config import MethodConfig
from zofo.core.estimate import central
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput, NotFinite
from zofo.methods import above, bilevel, losses, meta
from zofo.methods.learner import Learner
from zofo.methods.state import Member, Problem, Report, State, from_checkpoint, to_checkpoint

RANK = 1


class Toy(nn.Module):
    """x -> (W + B A) x in fp64, with a LoRA pair of rank one for each of p and s."""

    active_adapter = "p"

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(2)
        self.linear = nn.Linear(N, N, bias=False, dtype=torch.float64).requires_grad_(False)
        self.linear.weight.zero_()
        start = torch.randn(RANK, N, generator=draw).double() / 2
        self.A = nn.ParameterDict({slot: nn.Parameter(start.clone()) for slot in "ps"})
        self.B = nn.ParameterDict({slot: nn.Parameter(torch.zeros(N, RANK).double()) for slot in "ps"})

    def set_adapter(self, name: str) -> None:
        self.active_adapter = name

    def forward(self, x: Tensor) -> Tensor:
        slot = self.active_adapter
        return self.linear(x) + x @ self.A[slot].t() @ self.B[slot].t()  # type: ignore[no-any-return]


def family(n: int) -> tuple[Member, ...]:
    return tuple(Member(f"set/{i}", Rows(str(i)), loss, None, 10 + i) for i in range(n))


OPTIONS: dict[str, Any] = dict(
    name="meta", tasks=2, T=3, lam=1.0, lr_p=0.1, lr_s=0.1, lr_theta=0.05, noise="rademacher", max_bad=3
)


def made(folder: Path, n: int = 4, steps: int = 60, **options: Any) -> Problem:
    toy, config = Toy(), MethodConfig(**(OPTIONS | options))
    leaves = tree.find(toy, keep=lambda p: p is toy.linear.weight)
    names = meta.slots(config)
    slots = Slots(toy, {s: {"A": toy.A[s], "B": toy.B[s]} for s in names})  # type: ignore[arg-type]
    members, bank = family(n), None
    if config.adapters == "own":
        bank = Bank(folder, [m.name for m in members], {s: slots.tensors(s) for s in names})
    return Problem(toy, loss, config, 0, steps, leaves, Scratch(toy, leaves), slots, members=members, bank=bank)


def walked(problem: Problem, n: int, state: State | None = None) -> tuple[State, list[Report]]:
    state, reports = meta.init(problem) if state is None else state, []
    for _ in range(n):
        state, report = meta.step(problem, state, problem.members[0].source)
        reports.append(report)
    return state, reports


def weight(problem: Problem) -> Tensor:
    assert problem.leaves is not None
    return problem.leaves.items[0].data


def after_ten_steps(W: Tensor, name: str) -> float:
    """The loss of a fresh adapter on a task after ten steps of Adam, theta standing."""
    toy, rows = Toy(), Rows(name)
    toy.linear.weight.copy_(W)
    slots = Slots(toy, {"p": {"A": toy.A["p"], "B": toy.B["p"]}})  # type: ignore[arg-type]
    problem = Problem(toy, loss, MethodConfig(), 0, 1, slots=slots)
    learner = Learner(slots.list("p"), "adam", 0.1, "constant", 0, 10, 1.0)
    for t in range(10):
        learner.step(losses.gradient(problem, rows.batch("p", "adapt", t, 1), "p", t).grads)
    with torch.no_grad():
        return float(loss(toy, rows.batch("p", "test", 0, 8)[0]).mean())


UPPER = {
    "zeroth order": {"lr_theta": 0.25, "q": 4, "T": 1},
    "sketch": {"upper": "sketch", "rank": 2, "lr_theta": 0.4, "T": 1},
}


@pytest.mark.parametrize("case", UPPER)
def test_theta_goes_to_the_best_one_and_new_tasks_are_learned_faster_from_it(case: str, tmp_path: Path) -> None:
    problem = made(tmp_path, 6, **UPPER[case])
    before = weight(problem).clone()
    walked(problem, 20)
    after = weight(problem)
    assert (after - BEST).norm() < 0.5 * (before - BEST).norm()
    for name in ("new-1", "new-2", "new-3"):
        assert after_ten_steps(after, name) < 0.5 * after_ten_steps(before, name)


@pytest.mark.parametrize("upper", ["zeroth-order", "sketch"])
def test_the_mean_of_the_estimates_is_the_estimate_of_the_mean(upper: str, tmp_path: Path) -> None:
    """Of G_1 .. G_n at one theta: by each task alone, and of their mean as one objective (or one sketch)."""
    sketch = {"rank": 2} if upper == "sketch" else {}
    problem = made(tmp_path, 3, tasks=3, upper=upper, lr_theta=1e-3, **sketch)
    walked(problem, 2)  # the tasks' adapters have moved apart
    assert problem.bank is not None and problem.slots is not None
    config, k = problem.config, 2
    todo, total = bilevel.plan(config, config.lam), None
    uppers = (
        [m.source.batch("f", "x", 0, 1) for m in problem.members],
        [m.source.batch("p", "x", 1, 1) for m in problem.members],
    )
    for member, f, p in zip(problem.members, *uppers, strict=True):
        problem.bank.into(problem.slots, member.name)
        own = problem.of(member)
        parts = above.backwards(own, k, todo, config.lam, (f, p))
        grad = above.sighted(own, State(k=k), todo, (f, p), *parts).estimate.grad
        total = grad if total is None else total.plus(grad)
    mean = total.scaled(1 / 3)

    def G() -> Tensor:
        """The mean of G_i by its definition, at the weights as they are."""
        values = []
        for member, f, p in zip(problem.members, *uppers, strict=True):
            problem.bank.into(problem.slots, member.name)  # type: ignore[union-attr, arg-type]
            terms = [losses.mean_loss(problem, b, slot) for slot, b in (("p", f), ("p", p), ("s", p))]
            values.append(terms[0] + config.lam * (terms[1] - terms[2]))
        return torch.stack(values).mean()

    if upper == "zeroth-order":
        with torch.no_grad():
            whole = central(problem.probe, lambda: G()[None], problem.directions(k), problem.eps)  # type: ignore[arg-type]
        assert mean.terms[0][0] == whole.grad.terms[0][0]
        assert mean.coefficients == pytest.approx(whole.grad.coefficients, rel=1e-9)
        return
    (leaf,) = problem.leaves.items  # type: ignore[union-attr]
    leaf.param.requires_grad_(True)
    with torch.enable_grad():
        (exact,) = torch.autograd.grad(G(), [leaf.param])
    leaf.param.requires_grad_(False)
    R = mean.projection.matrix(leaf).double()
    torch.testing.assert_close(mean.dense(leaf), exact @ R.t() @ R, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"upper": "sketch", "rank": 2, "lr_theta": 0.01}, {"q": 3}], ids=str)
def test_a_step_moves_theta_by_the_mean_of_what_each_task_would_move_it_by(options: Any, tmp_path: Path) -> None:
    """Three runs of one task each, from the same start with the same z, against one of all three."""
    moves = []
    for i in range(3):
        one = made(tmp_path, 3, tasks=1, **options)
        one = replace(one, members=one.members[i : i + 1])
        walked(one, 1)
        moves.append(weight(one).clone())
    every = made(tmp_path, 3, tasks=3, **options)
    _, (report,) = walked(every, 1)
    torch.testing.assert_close(weight(every), torch.stack(moves).mean(0), rtol=1e-6, atol=1e-8)
    assert report.numbers["tasks"] == 3 and (report.forwards, report.backwards) == passes(options, 3)


def passes(options: Any, tasks: int) -> tuple[int, int]:
    below, above = 2 * 3 * tasks, (3 if "upper" in options else 6 * options.get("q", 1)) * tasks
    return below + above, below + (above if "upper" in options else 0)


def test_with_shared_adapters_theta_and_p_together_go_to_the_best(tmp_path: Path) -> None:
    problem = made(tmp_path, 6, adapters="shared", upper="sketch", rank=2, lr_theta=0.4, T=1)
    toy = problem.model

    def gap() -> Tensor:
        return (weight(problem) + toy.B["p"] @ toy.A["p"] - BEST).norm()  # type: ignore[index, operator]

    before = gap()
    walked(problem, 20)
    assert gap() < 0.5 * before


def bank_of(problem: Problem) -> dict[str, dict[str, Tensor]]:
    """A copy of what stands in the bank, by task used."""
    assert problem.bank is not None
    return {name: {n: t.clone() for n, t in problem.bank.take(name).items()} for name in problem.bank.files}


def equal(one: dict[str, dict[str, Tensor]], two: dict[str, dict[str, Tensor]]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].keys() == two[name].keys() and all(torch.equal(t, two[name][n]) for n, t in one[name].items())
        for name in one
    )


@pytest.mark.parametrize("options", [{}, {"coupling": "outer"}, {"upper": "sketch", "rank": 2}], ids=str)
def test_an_exception_in_any_pass_leaves_the_bank_and_everything_else(options: Any, tmp_path: Path) -> None:
    calls, at = [0], [-1]

    def failing(model: nn.Module, batch: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == at[0]:
            raise KeyboardInterrupt
        return loss(model, batch)

    def tripped(problem: Problem) -> Problem:
        return replace(problem, members=tuple(replace(m, loss=failing) for m in problem.members))

    problem, straight = tripped(made(tmp_path, 3, T=1, **options)), made(tmp_path, 3, T=1, **options)
    walked(straight, 3)
    state, (*_, report) = walked(problem, 2)
    assert problem.bank is not None and problem.slots is not None
    before, theta = bank_of(problem), weight(problem).clone()
    slots, files = {s: problem.slots.tensors(s) for s in problem.slots.params}, set(problem.bank.folder.iterdir())
    for k in range(1, report.forwards + 1):
        calls[0], at[0] = 0, k
        with pytest.raises(KeyboardInterrupt):
            walked(problem, 1, state)
        assert equal(bank_of(problem), before) and torch.equal(weight(problem), theta), f"pass {k}"
        assert all(torch.equal(t, slots[s][n]) for s in slots for n, t in problem.slots.tensors(s).items())
        assert all(not learner.to_checkpoint()[1] for learner in state.learners.values())
    assert set(problem.bank.folder.iterdir()) == files, "what was written for nothing is gone"
    at[0] = -1
    walked(problem, 1, state)
    assert torch.equal(weight(problem), weight(straight)) and equal(bank_of(problem), bank_of(straight))


def test_tasks_walk_through_their_own_rows_without_gaps_and_rates_follow_the_run(tmp_path: Path) -> None:
    problem = made(tmp_path, 5, steps=6, schedule="linear", coupling="both")
    state, reports = walked(problem, 6)
    assert sum(state.uses.values()) == 12
    for member in problem.members:
        rows, n = member.source, state.uses.get(member.name, 0)
        assert [step for stream, step in rows.asked if stream == "lower"] == list(range(3 * n))  # type: ignore[attr-defined]
        assert [step for stream, step in rows.asked if stream == "upper-f"] == list(range(n))  # type: ignore[attr-defined]
    rates = [report.numbers["lr_s"] for report in reports]
    assert rates == pytest.approx([0.1 * (1 - (3 * k + 2) / 18) for k in range(6)])


def test_a_task_goes_on_from_its_own_adapters_and_moments(tmp_path: Path) -> None:
    """One task among others ends with the bits that it has alone, as long as theta stands."""
    alone, several = made(tmp_path, 1, tasks=1, lr_theta=0.0), made(tmp_path, 3, tasks=3, lr_theta=0.0)
    walked(alone, 3)
    walked(several, 3)
    assert equal(bank_of(alone), {"set/0": bank_of(several)["set/0"]})
    assert any(name.startswith("optimizer.s.") for name in bank_of(alone)["set/0"])


def test_going_on_from_a_checkpoint_with_the_banks_files(tmp_path: Path) -> None:
    whole, cut = made(tmp_path), made(tmp_path)
    walked(whole, 6)
    state, _ = walked(cut, 3)
    numbers, tensors = to_checkpoint(state)
    assert cut.bank is not None
    again = made(tmp_path)
    weight(again).copy_(weight(cut))
    again.bank.restore(cut.bank.groups())  # type: ignore[union-attr]
    ended, _ = walked(again, 3, from_checkpoint(meta.init(again), numbers, tensors))
    assert torch.equal(weight(again), weight(whole)) and equal(bank_of(again), bank_of(whole))
    assert sum(ended.uses.values()) == 12


def test_a_task_that_is_not_finite_is_left_out_and_told_and_others_keep_theirs(tmp_path: Path) -> None:
    problem, without = (made(tmp_path, 3, tasks=3, max_bad=2) for _ in range(2))
    sick = replace(problem.members[1], loss=lambda m, b: loss(m, b) * math.nan)
    problem = replace(problem, members=(problem.members[0], sick, problem.members[2]))
    without = replace(without, members=(without.members[0], without.members[2]))
    nan, ok = walked(replace(problem, config=problem.config.model_copy(update={"max_bad": 9})), 1), walked(without, 1)
    (report,), (healthy,) = nan[1], ok[1]
    assert report.numbers["tasks"] == 2 and "set/1" in report.notes[0] and "left out" in report.notes[0]
    assert torch.equal(weight(problem), weight(without)) and nan[0].bad > 0
    assert {k: v for k, v in report.numbers.items() if k != "bad"} == {
        k: v for k, v in healthy.numbers.items() if k != "bad"
    }
    others = bank_of(problem)
    with pytest.raises(NotFinite, match=r"of task set/1 was not finite \d times in a row"):
        walked(problem, 1, nan[0])
    assert equal(bank_of(problem), others)


def test_the_schedule_of_a_shared_p_goes_on_where_no_task_is_finite(tmp_path: Path) -> None:
    problem = made(tmp_path, 2, adapters="shared", coupling="outer", max_bad=9)
    walked(problem, 0)
    sick = tuple(replace(m, upper=lambda model, batch: loss(model, batch) * math.nan) for m in problem.members)
    state, _ = walked(replace(problem, members=sick), 2)
    assert state.learners["p"].t == 2 and state.bad > 0


def live() -> tuple[int, int]:
    """Tensors that live, and their bytes."""
    gc.collect()
    held = [
        o for o in gc.get_objects() if issubclass(type(o), Tensor)
    ]  # `isinstance` asks weak proxies for their class
    return len(held), sum(t.nbytes for t in held)


def test_memory_is_flat_in_the_number_of_tasks(tmp_path: Path) -> None:
    """Every task has been used: what lives in the process is the same for 3 and for 30, the files are ten times as many."""
    found, files = [], []
    for n in (3, 30):
        before = live()
        problem = made(tmp_path, n, tasks=3)
        tasks = [m.source for m in problem.members]
        state, _ = walked(problem, 1)
        for member in problem.members:  # all have rows of their own in the bank
            problem.bank.keep(member.name, meta.held(problem, state))  # type: ignore[union-attr]
        state, _ = walked(problem, 3, state)
        after = live()
        found.append((after[0] - before[0] - len(tasks), after[1] - before[1] - sum(t.V.nbytes for t in tasks)))  # type: ignore[attr-defined]
        files.append(len(list(problem.bank.folder.iterdir())))  # type: ignore[union-attr]
        del problem, state, member, tasks
    assert found[0] == found[1] and files == [3, 30]


def test_one_task_alone_is_not_enough(tmp_path: Path) -> None:
    problem = replace(made(tmp_path), members=())
    with pytest.raises(BadInput, match="--mixture"):
        meta.step(problem, meta.init(problem), Rows("x"))


@pytest.mark.parametrize("coupling", ["both", "outer", "follow"])
def test_with_shared_adapters_all_tasks_are_seen_at_one_p_and_s(coupling: str, tmp_path: Path) -> None:
    """And with `outer` p takes one step, by the mean of the tasks' gradients, before which all are seen."""
    problem = made(tmp_path, 3, tasks=3, adapters="shared", coupling=coupling)
    seen: list[tuple[Tensor, ...]] = []

    def noting(model: Any, batch: Any) -> Tensor:
        if not torch.is_grad_enabled():
            seen.append(tuple(p.detach().clone() for own in (model.A, model.B) for p in own.values()))
        return loss(model, batch)

    noted = replace(problem, members=tuple(replace(m, upper=noting) for m in problem.members))
    state, (report,) = walked(noted, 1)
    assert len(seen) == (6 if coupling != "follow" else 2) * 3
    assert all(torch.equal(a, b) for one in seen[1:] for a, b in zip(seen[0], one, strict=True))
    assert state.learners["s"].t == 9 and state.learners["p"].t == {"both": 9, "outer": 1, "follow": 0}[coupling]
    assert report.numbers["tasks"] == 3


@pytest.fixture(autouse=True)
def _cleared() -> Iterator[None]:
    """A test leaves no bank behind."""
    yield
    gc.collect()
