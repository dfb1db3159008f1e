"""Bilevel meta-training (arXiv 2502.03604, section 4.2): one theta for many tasks, each with adapters p_i and s_i of its own.

    min over theta   mean over tasks i of   min over p_i, max over s_i of   G_i = A_i + lambda (B_i - C_i)

An outer iteration: a few tasks; for each, T first-order steps below from where its adapters were, and an estimate of
G_i's gradient in theta, with one z (or one R) for all; then one step of theta by the mean of the estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from zofo.adapters import bank
from zofo.adapters.bank import Keep
from zofo.core.probe import Objective
from zofo.core.weights import move
from zofo.methods import above, bilevel, losses, theta
from zofo.methods.above import Sight
from zofo.methods.losses import Slope
from zofo.methods.plan import Plan, lam_at, plan
from zofo.methods.plan import slots as slots
from zofo.methods.state import Member, Problem, Report, Source, State, tally
from zofo.methods.tasks import averaged, left_out, sampled, used
from zofo.methods.undo import whole, within


def init(problem: Problem) -> State:
    """The state before the first iteration. Memory: as bilevel's, of one task's adapters and moments, however many there are."""
    n = 1 if problem.config.adapters == "own" else min(problem.config.tasks, max(1, len(problem.members)))
    return State(rule=theta.init(problem), learners=bilevel.learners(problem, n))


@dataclass
class Gathered:
    """What the tasks of an iteration have said so far: the sum of their estimates, numbers, who is left out, passes."""

    grad: Any = None
    numbers: list[dict[str, float]] = field(default_factory=list)
    others: list[dict[str, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    forwards: int = 0
    backwards: int = 0

    def add(self, name: str, sight: Sight, passes: tuple[int, int]) -> None:
        """Add what a task said; where it is not finite, its passes alone count."""
        self.forwards, self.backwards = self.forwards + passes[0], self.backwards + passes[1]
        if not sight.finite:
            self.names.append(name)
            self.others.append(sight.numbers)
            return
        self.numbers.append(sight.numbers)
        self.grad = sight.estimate.grad if self.grad is None else self.grad.plus(sight.estimate.grad)

    def mean(self) -> Any:
        """The mean of the estimates (None: there is none)."""
        return None if self.grad is None else self.grad.scaled(1 / len(self.numbers))


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One outer iteration; on an exception at any pass nothing has changed: theta, slots, learners, tasks at rest. theta moves last.

        for each of min(tasks, all) tasks i:
            for t < T:   s_i <- s_i - lr_s grad_s C_i        (both: and p_i by its mixed batch; outer: p_i once, above)
            g_i = c_i z,   c_i = [ G_i(theta_k + eps z) - G_i(theta_k - eps z) ] / (2 eps)        (upper `sketch`: Q_i R)
        theta <- theta - lr_theta rule( mean_i g_i )

    Each task walks through its own rows by the times that it was used. One with a loss above that is not finite is left
    out of the mean, and told. `adapters shared`: the tasks take turns below with one p and s, T steps each; then all are seen.
    Raises: NotFinite after `max_bad` non-finite steps in a row of one task, with its name; BadInput without tasks.
    Cost: bilevel's a task (`bilevel.iterate`), and a read and a write of its adapters and moments. Memory: as bilevel's,
    and with upper `sketch` a second Q. Reference: arXiv 2502.03604, section 4.2; the mean over tasks is zofo's reading.
    """
    k, members, found = state.k, sampled(problem, state.k), Gathered()
    todo, lr_theta, moved = plan(problem.config, lam_at(problem.config, k, problem.steps)), theta.rate(problem, k), None
    resting = problem.bank.changing() if problem.bank is not None else nullcontext()
    with whole(problem, state) as undo, resting as keep:
        state = together(problem, state, todo, members, found) if keep is None else apart(problem, state, todo, members, found, keep)  # fmt: skip
        grad, numbers = found.mean(), averaged(found.numbers or found.others)
        undo.possible = False
        if grad is not None and move.fits(grad, lr_theta):
            numbers |= theta.size(problem, grad)
            state, moved = theta.move_by(problem, state, grad, lr_theta)
    state = replace(state, k=k + 1, uses=used(state, members))
    numbers |= {"tasks": len(found.numbers), "lr_theta": lr_theta, "bad": state.bad}
    return state, Report(numbers, moved, found.forwards, found.backwards, left_out(found.names, "the upper level"))


def apart(problem: Problem, state: State, todo: Plan, members: Sequence[Member], found: Gathered, keep: Keep) -> State:
    """Each task with its own adapters and moments, one after another: fetched, trained, seen, and put to rest."""
    for member in members:
        own = problem.of(member)
        with within(own):
            lower, upper = bilevel.drawn(problem, state.k, member.source, state.uses.get(member.name, 0))
            fetch(problem, state, member.name)
            state, sight = bilevel.explore(own, state, todo, [(own, *pair) for pair in lower], upper)
            keep(member.name, held(problem, state))
        found.add(member.name, sight, bilevel.passes(problem.config, todo, lower, upper, sight.estimate))
        del sight  # or its sketch would stand beside the next task's
    rest(problem, state)
    return state


def together(problem: Problem, state: State, todo: Plan, members: Sequence[Member], found: Gathered) -> State:
    """All tasks with one p and s: below by turns, a step of each task T times; then each is seen, all at the same p and s."""
    drawn = [bilevel.drawn(problem, state.k, m.source, state.uses.get(m.name, 0)) for m in members]
    owns, parts = [problem.of(member) for member in members], list[Slope]()
    turns, lam = zip(*(lower for lower, _ in drawn), strict=True), lam_at(problem.config, state.k, problem.steps)
    with problem.standing_still():
        steps = [(own, *pair) for turn in turns for own, pair in zip(owns, turn, strict=True)]
        state, said = bilevel.below(problem, state, todo, steps)
    for own, (lower, upper) in zip(owns, drawn, strict=True):
        with within(own):
            with problem.standing_still():
                slope, sketch = above.backwards(own, state.k, todo, lam, upper)
            sight = above.sighted(own, state, todo, upper, slope, sketch)
        numbers = {"lam": todo.lam(lam), **said.get(own.task, {})}
        if slope is not None and sight.finite and theta.finite(slope.grads):
            parts.append(slope)
            numbers |= {"loss_p": slope.loss, "lr_p": state.learners["p"].rate}
        elif slope is not None:
            sight = replace(sight, finite=False)
        state, sight = bilevel.stepped(own, state, replace(sight, slope=None))
        sight = replace(sight, numbers=numbers | sight.numbers)
        found.add(own.task, sight, bilevel.passes(problem.config, todo, lower, upper, sight.estimate))
    if parts:
        finite = state.learners["p"].step(losses.weighted([(1 / len(parts), slope) for slope in parts]))
        state = tally(problem, state, finite, "p", "the mean of the tasks' gradients of p")
    elif todo.p_above:
        state.learners["p"].skip()
    return state


def fetch(problem: Problem, state: State, name: str) -> None:
    """A task's adapters and moments into the slots and learners; the rates are those of this time of the run."""
    assert problem.bank is not None and problem.slots is not None
    tensors = problem.bank.take(name)
    bank.load(problem.slots, tensors)
    for slot, learner in state.learners.items():
        prefix = f"optimizer.{slot}."
        moments = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        learner.from_checkpoint({"t": bilevel.taken(problem, slot, state.k)}, moments)


def held(problem: Problem, state: State) -> dict[str, Tensor]:
    """What is put to rest of a task: the tensors of its adapters and moments themselves, not copies."""
    assert problem.slots is not None
    made = {f"adapter.{slot}.{name}": p for slot, own in problem.slots.params.items() for name, p in own.items()}
    moments = {slot: learner.to_checkpoint(copy=False)[1] for slot, learner in state.learners.items()}
    return made | {f"optimizer.{slot}.{name}": t for slot, own in moments.items() for name, t in own.items()}


def rest(problem: Problem, state: State) -> None:
    """Between iterations the slots hold the start, and the learners nothing."""
    assert problem.bank is not None and problem.slots is not None
    problem.bank.rest(problem.slots)
    for learner in state.learners.values():
        learner.from_checkpoint({"t": 0}, {})


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What theta's next step looks at, of the rows that `source` gives (a task's; where points are timed, of several tasks)."""
    return bilevel.objective(problem, state, source)
