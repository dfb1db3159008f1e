"""`zofo.Bilevel`: the bilevel solver for anybody's loop, model, data and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from zofo.adapters.slots import Slots, attach, refuse_adapted
from zofo.config import AdapterConfig
from zofo.core.optim import differing, shapes, warn_half_loss
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.probe.stand import check_own, check_there, owned
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.methods import bilevel
from zofo.methods import plan as plans
from zofo.methods.given import checked, loss_of, refuse_kind
from zofo.methods.state import Problem, Report, State, from_checkpoint, to_checkpoint
from zofo.scoring.objective import as_found


class Bilevel:
    """Bilevel-ZOFO on a model: p and s are attached to it, and `step` makes one outer iteration.

        solver = zofo.Bilevel(model, lora_config, loss=fn, lam=10.0, T=10)
        solver.step(lower=[(batch_s, mixed), ...], upper=(batch_f, batch_p))

    Args:
        model: a causal model (changed in place: peft puts the adapters into it, the base is frozen). theta: its weights that
            require a gradient when it is given; those that do not stay as they are.
        adapter: a peft configuration, or a `zofo.config.AdapterConfig`.
        loss: fn(model, batch) -> a loss a row, shape (rows,), or their mean, in fp32 at least.
        steps: planned outer iterations, which a schedule needs. seed: of noise, adapters and dropout.
        options: the method's, by the names that `zofo train --help` lists (lam, T, coupling, eps, ...).
    The adapter's own dropout is on in first-order lower-level steps; everything else runs in eval mode. After a step every module is in
    the mode that it was found in (the adapters begin in the model's).
    Raises: BadInput for an unknown option, a value out of range, an option without effect, a model that is frozen altogether, or an adapter that is no configuration.
    Cost and reference: see `zofo.methods.bilevel.iterate`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: PeftConfig | AdapterConfig,
        loss: Callable[[nn.Module, Any], Tensor],
        *,
        seed: int = 0,
        steps: int | None = None,
        **options: Any,
    ) -> None:
        refuse_kind(model, adapter)
        config, self.probed = checked(options, steps), set[torch.dtype]()
        leaves = free(model)
        tree.warn_half_vectors(leaves)
        with as_free_on_error(model):
            self.slots: Slots = attached(model, adapter, plans.slots(config), seed, config.init == "shared")
        probe = Scratch(self.slots.model, leaves, several=True) if config.probe == "scratch" else Inplace(leaves)
        self.problem = Problem(
            self.slots.model, partial(loss_of, loss, self.probed), config, seed, steps or 1, leaves, probe, self.slots
        )
        self.state: State = bilevel.init(self.problem)
        self.dtypes = dtypes(self.slots, leaves)

    @property
    def model(self) -> nn.Module:
        """The peft model that holds theta, p and s. p is active after a step; `solver.slots.use("s")` chooses s.

        An adapter that peft saves alone fits the theta that was trained with it, not the model's files: save both.
        """
        return self.problem.model

    def step(self, lower: Sequence[tuple[Any, Any]], upper: tuple[Any, Any]) -> Report:
        """One outer iteration: T pairs (batch_s, mixed) below, (batch_f, batch_p) above. p is the active adapter after it.

        batch_s and batch_p are of D_p, batch_f of D_f. mixed is p's own batch with coupling `both`: of D_f with probability
        1 / (1 + lambda), else of D_p; with others it may be None. Where nothing learns below (lambda 0 with `outer`; `lam_every`,
        between two looks at the penalty) the pairs are not used. A batch is whatever `loss` takes; a list of them is accumulated.
        Raises: BadInput when the pairs are not those that the options ask for, for a list of tensors of several kinds, for a loss that is no tensor or not one a row,
        or for a model that was converted to another type since.
        On an exception at any forward or backward pass nothing has changed.
        """
        self.refuse_converted()
        config, lower = self.problem.config, list(lower)
        refuse_other(upper)
        todo = plans.plan(config, plans.lam_at(config, self.state.k, self.problem.steps))
        used = lower if todo.below else ()
        if todo.below and (len(used) != config.T or (todo.mixed and any(p is None for _, p in used))):
            each = "(batch_s, mixed) pairs, mixed p's own batch" if todo.mixed else "(batch_s, None) pairs"
            raise BadInput(
                f"Bilevel.step(lower={len(lower)} pairs)",
                f"{config.T} {each} are needed",
                f"give {config.T} of them, T",
            )
        pairs = [(micro(s), None if p is None else micro(p)) for s, p in used]
        with as_found(self.model):
            self.state, report = bilevel.iterate(self.problem, self.state, pairs, (micro(upper[0]), micro(upper[1])))
        self.slots.use("p")
        if self.state.k == 1:
            warn_half_loss(self.probed, "loss=", stacklevel=3)
        return report

    def refuse_converted(self) -> None:
        """Raise BadInput where weights were replaced, or the model converted to another type: what is kept beside them is of the old ones."""
        assert self.problem.leaves is not None
        places = owned(self.problem.leaves)
        check_there(places, self.model, "Bilevel.step")
        check_own(places, "Bilevel.step")
        for name, dtype in dtypes(self.slots, self.problem.leaves).items():
            if dtype != self.dtypes[name]:
                found = f"{name} was {self.dtypes[name]} when the solver was made, and is {dtype} now"
                raise BadInput("Bilevel.step", found, "convert the model before a Bilevel is made of it")

    def state_dict(self) -> dict[str, Any]:
        """Step counts, the rule's state, the learners' moments, and both adapters (theta is the model's own)."""
        numbers, tensors = to_checkpoint(self.state)
        return {
            "numbers": numbers,
            "tensors": copies(tensors),
            "slots": {s: self.slots.tensors(s) for s in self.slots.params},
            "options": {name: getattr(self.problem.config, name) for name in KIND},
            "shapes": shapes(moving(self.slots.params, self.problem.leaves)),
            "seed": self.problem.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, its seed too. Raises: BadInput, and nothing has changed, for what is no state of a solver's, or one of a solver with other rules, adapters or free weights."""
        self.refuse_foreign(state)
        problem = replace(self.problem, seed=state.get("seed", self.problem.seed))
        made = from_checkpoint(bilevel.init(problem), state["numbers"], copies(state["tensors"]))
        for slot, tensors in state["slots"].items():
            self.slots.load(slot, tensors)
        self.problem, self.state = problem, made

    def refuse_foreign(self, state: Mapping[str, Any]) -> None:
        """Raise BadInput for a state that this solver cannot go on from. Older states say less."""
        asked = "Bilevel.load_state_dict"
        if missing := [key for key in ("numbers", "tensors", "slots") if key not in state]:
            raise BadInput(
                asked, f"this is no state of a Bilevel's: it has no {missing[0]!r}", "give what state_dict() returned"
            )
        for name, other in state.get("options", {}).items():
            if (own := getattr(self.problem.config, name)) != other:
                found = f"the state is of {name} {other!r}, and this solver's is {own!r}"
                raise BadInput(asked, found, f"make the solver with {name}={other!r}")
        if (slots := sorted(state["slots"])) != (own_slots := sorted(self.slots.params)):
            found = f"the state is of the adapters {', '.join(slots)}, and this solver has {', '.join(own_slots)}"
            raise BadInput(asked, found, "make the solver with as much of a penalty (lam 0 needs p alone)")
        theirs = state.get("shapes") or shapes(moving(state["slots"]))
        ours = shapes(moving(self.slots.params, self.problem.leaves if "shapes" in state else None))
        if found := differing(theirs, ours):
            do = "make the solver on the same model and adapter, with the same weights frozen"
            raise BadInput(asked, found, do)


KIND = ("rule", "optimizer", "upper", "lower", "noise", "rank", "estimator", "s")
"""Options that a solver's state hangs on."""


def free(model: nn.Module) -> tree.Leaves:
    """theta: the weights of a model that its user left free. Raises: BadInput where none is, or the model has adapters."""
    refuse_adapted(model)
    tree.refuse_frozen(model.parameters(), "Bilevel(model)")
    return tree.find(model, keep=lambda param: param.requires_grad)


@contextmanager
def as_free_on_error(model: nn.Module) -> Iterator[None]:
    """Run a block; where it fails, weights are as free or frozen as before: peft freezes a base before an adapter is refused."""
    found = {name: param.requires_grad for name, param in model.named_parameters()}
    try:
        yield
    except BaseException:
        for name, param in model.named_parameters():  # by name: peft may have put a copy in a weight's place
            param.requires_grad_(found.get(tree.canonical(name), param.requires_grad))
        raise


def attached(model: nn.Module, *how: Any) -> Slots:
    """Attach adapters (see `attach`), in the mode that the model is in: peft's own begin in train mode."""
    before = set(model.modules())
    slots = attach(model, *how)
    for module in slots.model.modules():
        if module not in before:
            module.training = model.training
    return slots


def dtypes(slots: Slots, leaves: tree.Leaves) -> dict[str, torch.dtype]:
    """The type of every parameter that a solver moves, by name."""
    return {name: part.dtype for name, part in moving(slots.params, leaves).items()}


def moving(
    adapters: Mapping[str, Mapping[str, Tensor]], leaves: tree.Leaves | None = None
) -> dict[str, Tensor | tree.Leaf]:
    """What a solver moves, by name: each adapter's tensors, and theta's."""
    own = {f"{name} of adapter {s}": part for s, parts in adapters.items() for name, part in parts.items()}
    return own | {leaf.name: leaf for leaf in leaves or ()}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, which no step changes."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def refuse_other(upper: Any) -> None:
    """Raise BadInput for what is no pair of batches."""
    if not isinstance(upper, (tuple, list)) or len(upper) != 2:
        found = f"{len(upper)} batches" if isinstance(upper, (tuple, list)) else f"a {type(upper).__name__}"
        raise BadInput(f"Bilevel.step(upper={found})", "a pair is needed", "give (batch_f, batch_p)")


def micro(batch: Any) -> Sequence[Any]:
    """A list of batches as it is (micro-batches), anything else as one. Raises: BadInput for tensors of several kinds, as DataLoaders make of tuples."""
    kinds = {(part.dtype, part.dim()) for part in batch if isinstance(part, Tensor)} if isinstance(batch, list) else ()
    if len(kinds) > 1:
        found = "a list is one of micro-batches, and this one holds tensors of several kinds, as a DataLoader's batch of tuples does"
        raise BadInput("Bilevel.step", found, "give tuple(batch); for micro-batches, a list of tuples")
    if isinstance(batch, list) and not batch:
        raise BadInput("Bilevel.step", "a list of micro-batches is empty", "give one at least")
    return batch if isinstance(batch, list) else [batch]
