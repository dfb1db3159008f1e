"""A frozen base to adapt: a model as it is, or a run's theta; and the adapter that a run lends as the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zofo import config as configs
from zofo import models, saved, settled, theta0
from zofo.adapters.slots import Slots, attach, detach
from zofo.adapting.plan import Plan, settings
from zofo.config import Config
from zofo.core.weights import leaves as tree
from zofo.core.weights.leaves import Leaves
from zofo.errors import BadInput
from zofo.methods import table
from zofo.named import Found
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A plain model in memory, how it is configured, its fingerprint, what it is called, and the adapter to begin with (None: fresh ones)."""

    config: Config
    model: nn.Module
    leaves: Leaves
    sha256: str
    name: str
    run: str | None = None
    step: int | None = None
    start: Mapping[str, Tensor] | None = None

    @contextmanager
    def adapted(self, seed: int) -> Iterator[Slots]:
        """The base with an adapter `p` on it for a block: fresh by the seed, or with the start's values. Afterwards it is plain again."""
        slots = attach(self.model, self.config.adapter, ("p",), seed)
        try:
            if self.start is not None:
                slots.load("p", self.start)
            yield slots
        finally:
            detach(slots)

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        """The model as adapting finds it, for a block: with the adapter that the run lends, or plain."""
        if self.start is None:
            yield self.model
            return
        with self.adapted(0) as slots:
            yield slots.model


def configured(found: Found, flags: Mapping[str, Any], plan: Plan) -> Config:
    """The configuration of adapting a run or a model: computing in fp32 unless asked, or, of a run, in what it was trained in."""
    if found.run is None:
        return settled.plain(settings({"model.name": found.source.name, **flags}, plan))
    return settled.plain(settings(flags, plan, settled.plain(configs.load(found.run.config))))


def opened(
    found: Found, flags: Mapping[str, Any], plan: Plan, which: str = "best", start: str | None = None, say: Say = print
) -> Base:
    """A run's theta at a checkpoint, its adapters taken off; or a model as it is.

    Args: start, "run" to begin from the adapter that the run uses, "fresh", or None: the run's where all its tasks share one.
    Raises: BadInput. Cost: the weights in memory, and one read of them for the fingerprint; of a run as `saved.open_run`.
    """
    config = configured(found, flags, plan)
    if found.run is not None:
        return of_run(found.run, config, which, start, say)
    if start == "run":
        raise BadInput("--start run", f"{config.model.name} is a model, it has no adapter", "leave it out")
    model = models.load(found.source, config.model)
    leaves = tree.find(model)
    return Base(config, model, leaves, theta0.fingerprint(leaves), config.model.name)


def of_run(run: RunFolder, config: Config, which: str, start: str | None, say: Say) -> Base:
    """A run's base."""
    own = configs.load(run.config)
    lent = start == "run" or (start is None and lends(own) and config.adapter == own.adapter)
    refuse_start(run, own, config, lent)
    held = saved.open_run(run, which, None, say, device=config.model.device)
    if held.held.hooks is not None:
        raise BadInput(f"run {run.name}", "its weights stay on disk (--memory-cap)", "export it, and adapt the export")
    values = held.slots.tensors(held.used) if held.slots is not None and lent else None
    model = detach(held.slots) if held.slots is not None else held.model
    name, leaves = f"run {run.name}, step {held.step}", held.held.leaves
    return Base(config, model, leaves, theta0.fingerprint(leaves), name, run.name, held.step, values)


def trained_on(run: RunFolder | None) -> dict[str, int]:
    """The tasks that a run was trained on, with its seed, which parted their rows."""
    if run is None or not run.splits.exists():
        return {}
    record = read_object(run.splits, "task")
    members = record.get("members", {})  # of a mixture, whose own name may be that of an unseen task
    names = [name for name, held in members.items() if held["side"] == "train"] if members else [record["task"]]
    return dict.fromkeys(names, configs.load(run.config).run.seed)


def lends(config: Config) -> bool:
    """Whether a run has one adapter that all tasks of its mixture share."""
    return bool(config.data.mixture) and table.lends(config)


def refuse_start(run: RunFolder, own: Config, made: Config, lent: bool) -> None:
    """Raise where a run has no adapter to lend, or one of another shape than was asked for."""
    if lent and not table.lends(own):
        there = table.METHODS[own.method.name].uses_adapter(own)
        found = "each of its tasks has an adapter of its own" if there else "it has no adapter"
        raise BadInput("--start run", f"run {run.name}: {found}", "take --start fresh")
    if lent and made.adapter != own.adapter:
        changed = next(
            key for key in type(own.adapter).model_fields if getattr(own.adapter, key) != getattr(made.adapter, key)
        )
        found = f"the start is the run's own adapter, which has {getattr(own.adapter, changed)}"
        raise BadInput(f"--adapter.{changed}", found, "leave it out, or take --start fresh")
