"""What adapting is: how many examples, steps and draws, at which rate; and the configuration that says the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zofo.adapting.options import COUNTS, KEPT
from zofo.config import Config, build, flatten
from zofo.core import streams
from zofo.errors import BadInput

RATES = {"lora": 1e-2, "prefix": 1e-2, "prompt": 1e-2}
"""Learning rates by kind of adapter (docs/meta.md says how LoRA's was chosen; the others are those of the presets)."""

MICRO = 8  # rows a micro-batch at most
ALL = 10**9  # more rows than any file has


@dataclass(frozen=True)
class Plan:
    """shots, examples a class; steps of Adam at a constant rate `lr` (0: by the adapter's kind) on `batch` rows each; draws of the examples; seed."""

    shots: int = 4
    steps: int = 10
    draws: int = 5
    batch: int = 8
    lr: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: BadInput for a number that is none of its kind."""
        for name in ("shots", "steps", "draws", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise BadInput(f"--{name} {getattr(self, name)}", "not 1 or more", "give a whole number from 1")
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise BadInput(f"--lr {self.lr}", "no rate", "give a number above 0, or 0 for the default")
        if self.seed < 0:
            raise BadInput(f"--seed {self.seed}", "below 0", "give a whole number from 0")

    def seed_of(self, draw: int) -> int:
        """The seed of a draw (from 0): its examples, its adapter, the order of its rows."""
        return streams.key(self.seed, "adapt", draw) % 2**31

    def take(self, rows: int) -> int:
        """Rows a step, of so many drawn."""
        return min(self.batch, rows)


def settings(flags: Mapping[str, Any], plan: Plan, own: Config | None = None) -> Config:
    """The configuration of adapting: first-order steps of an adapter.

    Args: flags, what the user gave, by dotted key (model.name among it, without a run); own, a run's configuration, whose model,
    adapter and way of reading rows hold where flags do not say other. Raises: BadInput.
    """
    if count := next((key for key in COUNTS if key in flags), None):
        found = "it has no effect: all training rows may be drawn"
        raise BadInput(f"--{count} {flags[count]}", found, "leave it out")
    before: dict[str, Any] = {}
    if own is not None:
        held = flatten(own.model_dump(), "")
        before = {key: value for key, value in held.items() if key.startswith(("model.", "adapter.")) or key in KEPT}
    chosen = build({**before, **flags, "data.train_rows": ALL, "data.validation_rows": 1})
    method = chosen.method.model_copy(
        update={
            "name": "first-order", "tune": "adapter", "optimizer": "adam", "schedule": "constant", "warmup": 0,
            "lr_p": plan.lr or RATES[chosen.adapter.kind],
        }
    )  # fmt: skip
    run = chosen.run.model_copy(update={"steps": plan.steps})
    return chosen.model_copy(update={"method": method, "run": run})


def seeded(config: Config, seed: int) -> Config:
    """The configuration with another seed."""
    return config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
