"""Open a run for use: its base with the trained theta and adapters, ready to score, generate or export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo import checkpoints, config, models, settled, sources
from zofo.adapters.slots import Slots
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Loaded, load
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json


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


def open_run(run: RunFolder, which: str = "best", slot: str | None = None, say: Callable[[str], None] = print) -> Saved:
    """Load a run's best or last checkpoint on its base. The task's rows are not needed.

    Args: which, "best" (by validation loss) or "last"; slot, an adapter instead of the chosen one.
    Raises: BadInput for a slot that the run has not; ZofoError when the base is not the run's.
    Cost: the weights in memory; for "last", the replay of the journal since the newest full copy.
    """
    settings = settled.plain(config.load(run.config))
    source = sources.find(settings.model.name)
    tokenizer, held = models.load_tokenizer(source), load(settings, source)
    if held.outside:
        say(held.outside)
    base = read_json(run.environment)["base"]
    models.same_base(held.digest, base["sha256"], base["name"])
    step, kind, used = checkpoints.load_for_use(held, run, which, say)
    if held.slots is None:
        if slot is not None:
            raise BadInput(f"--slot {slot}", "this run has no adapter", "leave it out")
        return Saved(settings, held.model, None, tokenizer, "theta", step, kind, held)
    chosen = slot or used
    if chosen not in held.slots.params:
        raise BadInput(f"--slot {chosen}", "this run has no such adapter", f"choose of {', '.join(held.slots.params)}")
    held.slots.use(chosen)
    return Saved(settings, held.model, held.slots, tokenizer, chosen, step, kind, held)
