"""Open a run for use: its base with the trained theta and adapters, ready to score, generate or export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo import checkpoints, config, models, settled, sources, theta0
from zofo.adapters.slots import Slots
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Loaded, load
from zofo.methods import table
from zofo.run.checkpoint import Checkpoint
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object


@dataclass(frozen=True)
class Saved:
    """A run's model at one checkpoint; `used` is the adapter chosen on validation ("theta": no adapter)."""

    config: Config
    model: nn.Module
    slots: Slots | None
    tokenizer: Any
    used: str
    step: int
    which: str
    held: Loaded
    found: Checkpoint | None  # None: the base, no step was saved
    task: str = ""  # the training task whose own adapter it is


def open_run(
    run: RunFolder,
    which: str = "best",
    slot: str | None = None,
    say: Callable[[str], None] = print,
    whole: bool = False,
    device: str = "auto",
) -> Saved:
    """Load a run's best or last checkpoint on its base. The task's rows are not needed.

    Args: which, "best" (by validation loss) or "last"; slot, an adapter instead of the chosen one: "p", "s", or, where
    training tasks have their own, TASK (its p) or TASK/s; whole, in memory whatever cap the run was trained under; device, another than the run's own. A cap
    never refuses here: where training kept the weights in memory, it says nothing of using them.
    Raises: BadInput for a slot that the run has not; ZofoError when the base is not the run's.
    Cost: the weights in memory; for "last", the replay of the journal since the newest full copy.
    """
    settings = placed(uncapped(settled.plain(config.load(run.config)), whole), device)
    source = sources.find(settings.model.name)
    tokenizer, held = models.load_tokenizer(source), load(settings, source, train=slot is not None)
    if held.outside:
        say(held.outside)
    base = read_object(run.environment, "base")["base"]
    theta0.same_base(held.digest, base["sha256"], base["name"])
    found = checkpoints.load_for_use(held, run, which, say)
    if held.slots is None:
        if slot is not None:
            raise BadInput(f"--slot {slot}", "this run has no adapter", "leave it out")
        return Saved(settings, held.model, None, tokenizer, "theta", found.step, found.which, held, found.found)
    task, chosen = "", slot or found.used
    if slot is not None and table.apart(settings):
        task, chosen = parted(slot, held.slots)
        checkpoints.own_adapters(held.slots, found.found, task)
    if chosen not in held.slots.params:
        raise BadInput(f"--slot {chosen}", "this run has no such adapter", f"choose of {', '.join(held.slots.params)}")
    held.slots.use(chosen)
    return Saved(settings, held.model, held.slots, tokenizer, chosen, found.step, found.which, held, found.found, task)


def uncapped(settings: Config, whole: bool) -> Config:
    """The configuration without a cap where the weights come whole into memory, or training had them there."""
    if not whole and table.streams(settings):
        return settings
    return settings.model_copy(update={"run": settings.run.model_copy(update={"memory_cap": ""})})


def placed(settings: Config, device: str) -> Config:
    """The configuration on another device ("auto": on its own)."""
    if device == "auto":
        return settings
    return settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})


def parted(asked: str, slots: Slots) -> tuple[str, str]:
    """A training task and the slot of it: "TASK/s", or "TASK" for its first, p."""
    task, _, slot = asked.rpartition("/")
    return (task, slot) if task and slot in slots.params else (asked, next(iter(slots.params)))
