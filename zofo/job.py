"""What a run works on: `prepare` checks everything that needs no model, `assemble` loads and joins the rest."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from zofo import cap, models, scorer, sources, streamed, theta0
from zofo.adapters.bank import Bank
from zofo.adapters.slots import Slots, attach
from zofo.config import Config
from zofo.core.probe.hooks import Hooks
from zofo.core.probe.readers import surveyed
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput
from zofo.machine import machine
from zofo.memory import heap
from zofo.methods import table
from zofo.methods.check import check
from zofo.methods.state import Member, Problem, State
from zofo.mixed import of_mixture
from zofo.objectives import Objective
from zofo.prepared import Prepared, of_task, recorded, room, same_rows, texts, virtual, written
from zofo.problem import built, joined
from zofo.scorer import Scorer
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import pad_id
from zofo.sources import Source
from zofo.tasks import files, mixture
from zofo.tasks.batches import Batches, MixtureBatches
from zofo.tasks.definition import Task
from zofo.tasks.mixture import Mixture
from zofo.tasks.parts import PARTS, TRAINED
from zofo.theta0 import Base

__all__ = [
    "Job",
    "Loaded",
    "Prepared",
    "assemble",
    "prepare",
    "recorded",
    "room",
    "same_rows",
    "texts",
    "virtual",
    "written",
]

PACKAGES = ("zofo", "torch", "transformers", "peft", "numpy", "numba")


@dataclass(frozen=True)
class Loaded:
    """A model with its adapters, ready to hold a checkpoint. `leaves` are the base's weights."""

    config: Config
    source: Source
    model: nn.Module  # what is called: the peft model where there are adapters
    leaves: Leaves
    base: Base
    digest: str  # of theta_0
    slots: Slots | None
    moves_theta: bool
    hooks: Hooks | None  # that give the model its weights, where those are outside memory

    @property
    def outside(self) -> str | None:
        """A sentence for the user where the weights are outside memory, else None."""
        if self.hooks is None:
            return None
        size, limit = cap.gb(sum(leaf.numel * leaf.dtype.itemsize for leaf in self.leaves)), self.config.run.memory_cap
        return (
            f"the weights ({size}) stay on disk, in a working copy, and are read for each pass (--memory-cap {limit})"
        )


@dataclass(frozen=True)
class Job(Loaded):
    """A loaded model and what trains it: everything a run holds in memory."""

    prepared: Prepared
    problem: Problem
    batches: Batches | MixtureBatches
    objective: Objective
    method: Any
    scorer: Scorer

    def begin(self) -> State:
        """The method's state before its first step."""
        state: State = self.method.init(self.problem)
        return state


def prepare(
    config: Config,
    given: Collection[str] = (),
    task: Task | Mixture | None = None,
    wanted: Collection[str] = tuple(PARTS),
    rows: files.Source | None = None,
) -> Prepared:
    """Check options, model and task (or mixture of tasks), choose the rows and encode them: all that needs no weights.

    Args: task, a run's own definition, instead of what the configuration names; wanted, the parts to encode; rows, one task's as they were read (read anew without). Raises `BadInput`. Cost: reads the data once (a GGUF file is converted first, once).
    """
    check(config, given)
    source = sources.find(config.model.name)
    asked = task or mixture.asked_for(config.data)
    if table.several(config) and not isinstance(asked, Mixture) and set(TRAINED) & set(wanted):
        found = f"it learns from several tasks, and {asked.name} is one"
        raise BadInput(f"--method.name {config.method.name}", found, "name a --mixture (`zofo ls mixtures`)")
    if isinstance(asked, Mixture):
        return of_mixture(config, asked, source, wanted)
    return of_task(config, asked, source, wanted=wanted, rows=rows)


def load(config: Config, source: Source, train: bool = False) -> Loaded:
    """Load a run's model and put its adapters on it, without rows. Tasks' own adapters are for training (`train`) alone.

    Cost: the weights in memory, or on disk where `--memory-cap` wants it.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    method = table.METHODS[config.method.name].load()
    model, leaves, hooks = weights(config, source, train)
    digest = theta0.fingerprint(leaves)
    base = Base(source, model, leaves, digest)
    slots, names = None, method.slots(config.method)
    if names and (train or not table.apart(config)):
        slots = attach(model, config.adapter, names, config.run.seed, config.method.init == "shared")
        model = slots.model
    return Loaded(config, source, model, leaves, base, digest, slots, table.moves_theta(config), hooks)


def weights(config: Config, source: Source, train: bool = False) -> tuple[nn.Module, Leaves, Hooks | None]:
    """A run's base model and its leaves: in memory, or outside it, with the hooks that make it compute. Raises: BadInput where it does not read all that is to move (`train`)."""
    if cap.streams(config, source):
        heap.give_back()
        model, leaves, store = streamed.load(source, config.model, cap.workplace(), streamed.KEEP)
        return model, *streamed.stood(model, leaves, store)
    model = models.load(source, config.model)
    leaves = tree.find(model)
    return model, surveyed(model, leaves) if train and table.stands(config) else leaves, None


def assemble(config: Config, prepared: Prepared) -> Job:
    """Load the model with its adapters, and join method, probe and batches. Cost: the weights in memory."""
    held = load(config, prepared.source, train=True)
    objective, above = built(config, prepared.task, prepared.tokenizer, held.model)
    problem = joined(config, held.model, held.leaves, held.slots, objective, above, held.hooks)
    batches, method = drawn(config, prepared, objective), table.METHODS[config.method.name].load()
    if isinstance(batches, MixtureBatches) and table.several(config):
        problem = among(config, problem, batches)
    marks = scorer.of(prepared, config.model.dtype, partial(at_hand, problem) if problem.bank is not None else None)
    return Job(
        **vars(held), prepared=prepared, problem=problem, batches=batches, objective=objective, method=method,
        scorer=marks,
    )  # fmt: skip


def among(config: Config, problem: Problem, batches: MixtureBatches) -> Problem:
    """The problem of a method that learns from several tasks, each by itself; with a bank where each has its own adapters."""
    own = batches.members.items()
    members = tuple(Member(name, held, problem.loss, problem.upper, len(held.parts["all"])) for name, held in own)
    if not table.apart(config) or problem.slots is None:
        return replace(problem, members=members)
    start = {slot: problem.slots.tensors(slot) for slot in problem.slots.params}
    return replace(problem, members=members, bank=Bank(cap.workplace(), list(batches.members), start))


def at_hand(problem: Problem, name: str) -> None:
    """Put a training task's own adapters in place (an unseen task has none)."""
    if problem.bank is not None and problem.slots is not None and name in problem.bank.names:
        problem.bank.into(problem.slots, name)


def drawn(config: Config, prepared: Prepared, objective: Objective) -> Batches | MixtureBatches:
    """The training batches: of the one task, or of all of a mixture's. Raises: BadInput where no training row is short, or none is long."""
    limit = config.method.short_tokens
    by_length(limit, prepared.encoded["f"] + prepared.encoded["p"])
    if not prepared.members:
        return batches_of(config, prepared, objective)
    trained = prepared.of("train")
    members = {ready.task.name: batches_of(config, ready, objective, ready.task.name) for ready in trained}
    return MixtureBatches(members, config.method.sampling)


def batches_of(config: Config, ready: Prepared, objective: Objective, name: str = "") -> Batches:
    """A task's batches; `name`: of one of several tasks."""
    rows = {key: ready.encoded[key] for key in TRAINED}
    rows["all"] = rows["f"] + rows["p"]
    rows |= parted(config.method.short_tokens, rows["all"])
    anew = ready.redraw.encoded if ready.redraw is not None else None
    return Batches(rows, config.data.batch, pad_id(ready.tokenizer), config.run.seed, objective.cut, name, anew)


def parted(limit: int, rows: tuple[Encoded, ...]) -> dict[str, tuple[Encoded, ...]]:
    """The rows of at most so many tokens, "short", and the others, "long" (limit 0: neither)."""
    if not limit:
        return {}
    return {"short": tuple(r for r in rows if r.length <= limit), "long": tuple(r for r in rows if r.length > limit)}


def by_length(limit: int, rows: tuple[Encoded, ...]) -> dict[str, tuple[Encoded, ...]]:
    """As `parted`. Raises: BadInput where one is empty."""
    made = parted(limit, rows)
    for name, held in made.items():
        if not held:
            least, most = (pick(row.length for row in rows) for pick in (min, max))
            found = f"no training row is {name}: they have {least} to {most} tokens"
            raise BadInput(f"--method.short_tokens {limit}", found, "take a number between, or 0 for no split")
    return made


def environment(job: Job) -> dict[str, Any]:
    """The versions, threads, machine and base model that a run's bits depend on."""
    return {
        **{name: installed(name) for name in PACKAGES},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "device": str(next(job.model.parameters()).device),
        "base": {"name": job.config.model.name, "sha256": job.digest},
    }


def adapter_of(job: Loaded) -> str | None:
    """The kind of adapter that a loaded model has."""
    return job.config.adapter.kind if job.slots is not None else None


def described(settings: Config, ready: Prepared, split: str, adapter: str | None) -> dict[str, Any]:
    """What eval.json says about how scores came about: model, adapter, task, template, split, seed, versions; of a mixture, each task's rows too."""
    data, task = settings.data, ready.task
    members = {m.task.name: m.splits.record["parts"][split]["sha256"] for m in ready.members if m.encoded[split]}
    return {
        "model": settings.model.name,
        "dtype": settings.model.dtype,
        "adapter": adapter,
        "task": task.name,
        "template": task.template if data.hard_prompt else task.free,
        "shots": data.shots,
        "channel": data.channel,
        "calibration": data.calibration,
        "split": split,
        "rows_sha256": ready.splits.record["parts"][split]["sha256"],
        "source": ready.splits.record["source"],
        "seed": settings.run.seed,
        "versions": {name: installed(name) for name in PACKAGES},
        **({"members_sha256": members} if members else {}),
    }


def installed(name: str) -> str:
    """The version of an installed package, or "?"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
