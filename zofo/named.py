"""What RUN|MODEL means: a run by name or path, else a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zofo.errors import BadInput, nearest
from zofo.run import folder
from zofo.run.folder import RunFolder


@dataclass(frozen=True)
class Found:
    """A run, or else a model's source."""

    run: RunFolder | None
    source: Any = None


def refuse_which(found: Found, which: str) -> None:
    """Raise BadInput for a checkpoint that is asked of a model: it has none, and rows would be scored as if it had."""
    if found.run is None and which != "best":
        raise BadInput(f"--which {which}", f"{found.source.name} is a model, it has no checkpoints", "leave it out")


def refuse_slot(found: Found, slot: str | None, adapter: str | None = None) -> None:
    """Raise BadInput for an adapter that is named twice, or asked of a model, which has none."""
    if slot is not None and adapter is not None:
        raise BadInput(f"--slot {slot}", "--adapter names another one", "leave one of the two out")
    if slot is not None and found.run is None:
        raise BadInput(f"--slot {slot}", f"{found.source.name} is a model, it has no adapters", "leave it out")


def find(text: str, dir: str) -> Found:
    """Say whether a word names a run or a model. Raises `BadInput`, before any weights are read, when it is neither."""
    try:
        return Found(folder.find(text, dir))
    except BadInput as error:
        if error.found != folder.NONE:
            raise
    from zofo import sources

    try:
        return Found(None, sources.had(sources.find(text)))
    except BadInput as error:
        known = [*folder.names(dir), *sources.known()]
        near = nearest(text, known) if text else ""
        do = near if near.startswith("did") else error.do
        raise BadInput(f"RUN|MODEL {text!r}", f"no run in {dir}, and as a model: {error.found}", do) from None
