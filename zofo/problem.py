"""What a method works on, joined from its parts: the objective, what zeroth order moves and how it is probed, the shadow."""

from __future__ import annotations

from typing import Any

from torch import nn

from zofo import objectives
from zofo.adapters.slots import Slots
from zofo.config import Config
from zofo.core.probe import Probe
from zofo.core.probe.beside import Beside
from zofo.core.probe.hooks import Hooks
from zofo.core.probe.inplace import Inplace
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import leaves as tree
from zofo.core.weights.head import plain_head
from zofo.core.weights.leaves import Leaves
from zofo.core.weights.shadow import Shadow
from zofo.methods import table
from zofo.methods.state import Problem
from zofo.objectives import Objective
from zofo.scoring.objective import HALF
from zofo.scoring.past import can_share
from zofo.tasks.definition import Task

FP16_SCALE = 1024.0  # of the loss, so that fp16 gradients do not underflow


def joined(
    config: Config, model: nn.Module, leaves: Leaves, slots: Slots | None, objective: Objective, above: Any,
    hooks: Hooks | None = None,
) -> Problem:  # fmt: skip
    """A run's problem.

    Args: model, what is called (the peft model where there are adapters); leaves, the base's weights; above, what
    zeroth order minimises instead of the objective's loss (None: that); hooks, of a model with weights outside memory.
    """
    theta = table.moves_theta(config)
    exact = theta and config.method.probe == "scratch"
    scratch = Scratch(model, leaves, config.method.stack == "on", hooks) if exact else None
    own = own_leaves(slots) if slots is not None and (table.joint(config) or not theta) else None
    tuned = leaves if own is None else union(leaves, own) if theta else own
    apart = own is not None and (exact or not theta)
    probe: Probe = Beside(own, scratch) if own is not None and apart else scratch or Inplace(tuned)
    return Problem(
        model=model,
        loss=objective.loss,
        config=config.method,
        seed=config.run.seed,
        steps=config.run.steps,
        leaves=tuned,
        probe=probe,
        slots=slots,
        upper=above,
        stacks=exact and own is None and table.zeroth(config.method) and objective.upper is None,
        scale=FP16_SCALE if config.model.dtype == "fp16" else 1.0,
        shadow=shadow(config, model, leaves),
    )


def built(config: Config, task: Task, tokenizer: Any, model: nn.Module) -> tuple[Objective, Any]:
    """The objective, and what zeroth order minimises instead of its loss: a metric, or the loss in the probes' own dtype."""
    share = shares(config, model)
    objective = objectives.build(config, task, tokenizer, share)
    probes = config.method.probe_dtype
    if probes in ("auto", config.model.dtype):
        return objective, objective.upper
    other = config.model_copy(update={"model": config.model.model_copy(update={"dtype": probes})})
    apart = objectives.build(other, task, tokenizer, share)
    return objective, apart.upper or apart.loss


def shares(config: Config, model: nn.Module) -> bool:
    """Whether choices can be trained on from their context's keys and values: a plain cache, no virtual tokens, nothing
    computed again in a backward pass."""
    virtual = table.METHODS[config.method.name].uses_adapter(config) and config.adapter.kind != "lora"
    return not (virtual or config.model.activation_checkpointing) and can_share(model)


def shadow(config: Config, model: nn.Module, leaves: Leaves) -> Shadow | None:
    """Half-precision copies of the matrices, where first-order steps are computed in a half type over fp32 weights."""
    m = config.model
    backwards = table.METHODS[config.method.name].learners(config) or table.sketches(config.method)
    if not (m.shadow and m.weights == "fp32" and m.dtype in HALF and backwards):
        return None
    return Shadow(leaves, HALF[m.dtype], still=not table.moves_theta(config), without=plain_head(model))


def union(leaves: Leaves, own: Leaves) -> Leaves:
    """The leaves of both; each keeps its z, whatever stands beside it (the law sphere alone scales by all)."""
    return tree.collect((leaf.name, leaf.param, leaf.owners) for leaf in (*leaves, *own))


def own_leaves(slots: Slots) -> Leaves:
    """The parameters of slot p as zeroth-order leaves, with the modules that own them."""
    wanted = {id(p) for p in slots.list("p")}
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in slots.model.modules():
        for attr, param in module.named_parameters(recurse=False):
            if id(param) in wanted:
                owners.setdefault(id(param), []).append((module, attr))
    return tree.collect((name, param, tuple(owners[id(param)])) for name, param in slots.params["p"].items())
