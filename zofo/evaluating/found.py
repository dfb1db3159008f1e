"""What is asked of an evaluation, and what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from zofo import scorer
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import described
from zofo.prepared import Prepared
from zofo.run import outfile
from zofo.samples import Samples

WORDS = {"split": ("test", "validation"), "side": ("test", "train"), "which": ("best", "last")}
"""What may be asked for."""


@dataclass(frozen=True)
class Asked:
    """Which rows (a split; of a mixture its unseen tasks or those that it trains on), which checkpoint, which adapter: one of the run's, or a folder that was saved; and the file for what was answered to each row."""

    split: str = "test"
    side: str = "test"
    which: str = "best"
    slot: str | None = None
    adapter: str | None = None
    samples: str | None = None

    def __post_init__(self) -> None:
        """Raise BadInput for a word that is none of those known, and for two that do not go together."""
        for name, known in WORDS.items():
            if (word := getattr(self, name)) not in known:
                raise BadInput(f"evaluate({name}={word!r})", "unknown", f"choose one of: {', '.join(known)}")
        outfile.refuse("--samples", self.samples)
        if (self.side, self.split) == ("train", "validation"):
            found = "these tasks are scored on their test rows, not on validation rows"
            raise BadInput("--side train", found, "leave one out")


@dataclass(frozen=True)
class Evaluation:
    """Results by adapter (or "theta", "zero-shot" ...), and how they came about: what was scored, on which rows, in seconds.

    `adapter`: its kind; `used`: the one that validation chose.
    """

    what: str
    config: Config
    ready: Prepared
    split: str
    results: dict[str, Any]
    seconds: float
    adapter: str | None = None
    used: str | None = None

    def record(self) -> dict[str, Any]:
        """All of it as `zofo eval --out` writes it."""
        cut = sum(row.cut for row in self.ready.encoded[self.split])
        head = described(self.config, self.ready, self.split, self.adapter)
        rest = {"notes": self.ready.notes, "seconds": self.seconds, "results": self.results}
        return head | {"what": self.what, "used": self.used, "truncated": cut} | rest


@contextmanager
def sampling(path: str | None) -> Iterator[Samples | None]:
    """What gathers the rows that are scored in a block, where they are asked for; they are written at its end."""
    rows = Samples(path) if path is not None else None
    yield rows
    if rows is not None:
        rows.write()


def scored(
    model: nn.Module, ready: Prepared, config: Config, split: str, name: str, rows: Samples | None
) -> dict[str, Any]:
    """A model on a split of prepared data, of one task or of several; `rows` gathers what was answered by this adapter's `name`."""
    if rows is not None:
        rows.slot = name
    return scorer.of(ready, config.model.dtype, keep=rows)(model, split)


def refuse_none(ready: Prepared, split: str) -> None:
    """Raise BadInput where a mixture has no tasks that a split's rows are of."""
    if ready.encoded[split]:
        return
    asked = f"mixture {ready.task.name}, {split} rows"
    if split == "test":
        raise BadInput(asked, "it has no unseen tasks", "add --side train, or --task")
    raise BadInput(asked, "it has no training tasks, which validation rows are of", "leave --split out, or add --task")
