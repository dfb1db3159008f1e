"""`zofo.Bilevel`: the bilevel solver for anybody's loop, model, data and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftConfig
from torch import Tensor, nn

from zofo.adapters.slots import Slots, attach
from zofo.config import build
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.methods import bilevel
from zofo.methods.state import Problem, Report, State, from_checkpoint, to_checkpoint


class Bilevel:
    """Bilevel-ZOFO on a model: p and s are attached to it, and `step` makes one outer iteration.

        solver = zofo.Bilevel(model, lora_config, loss=fn, lam=10.0, T=10)
        solver.step(lower=[(batch_s, batch_p), ...], upper=(batch_f, batch_p))

    Args:
        model: a causal model (changed in place: peft puts the adapters into it, the base is frozen).
        adapter: a peft configuration, or a `zofo.config.AdapterConfig`.
        loss: fn(model, batch) -> a loss a row, shape (rows,), in fp32 at least.
        steps: planned outer iterations, for schedules. seed: of noise, adapters and dropout.
        train_mode: lower-level steps run in train mode (dropout on).
        options: the method's, by the names that `zofo train --help` lists (lam, T, coupling, eps, ...).
    Raises: BadInput for an unknown option or a value out of range.
    Cost and reference: see `zofo.methods.bilevel.iterate`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: PeftConfig | Any,
        loss: Callable[[nn.Module, Any], Tensor],
        *,
        seed: int = 0,
        steps: int = 1,
        train_mode: bool = False,
        **options: Any,
    ) -> None:
        config = build({f"method.{name}": value for name, value in options.items()}).method
        leaves = tree.find(model)
        self.slots: Slots = attach(model, adapter, bilevel.slots(config), seed, config.init == "shared")
        probe = Scratch(self.slots.model, leaves) if config.probe == "scratch" else Inplace(leaves)
        self.problem = Problem(self.slots.model, loss, config, seed, steps, leaves, probe, self.slots, train_mode)
        self.state: State = bilevel.init(self.problem)

    @property
    def model(self) -> nn.Module:
        """The peft model that holds theta, p and s; `solver.slots.use("p")` chooses the adapter."""
        return self.problem.model

    def step(self, lower: Sequence[tuple[Any, Any]], upper: tuple[Any, Any]) -> Report:
        """One outer iteration: T pairs (batch_s, batch_p) below, (batch_f, batch_p) above.

        A batch is whatever `loss` takes; a list of them is accumulated. With coupling `both`, batch_p of
        a lower pair is p's mixed batch. On an exception nothing has changed.
        """
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


def micro(batch: Any) -> Sequence[Any]:
    """A list or tuple of batches as it is (micro-batches), anything else as one."""
    return batch if isinstance(batch, list) else [batch]
