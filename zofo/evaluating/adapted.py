"""A saved adapter on a task's test rows: without other rows, on those that it was made for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from zofo.adapting import folder, use
from zofo.errors import BadInput
from zofo.evaluating.found import Asked, Evaluation, sampling, scored
from zofo.named import Found


def refuse(flags: Mapping[str, Any], asked: Asked) -> None:
    """Raise BadInput where an option does not go with a saved adapter."""
    if asked.split != "test":
        raise BadInput(f"--split {asked.split}", "a saved adapter may have been trained on these rows", "leave it out")
    if asked.side != "test" or "data.mixture" in flags:
        words = f"--side {asked.side}" if asked.side != "test" else f"--mixture {flags['data.mixture']}"
        raise BadInput(words, "a saved adapter is scored on one task", "leave it out, or name a --task")
    if "run.seed" in flags:
        found = "the test rows of a saved adapter are those that `zofo adapt` takes"
        raise BadInput(f"--seed {flags['run.seed']}", found, "leave it out")


def of_adapter(
    found: Found, path: str, flags: Mapping[str, Any], asked: Asked, say: Callable[[str], None]
) -> Evaluation:
    """The scores of the adapter in a folder, on a run's theta or a model. Raises: BadInput where it fits another base. Cost: as `adapting.use.opened`."""
    refuse(flags, asked)
    saved = folder.find(path)
    config, ready = use.prepared(found, saved, flags)
    used = use.opened(found, saved, flags, asked.which, say)
    began = time.perf_counter()
    with sampling(asked.samples) as rows:
        results = {"adapter": scored(used.slots.model, ready, config, "test", "adapter", rows)}
    what, seconds = f"{used.base.name} with {path}", time.perf_counter() - began
    return Evaluation(what, config, ready, "test", results, seconds, saved.adapter.kind, "adapter")
