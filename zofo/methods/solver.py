"""`zofo.Bilevel`: the bilevel solver for anybody's loop, model, data and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftConfig
from torch import Tensor, nn

from zofo.adapters.slots import Slots, attach
from zofo.config import MethodConfig, build
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods import bilevel
from zofo.methods import plan as plans
from zofo.methods.check import check
from zofo.methods.state import Problem, Report, State, from_checkpoint, to_checkpoint


class Bilevel:
    """Bilevel-ZOFO on a model: p and s are attached to it, and `step` makes one outer iteration.

        solver = zofo.Bilevel(model, lora_config, loss=fn, lam=10.0, T=10)
        solver.step(lower=[(batch_s, batch_p), ...], upper=(batch_f, batch_p))

    Args:
        model: a causal model (changed in place: peft puts the adapters into it, the base is frozen).
        adapter: a peft configuration, or a `zofo.config.AdapterConfig`.
        loss: fn(model, batch) -> a loss a row, shape (rows,), in fp32 at least.
        steps: planned outer iterations, which a schedule needs. seed: of noise, adapters and dropout.
        options: the method's, by the names that `zofo train --help` lists (lam, T, coupling, eps, ...).
    The adapter's own dropout is on in lower-level steps; everything else runs in eval mode.
    Raises: BadInput for an unknown option, a value out of range, or an option without effect.
    Cost and reference: see `zofo.methods.bilevel.iterate`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: PeftConfig | Any,
        loss: Callable[[nn.Module, Any], Tensor],
        *,
        seed: int = 0,
        steps: int | None = None,
        **options: Any,
    ) -> None:
        config = checked(options, steps)
        leaves = tree.find(model)
        self.slots: Slots = attach(model, adapter, plans.slots(config), seed, config.init == "shared")
        probe = Scratch(self.slots.model, leaves) if config.probe == "scratch" else Inplace(leaves)
        self.problem = Problem(self.slots.model, loss, config, seed, steps or 1, leaves, probe, self.slots)
        self.state: State = bilevel.init(self.problem)

    @property
    def model(self) -> nn.Module:
        """The peft model that holds theta, p and s; `solver.slots.use("p")` chooses the adapter."""
        return self.problem.model

    def step(self, lower: Sequence[tuple[Any, Any]], upper: tuple[Any, Any]) -> Report:
        """One outer iteration: T pairs (batch_s, batch_p) below, (batch_f, batch_p) above.

        A batch is whatever `loss` takes; a list of them is accumulated. With coupling `both`, batch_p of
        a lower pair is p's mixed batch. Raises: BadInput when the pairs are not those that the options ask for.
        On an exception at any forward or backward pass nothing has changed.
        """
        config = self.problem.config
        todo = plans.plan(config, plans.lam_at(config, self.state.k, self.problem.steps))
        wanted = config.T if todo.below else 0
        if len(lower) != wanted or (todo.mixed and any(p is None for _, p in lower)):
            each = "(batch_s, batch_p) pairs, batch_p p's mixed batch" if todo.mixed else "(batch_s, None) pairs"
            raise BadInput(f"Bilevel.step(lower={len(lower)} pairs)", f"{wanted} {each} are needed", "give T of them")
        pairs = [(micro(s), None if p is None else micro(p)) for s, p in lower]
        self.state, report = bilevel.iterate(self.problem, self.state, pairs, (micro(upper[0]), micro(upper[1])))
        return report

    def state_dict(self) -> dict[str, Any]:
        """Step counts, the rule's state, the learners' moments, and both adapters (theta is the model's own)."""
        numbers, tensors = to_checkpoint(self.state)
        return {"numbers": numbers, "tensors": tensors, "slots": {s: self.slots.tensors(s) for s in self.slots.params}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.state = from_checkpoint(bilevel.init(self.problem), state["numbers"], state["tensors"])
        for slot, tensors in state["slots"].items():
            self.slots.load(slot, tensors)


def checked(options: dict[str, Any], steps: int | None) -> MethodConfig:
    """The method's options, validated as `zofo train` does."""
    if "name" in options:
        raise BadInput(f"Bilevel(name={options['name']!r})", "this is the bilevel solver", "leave `name` out")
    if "objective" in options:
        raise BadInput("Bilevel(objective=...)", "the objective is the loss that you give", "leave it out")
    for name in ("probe_dtype", "stack"):
        if name in options:
            found = "your loss says how it is computed, a point at a time"
            raise BadInput(f"Bilevel({name}=...)", found, "leave it out")
    config = build({f"method.{name}": value for name, value in options.items()})
    check(config, [f"method.{name}" for name in options])
    moving = [
        name for name in ("schedule", "schedule_theta", "lam_schedule") if getattr(config.method, name) != "constant"
    ]
    if moving and steps is None:
        raise BadInput(f"Bilevel({moving[0]}=...)", "a schedule needs the number of iterations", "give steps=N")
    return config.method


def micro(batch: Any) -> Sequence[Any]:
    """A list or tuple of batches as it is (micro-batches), anything else as one."""
    return batch if isinstance(batch, list) else [batch]
