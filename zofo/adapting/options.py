"""Which options of the configuration adapting reads, and how. Pure data: the command line reads it before torch is there."""

from __future__ import annotations

from zofo.config import COLUMNS, keys

KEPT = tuple(sorted({"data.hard_prompt", "data.max_length", "data.channel", "data.shot_length"} & set(keys())))
"""How a run read its rows: what is adapted from it reads its own in the same way."""
NOT_OURS = {
    "data.shots", "data.shot_length", "data.batch", "data.train_rows", "data.validation_rows", "data.validation", "data.upper_share", "data.mixture",
}  # fmt: skip
"""Options about data that adapting has in another form, or that have no effect on it."""
COUNTS = ("data.train_rows", "data.validation_rows")
"""Those of them that adapting sets itself."""
ROWS = {"data.task", "data.train", "data.test", *(f"data.{column}" for column in COLUMNS)}
"""Options that say where rows are."""
