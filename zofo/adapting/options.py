"""Which options of the configuration adapting reads, and how. Pure data: the command line reads it before torch is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zofo.config import COLUMNS, keys
from zofo.errors import BadInput

KEPT = tuple(sorted({"data.hard_prompt", "data.max_length", "data.channel", "data.shot_length"} & set(keys())))
"""How a run read its rows: what is adapted from it reads its own in the same way."""
NOT_OURS = {
    "data.shots", "data.shot_length", "data.batch", "data.train_rows", "data.validation_rows", "data.validation", "data.upper_share", "data.mixture", "data.redraw",
}  # fmt: skip
"""Options about data that adapting has in another form, or that have no effect on it."""
COUNTS = ("data.train_rows", "data.validation_rows")
"""Those of them that adapting sets itself."""
OF_SHOTS = ("data.shot_length", "data.upper_share")
"""Options that act on what is scored through its demonstrations alone."""
INSTEAD = {
    "method.lr_p": "lr", "run.steps": "steps", "run.seed": "seed", "run.dir": "dir", "data.batch": "batch",
    "data.shots": "shots", "data.mixture": "mixture",
}  # fmt: skip
"""What says the same of adapting as an option of training."""
ROWS = {"data.task", "data.train", "data.test", *(f"data.{column}" for column in COLUMNS)}
"""Options that say where rows are."""


def key_is_read(key: str) -> bool:
    """Whether an option of the configuration has an effect on adapting."""
    data = key.startswith("data.") and key not in NOT_OURS
    return data or key.startswith("adapter.") or key in ("model.dtype", "method.objective")


def refuse_idle(flags: Mapping[str, Any], shots: int) -> None:
    """Raise BadInput for an option that says which demonstrations there are, where there are none."""
    if not shots and (idle := next((key for key in OF_SHOTS if key in flags), None)):
        found = "it has no effect on scores without demonstrations"
        raise BadInput(f"--{idle} {flags[idle]}", found, "add --shots, or leave it out")
