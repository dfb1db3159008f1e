"""`zofo.load`: a run or a model ready to use in somebody's program, as `zofo generate` takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from zofo import models, named, saved
from zofo.adapting import folder, use
from zofo.config import build
from zofo.errors import BadInput
from zofo.guest import guest
from zofo.named import Found


@guest()
def load(
    target: str | Path,
    *,
    which: str = "best",
    slot: str | None = None,
    adapter: str | Path | None = None,
    dir: str = "runs",
) -> tuple[nn.Module, Any]:
    """A run's model with its trained theta and the adapter in use, or a model as it is; and its tokenizer.

    Args: target, a run (name or path) or a model; which, "best" (by validation) or "last" checkpoint; slot, another adapter than
    validation chose ("p", "s"; of tasks with their own, TASK or TASK/s); adapter, a folder that `zofo adapt` saved, instead; dir, where
    runs are. The weights are in memory, whatever `--memory-cap` a run was trained under. Returns: the model in eval mode (with an adapter: peft's, the base's weights frozen), computing as its weights are stored;
    a transformers tokenizer. Raises: BadInput. Cost: see `saved.open_run`; with `adapter` one more read of the weights, for the base's fingerprint.
    """
    if which not in ("best", "last"):
        raise BadInput(f"load(which={which!r})", "unknown", "choose one of: best, last")
    found = named.find(str(target), dir)
    named.refuse_which(found, which)
    return opened(found, which, slot, str(adapter) if adapter is not None else None, warned)


def opened(
    found: Found, which: str, slot: str | None, adapter: str | None, say: Callable[[str], None]
) -> tuple[nn.Module, Any]:
    """The model and tokenizer of what was found. Raises: BadInput."""
    named.refuse_slot(found, slot, adapter)
    if adapter is not None:
        used = use.opened(found, folder.find(adapter), {}, which, say)
        return used.slots.model.eval(), used.tokenizer
    if found.run is not None:
        held = saved.open_run(found.run, which, slot, say, whole=True)
        return held.model.eval(), held.tokenizer
    model = models.load(found.source, build({"model.name": found.source.name}).model)
    return model.eval(), models.load_tokenizer(found.source)


def warned(note: str) -> None:
    """Pass a note on as a warning."""
    warnings.warn(note, stacklevel=2)
