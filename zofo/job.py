"""What a run works on: `prepare` checks everything that needs no model, `assemble` loads and joins the rest."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from zofo import cap, models, objectives, sources, streamed
from zofo.adapters.slots import Slots, attach
from zofo.config import Config
from zofo.core.probe.hooks import Hooks
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput
from zofo.memory import heap
from zofo.methods import table
from zofo.methods.state import Problem, State
from zofo.models import Base
from zofo.objectives import Objective
from zofo.problem import built, joined
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import pad_id
from zofo.sources import Source
from zofo.tasks import own, parts
from zofo.tasks.batches import Batches
from zofo.tasks.definition import Task
from zofo.tasks.parts import PARTS
from zofo.tasks.redraw import Redraw
from zofo.tasks.render import check_choices
from zofo.tasks.splits import Splits, split

PACKAGES = ("zofo", "torch", "transformers", "peft", "numpy", "numba")


@dataclass(frozen=True)
class Prepared:
    """A task's rows, encoded by a model's tokenizer, and what the user should be told about them."""

    task: Task
    splits: Splits
    tokenizer: Any
    source: Source
    encoded: dict[str, tuple[Encoded, ...]]  # by part: "f", "p", "validation", "test"
    nulls: dict[str, tuple[Encoded, ...]]  # their task-only twins, where calibrated
    notes: list[str]
    redraw: Redraw | None = None  # encodes training rows with demonstrations of a step's own


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
    batches: Batches
    objective: Objective
    method: Any

    def begin(self) -> State:
        """The method's state before its first step."""
        state: State = self.method.init(self.problem)
        return state


def prepare(
    config: Config, given: Collection[str] = (), task: Task | None = None, wanted: Collection[str] = tuple(PARTS)
) -> Prepared:
    """Check options, model and task, choose the rows and encode them: all that needs no weights.

    Args: task, a run's own definition, instead of the one that the configuration names; wanted, the parts to encode. Raises `BadInput`. Cost: reads the data once (a GGUF file is converted first, once).
    """
    table.check(config, given)
    source = sources.find(config.model.name)
    task = objectives.measured(config, task or own.resolve(config.data))
    splits = split(task, config.data, config.run.seed)
    tokenizer = models.load_tokenizer(source)
    check_choices(task, tokenizer)
    made = parts.encode(task, splits, tokenizer, config.data, config.run.seed, room(config, task, source), wanted)
    notes = [*splits.notes, *made.notes]
    return Prepared(task, splits, tokenizer, source, made.encoded, made.nulls, notes, made.redraw)


def room(config: Config, task: Task, source: Source) -> int | None:
    """Tokens that the model can read of a row, less what is generated and an adapter's virtual tokens (None: no limit known).

    Raises: BadInput where nothing is left.
    """
    positions = models.positions(source)
    if positions is None:
        return None
    left = positions - (task.max_new_tokens if task.kind == "text" and task.metrics else 0) - virtual(config)
    if left < 8:
        raise BadInput(f"--model {source.name}", f"it reads {positions} tokens, {left} of a row", "take another model")
    return left


def virtual(config: Config) -> int:
    """Virtual tokens that a run's adapter puts before each row."""
    if not table.METHODS[config.method.name].uses_adapter(config) or config.adapter.kind == "lora":
        return 0
    return config.adapter.tokens or {"prefix": 5, "prompt": 10}[config.adapter.kind]


def recorded(prepared: Prepared) -> dict[str, Any]:
    """What splits.json says: each part's rows and their SHA-256, as data and as tokens."""
    record = prepared.splits.record
    tokens = {
        part: hashlib.sha256(
            repr([(r.context, r.answers, r.rights, r.skip) for r in prepared.encoded[key]]).encode()
        ).hexdigest()
        for key, part in PARTS.items()
    }
    return {**record, "parts": {part: held | {"tokens": tokens[part]} for part, held in record["parts"].items()}}


def same_rows(record: dict[str, Any], prepared: Prepared) -> None:
    """Raise when a run's rows, or the tokens that they become, are no longer those that it was made on."""
    now = recorded(prepared)["parts"]
    for part, held in record["parts"].items():
        for key, what in (("sha256", "rows"), ("tokens", "prompts and answers in tokens")):
            if now[part][key] != held[key]:
                found = f"the {what} of {part} are not those of the run"
                raise BadInput(f"task {record['task']}", found, "bring back the data, the task and the tokenizer")


def load(config: Config, source: Source) -> Loaded:
    """Load a run's model and put its adapters on it, without rows.

    Cost: the weights in memory, or on disk where `--memory-cap` wants it.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    method = table.METHODS[config.method.name].load()
    model, leaves, hooks = weights(config, source)
    digest = models.fingerprint(leaves)
    base = Base(source, model, leaves, digest)
    slots, names = None, method.slots(config.method)
    if names:
        slots = attach(model, config.adapter, names, config.run.seed, config.method.init == "shared")
        model = slots.model
    return Loaded(config, source, model, leaves, base, digest, slots, table.moves_theta(config), hooks)


def weights(config: Config, source: Source) -> tuple[nn.Module, Leaves, Hooks | None]:
    """A run's base model and its leaves: in memory, or outside it, with the hooks that make it compute."""
    if cap.streams(config, source):
        heap.give_back()
        model, leaves, store = streamed.load(source, config.model, cap.workplace(), streamed.KEEP)
        return model, leaves, streamed.standing(model, leaves, store)
    model = models.load(source, config.model)
    return model, tree.find(model), None


def assemble(config: Config, prepared: Prepared) -> Job:
    """Load the model with its adapters, and join method, probe and batches. Cost: the weights in memory."""
    held = load(config, prepared.source)
    objective, above = built(config, prepared.task, prepared.tokenizer)
    problem = joined(config, held.model, held.leaves, held.slots, objective, above, held.hooks)
    rows = {key: prepared.encoded[key] for key in ("f", "p")}
    rows["all"] = rows["f"] + rows["p"]
    rows |= by_length(config.method.short_tokens, rows["all"])
    anew = prepared.redraw.encoded if prepared.redraw is not None else None
    batches = Batches(rows, config.data.batch, pad_id(prepared.tokenizer), config.run.seed, objective.cut, anew)
    method = table.METHODS[config.method.name].load()
    return Job(**vars(held), prepared=prepared, problem=problem, batches=batches, objective=objective, method=method)


def by_length(limit: int, rows: tuple[Encoded, ...]) -> dict[str, tuple[Encoded, ...]]:
    """The rows of at most so many tokens, "short", and the others, "long" (limit 0: neither). Raises: BadInput where one is empty."""
    if not limit:
        return {}
    made = {"short": tuple(r for r in rows if r.length <= limit), "long": tuple(r for r in rows if r.length > limit)}
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
        "machine": f"{platform.system()} {platform.machine()}",
        "device": str(next(job.model.parameters()).device),
        "base": {"name": job.config.model.name, "sha256": job.digest},
    }


def adapter_of(job: Loaded) -> str | None:
    """The kind of adapter that a loaded model has."""
    return job.config.adapter.kind if job.slots is not None else None


def described(settings: Config, ready: Prepared, split: str, adapter: str | None) -> dict[str, Any]:
    """What eval.json says about how scores came about: model, adapter, task, template, split, seed, versions."""
    data, task = settings.data, ready.task
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
    }


def installed(name: str) -> str:
    """The version of an installed package, or "?"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
