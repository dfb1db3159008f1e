"""A trial: the method itself takes a few steps at a rate, is judged on validation rows, and everything is as it was."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from zofo import theta0
from zofo.config import MethodConfig
from zofo.errors import NotFinite
from zofo.job import Job
from zofo.methods import table
from zofo.methods.state import Micro, State

STEPS = 16  # first-order steps of a trial
BELOW = 8  # lower-level steps an iteration in a trial of p and s (coupling `outer`: 1, for p moves above)
FEW, PASSES = 6, 40  # steps of theta at least, and backward passes after which a trial of theta ends
ROWS = 48  # validation rows that a trial is judged on
LATE = 0.75  # of a trial; what is judged is the mean of a look from then on and one at the end


Tensors = dict[str, dict[str, Tensor]]
"""Adapters by slot."""


class Show(Protocol):
    """Where it is told."""

    def note(self, text: str) -> None: ...
    def phase(self, text: str) -> None: ...


@dataclass
class Spent:
    """Passes that probing took."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Trial:
    """What came of a trial: a loss a row by slot ("theta": there is no adapter; None: not finite), and the adapters at its end."""

    losses: dict[str, list[float] | None]
    adapters: Tensors


@dataclass(frozen=True)
class Bench:
    """A job, the rows that it is judged on, and the cost so far."""

    job: Job
    rows: Micro
    spent: Spent = field(default_factory=Spent)


def bench(job: Job) -> Bench:
    """Some validation rows as batches, evenly spread: a file may be sorted, and a mixture goes task by task."""
    held = job.prepared.encoded["validation"]
    n = min(ROWS, len(held))
    rows = [held[i * len(held) // n] for i in range(n)]
    return Bench(job, job.batches.cut(rows, range(len(rows))))


def slots(job: Job) -> tuple[str, ...]:
    """What is judged: the adapters, or theta alone."""
    return tuple(job.slots.params) if job.slots is not None else ("theta",)


@torch.no_grad()
def looked(at: Bench, slot: str) -> list[float]:
    """The loss of each row that is judged on, as the model stands. Cost: a forward pass a micro-batch."""
    problem = at.job.problem
    if problem.slots is not None:
        problem.slots.use(slot)
    problem.model.eval()
    with problem.standing_still():
        found = [problem.loss(problem.model, micro).reshape(-1).cpu().double() for micro in at.rows]
    at.spent.forwards += len(at.rows)
    return [float(x) for x in torch.cat(found)]


@contextmanager
def restored(job: Job, theta: bool = True) -> Iterator[None]:
    """A block after which the adapters have the bits that they had, and theta those of the base, whatever happened.

    theta: whether it may have moved. Memory: a copy of the adapters; theta comes from disk.
    """
    before = {slot: job.slots.tensors(slot) for slot in job.slots.params} if job.slots is not None else {}
    active = str(job.slots.model.active_adapter) if job.slots is not None else ""
    try:
        yield
    finally:
        if job.slots is not None:
            for slot, tensors in before.items():
                job.slots.load(slot, tensors)
            job.slots.use(active)
        if theta and job.moves_theta:
            theta0.reset(job.leaves, job.base)
            torch.clear_autocast_cache()


def rehearsal(job: Job, rates: dict[str, float], theta: bool) -> Job:
    """The job with rates to try: constant, warm-up over a quarter of the trial at most. Unless `theta` is tried, it stands still, and its estimate is the cheapest one."""
    m = job.config.method
    update: dict[str, Any] = {
        "schedule": "constant",
        "schedule_theta": "constant",
        "lam_schedule": "constant",
        "lam_every": 1,
    }
    update |= {"warmup": min(m.warmup, STEPS // 4), "stage_one": job.problem.steps + STEPS}
    if not theta:
        update |= {"lr_theta": 0.0, "T": 1 if m.coupling == "outer" else BELOW, "estimator": "forward", "q": 1}
    return with_method(job, m.model_copy(update=update | rates))


def with_method(job: Job, method: MethodConfig) -> Job:
    """The job with other options of its method."""
    config = job.config.model_copy(update={"method": method})
    return replace(job, config=config, problem=replace(job.problem, config=method))


def run(at: Bench, rates: dict[str, float], tried: Collection[str]) -> Trial:
    """Take a trial's steps from the start on the run's own first batches, and judge the slots that are tried.

    Args: rates, by option, instead of those configured; tried, slots of adapters, or "theta" alone (judged with p where there
    is one). Cost: STEPS steps of those slots' learners (theta: FEW steps at least), and two looks. Raises nothing for what diverges.
    """
    theta = "theta" in tried
    job = rehearsal(at.job, rates, theta)
    looks: dict[str, list[list[float]]] = {slot: [] for slot in tried}
    with restored(job, theta):
        state = job.begin()
        began = at.spent.backwards
        try:
            while (done := part(state, tried, theta, at.spent.backwards - began)) < 1:
                state = stepped(at, job, state)
                now = part(state, tried, theta, at.spent.backwards - began)
                if now >= 1 or done < LATE <= now:
                    for slot, found in looks.items():
                        found.append(looked(at, "p" if slot == "theta" and job.slots is not None else slot))
        except NotFinite:
            return Trial(dict.fromkeys(tried), {})
        adapters = {slot: job.slots.tensors(slot) for slot in job.slots.params} if job.slots is not None else {}
    return Trial({slot: mean(found) for slot, found in looks.items()}, adapters)


def stepped(at: Bench, job: Job, state: State) -> State:
    """A step of the method."""
    made: State
    made, report = job.method.step(job.problem, state, job.batches)
    at.spent.forwards += report.forwards
    at.spent.backwards += report.backwards
    return made


def part(state: State, tried: Collection[str], theta: bool, backwards: int) -> float:
    """How much of a trial is done."""
    if theta:
        return max(state.k / STEPS, min(state.k / FEW, backwards / PASSES))
    return min(state.learners[slot].t for slot in tried) / STEPS


def mean(looks: Sequence[Sequence[float]]) -> list[float] | None:
    """The mean of some looks, by row; None where it is not finite."""
    found = [sum(row) / len(looks) for row in zip(*looks, strict=True)]
    return found if found and all(map(math.isfinite, found)) else None


def by_curvature(job: Job) -> bool:
    """Whether theta's rate goes by its curvature along z: zeroth order alone moves it."""
    return table.zeroth(job.config.method) and not table.exact(job.config)


def with_options(at: Bench, **options: float) -> Bench:
    """A bench with other options of the method."""
    return replace(at, job=with_method(at.job, at.job.config.method.model_copy(update=options)))
