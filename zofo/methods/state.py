"""What every method shares: the problem it works on, its state, and the report of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor, nn

from zofo.adapters.bank import Bank
from zofo.adapters.slots import Slots
from zofo.config import MethodConfig
from zofo.core import rules
from zofo.core.noise import Direction, Law
from zofo.core.probe import Probe
from zofo.core.rules import RuleState
from zofo.core.streams import key
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.move import Moved
from zofo.core.weights.shadow import Shadow
from zofo.errors import NotFinite
from zofo.methods.learner import Learner

Micro = Sequence[Any]
"""A batch: a sequence of micro-batches, in whatever form the loss takes them. The mean is over all their rows."""


class Source(Protocol):
    """Where a method's batches come from: pure functions of (seed, stream, step)."""

    def batch(self, part: str, stream: str, step: int, micro: int) -> Micro:
        """Return `micro` micro-batches of a part of the training rows: "f", "p" or "all"."""
        ...

    def mixed(self, stream: str, step: int, micro: int, share: float) -> Micro:
        """Return micro-batches whose rows come from D_f with probability `share`, else from D_p, with replacement."""
        ...


@dataclass(frozen=True)
class Member:
    """One training task of several: its name, its batches, its losses a row (as `Problem` has them), and how many rows it has."""

    name: str
    source: Source
    loss: Callable[[nn.Module, Any], Tensor]
    upper: Callable[[nn.Module, Any], Tensor] | None
    rows: int


EPS = 1e-3  # the probe size where nothing says otherwise, and everything is computed in fp32


def law_of(config: MethodConfig) -> Law:
    """The law of z by its full name."""
    return f"low-rank-{config.rank}" if config.noise == "low-rank" else config.noise


@dataclass(frozen=True)
class Problem:
    """The fixed things: model, loss a row (p and s descend it), adapters, zeroth-order weights and how they are probed, options, seed."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    config: MethodConfig
    seed: int
    steps: int
    leaves: Leaves | None = None
    probe: Probe | None = None
    slots: Slots | None = None
    upper: Callable[[nn.Module, Any], Tensor] | None = None  # what zeroth order minimises instead of the loss
    stacks: bool = False  # whether the upper loss is a loss a row of zofo's batches, which can be merged
    scale: float = 1.0  # of the loss in backward passes: fp16 gradients would underflow
    shadow: Shadow | None = None  # half-precision copies of the weights for passes at theta
    members: tuple[Member, ...] = ()  # the training tasks, where there are several
    bank: Bank | None = None  # of tasks' own adapters
    task: str = ""  # the member that passes are for: what they draw and what they count is its own

    @property
    def loss_above(self) -> Callable[[nn.Module, Any], Tensor]:
        """What the zeroth-order level minimises, a row."""
        return self.upper or self.loss

    def of(self, member: Member) -> Problem:
        """The problem of one task: its losses, and streams and counts of its own; z and R are the same for all."""
        return replace(self, loss=member.loss, upper=member.upper, task=member.name)

    def stream(self, name: str) -> str:
        """The name of a stream of random numbers, the task's own where passes are for one."""
        return f"{name}/{self.task}" if self.task else name

    @property
    def eps(self) -> float:
        """The probe size."""
        return self.config.eps or EPS

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """A block of passes at theta, which does not move in it: through the shadow where there is one."""
        with self.shadow.shown() if self.shadow is not None else nullcontext():
            yield

    def directions(self, step: int, *, stream: str = "noise") -> list[Direction]:
        """The q directions of a step."""
        assert self.leaves is not None
        return [
            self.leaves.direction(law_of(self.config), key(self.seed, stream, step, i)) for i in range(self.config.q)
        ]


@dataclass(frozen=True)
class State:
    """Steps done, non-finite steps (all; and in a row, by who steps: "p", "s", "upper"), the rule's state, learners by slot ("theta": of all weights).

    uses: how often each of several tasks was used.
    """

    k: int = 0
    bad: int = 0
    in_a_row: Mapping[str, int] = field(default_factory=dict)
    rule: RuleState = field(default_factory=RuleState)
    learners: dict[str, Learner] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a step says: numbers for the metrics, the movement of theta as applied (for the journal), and what to tell the user."""

    numbers: Mapping[str, float]
    moved: Moved | None = None
    forwards: int = 0
    backwards: int = 0
    notes: tuple[str, ...] = ()


def tally(problem: Problem, state: State, finite: bool, who: str, what: str) -> State:
    """Count the outcome of a step of p, s or the upper level, of each task apart. Raises `NotFinite` after `max_bad` bad ones of it in a row."""
    of, who = (f" of task {problem.task}", f"{problem.task}: {who}") if problem.task else ("", who)
    row = 0 if finite else state.in_a_row.get(who, 0) + 1
    state = replace(state, bad=state.bad + (not finite), in_a_row={**state.in_a_row, who: row})
    if row >= problem.config.max_bad:
        raise NotFinite(
            f"step {state.k + 1}",
            f"{what}{of} was not finite {row} times in a row (seed {problem.seed})",
            f"in a new run lower the learning rates (or lambda, where there is one){', leave the task out' if problem.task else ''}, or raise --method.max_bad",
        )
    return state


def to_checkpoint(state: State, copy: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split a state into JSON numbers and tensors (the adapters and theta themselves are not in it).

    copy: whether the learners' moments are copied, so that they outlive the next step.
    """
    numbers, tensors = rules.to_dict(state.rule)
    held = {f"rule.{name}": t for name, t in tensors.items()}
    learners = {}
    for slot, learner in state.learners.items():
        learners[slot], moments = learner.to_checkpoint(copy)
        held |= {f"{slot}.{name}": t for name, t in moments.items()}
    return {
        "k": state.k,
        "bad": state.bad,
        "in_a_row": dict(state.in_a_row),
        "rule": numbers,
        "learners": learners,
        "uses": dict(state.uses),
    }, held


def from_checkpoint(state: State, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
    """Fill a fresh state (from `init`) with what `to_checkpoint` split."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    for slot, learner in state.learners.items():
        learner.from_checkpoint(numbers["learners"][slot], part(f"{slot}."))
    here = state.rule.moments  # on the device they belong to
    moments = {name: t.to(here[name].device) if name in here else t for name, t in part("rule.").items()}
    rule = rules.from_dict(numbers["rule"], moments)
    counts = {"in_a_row": dict(numbers["in_a_row"]), "uses": dict(numbers.get("uses", {}))}  # older runs have no uses
    return replace(state, k=numbers["k"], bad=numbers["bad"], rule=rule, **counts)
