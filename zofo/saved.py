"""Open a run for use: its base with the trained theta and adapters, ready to score, generate or export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo import checkpoints, config, models
from zofo.adapters.slots import Slots
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Job, assemble, prepare
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
    job: Job


def open_run(run: RunFolder, which: str = "best", slot: str | None = None, say: Callable[[str], None] = print) -> Saved:
    """Load a run's best or last checkpoint on its base.

    Args: which, "best" (by validation loss) or "last"; slot, an adapter instead of the chosen one.
    Raises: BadInput for a slot that the run has not; ZofoError when the base is not the run's.
    Cost: the weights in memory; for "last", the replay of the journal since the newest full copy.
    """
    settings = config.load(run.config)
    job = assemble(settings, prepare(settings))
    held = read_json(run.environment)["base"]
    models.same_base(job.digest, held["sha256"], held["name"])
    step, kind, used = checkpoints.load_for_use(job, run, which, say)
    if job.slots is None:
        if slot is not None:
            raise BadInput(f"--slot {slot}", "this run has no adapter", "leave it out")
        return Saved(settings, job.model, None, job.prepared.tokenizer, "theta", step, kind, job)
    chosen = slot or used
    if chosen not in job.slots.params:
        raise BadInput(f"--slot {chosen}", "this run has no such adapter", f"choose of {', '.join(job.slots.params)}")
    job.slots.use(chosen)
    return Saved(settings, job.model, job.slots, job.prepared.tokenizer, chosen, step, kind, job)
