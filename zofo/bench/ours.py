"""The kinds that are zofo's methods, as `zofo train` runs them, on one batch again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from zofo.adapters.slots import Slots
from zofo.bench.how import LEARNING, RATE, TINY, How, Step, linear, twin
from zofo.config import AdapterConfig, MethodConfig
from zofo.core.kernels.reference import rank_of
from zofo.core.noise import Law
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights import move
from zofo.core.weights.head import output_head
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.shadow import Shadow
from zofo.methods.state import Problem, State
from zofo.scoring.batch import Batch
from zofo.scoring.objective import HALF


@dataclass
class Same:
    """A source that gives the same batch again and again."""

    made: Batch

    def batch(self, part: str, stream: str, step: int, micro: int) -> list[Batch]:
        """The batch."""
        return [self.made]

    def mixed(self, stream: str, step: int, micro: int, share: float) -> list[Batch]:
        """The batch."""
        return [self.made]


@dataclass
class Method:
    """A method's steps, one after another: `module` is one of `zofo.methods`, with `init` and `step`."""

    module: Any
    problem: Problem
    source: Same
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.module.init(self.problem)

    def step(self) -> None:
        """One step."""
        self.state, _ = self.module.step(self.problem, self.state, self.source)


def problem(
    model: nn.Module, config: MethodConfig, how: How, slots: Slots | None = None, backwards: bool = False
) -> Problem:
    """What a method works on, theta moving, exactly probed; with a shadow where there are backward passes."""
    leaves = tree.find(model) if slots is None else slots_base(slots)
    half = how.dtype in HALF and (slots is not None or backwards)
    shadow = Shadow(leaves, HALF[how.dtype], without=output_head(model)) if half else None
    probe = Scratch(model if slots is None else slots.model, leaves, how.stack)
    called = model if slots is None else slots.model
    return Problem(called, how.losses, config, 0, 1000, leaves, probe, slots, stacks=True, shadow=shadow)


def slots_base(slots: Slots) -> Leaves:
    """The base's weights under the adapters."""
    adapter = {id(p) for own in slots.params.values() for p in own.values()}
    return tree.find(slots.model, keep=lambda p: id(p) not in adapter)


def zeroth_order(model: nn.Module, made: Batch, how: How) -> Step:
    """`mezo` as `zofo train` runs it, over all weights: two losses and the update."""
    from zofo.methods import mezo as method

    config = MethodConfig(name="mezo", noise=cast(Any, base(how.law)), rank=rank(how.law), lr_theta=RATE)
    return Method(method, problem(model, config, how), Same(made)).step


def base(law: Law) -> str:
    """A law's name as the configuration has it."""
    return "low-rank" if rank_of(law) else law


def rank(law: Law) -> int:
    """A law's rank, as the configuration has it."""
    return rank_of(law) or 8


def first_order(model: nn.Module, made: Batch, how: How, targets: Sequence[str] = ()) -> Step:
    """zofo's first-order method with LoRA as `zofo train --preset fo-lora` has it, on the same batch."""
    from zofo.adapters.slots import attach
    from zofo.methods import first_order as method

    slots = attach(twin(model), AdapterConfig(targets=tuple(targets)), ("p",), 0)
    config = MethodConfig(name="first-order", lr_p=LEARNING)
    half = HALF.get(how.dtype)
    still = None if half is None else Shadow(slots_base(slots), half, still=True, without=output_head(slots.model))
    given = Problem(slots.model, how.losses, config, seed=0, steps=1000, slots=slots, shadow=still)
    return Method(method, given, Same(made)).step


def first_order_all(model: nn.Module, made: Batch, how: How) -> Step:
    """The same with LoRA on every linear layer."""
    return first_order(model, made, how, linear(model))


def sketched(model: nn.Module, made: Batch, how: How) -> Step:
    """`sketch` over all weights, rule `normalised`, which keeps nothing."""
    from zofo.methods import sketch as method

    config = MethodConfig(name="sketch", rule="normalised", noise="rademacher", lr_theta=RATE)
    return Method(method, problem(model, config, how, backwards=True), Same(made)).step


def bilevel(model: nn.Module, made: Batch, how: How, T: int) -> Step:
    """Bilevel-ZOFO's outer iteration with coupling `outer`, LoRA for p and s: T steps below, p's gradient, six losses, both updates."""
    from zofo.adapters.slots import attach
    from zofo.methods import bilevel as method

    config = MethodConfig(coupling="outer", T=max(1, T), noise="rademacher", lr_theta=RATE)
    slots = attach(twin(model), AdapterConfig(), ("p", "s"), 0)
    task = problem(slots.model, config, how, slots)
    held = [method.init(task)]

    def step() -> None:
        held[0], _ = method.iterate(task, held[0], [([made], None)] * T, ([made], [made]))

    return step


def upper(model: nn.Module, made: Batch, how: How) -> Step:
    """The upper level alone."""
    return bilevel(model, made, how, 0)


def iteration(model: nn.Module, made: Batch, how: How) -> Step:
    """An iteration of T = 10."""
    return bilevel(model, made, how, 10)


def noise_pass(model: nn.Module, made: Batch, how: How) -> Step:
    """theta <- theta + a z over all weights: what a step's update is."""
    leaves = tree.find(model)
    return lambda: move.replay(leaves, how.law, ((1, TINY),))
