"""How a job scores a model: on its one task, or on each task of a mixture. Chosen once, by `of`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from zofo.measure import BY_ROW, evaluate
from zofo.prepared import Prepared
from zofo.scoring.metrics import over_tasks
from zofo.scoring.tokens import pad_id

Keep = Callable[[Prepared, str, Mapping[str, Any]], object]
"""Is given a task, a part of its rows, and what was found of it, row by row."""


class Scorer(Protocol):
    """Scores a model on a part of the rows."""

    def __call__(self, model: nn.Module, part: str, write: bool = True) -> dict[str, Any]:
        """The results of "validation" or "test"; `write`: free answers are generated (else their loss serves)."""
        ...


@dataclass(frozen=True)
class OneTask:
    """Scores on one task; `dtype` computes; `keep` is given what was answered to each row."""

    ready: Prepared
    dtype: str = "fp32"
    keep: Keep | None = None

    def __call__(self, model: nn.Module, part: str, write: bool = True) -> dict[str, Any]:
        """As `zofo.measure.evaluate`."""
        ready = self.ready
        found = evaluate(
            model, ready.encoded[part], ready.task, dtype=self.dtype, pad=pad_id(ready.tokenizer),
            nulls=ready.nulls.get(part, ()), tokenizer=ready.tokenizer if write else None,
            predictions=self.keep is not None,
        )  # fmt: skip
        if self.keep is not None:
            self.keep(ready, part, found)
        return {name: value for name, value in found.items() if name not in BY_ROW}


@dataclass(frozen=True)
class ManyTasks:
    """Scores on every task of a mixture that has rows in the part, one after the other.

    before: called with a task's name before it is scored: a method with an adapter a task puts that task's own in place
    there (names it does not know are unseen tasks).
    """

    members: tuple[OneTask, ...]
    before: Callable[[str], object] | None = None

    def __call__(self, model: nn.Module, part: str, write: bool = True) -> dict[str, Any]:
        """As `zofo.scoring.metrics.over_tasks`."""
        found = {}
        for member in self.members:
            if not member.ready.encoded.get(part):
                continue
            name = member.ready.task.name
            if self.before is not None:
                self.before(name)
            found[name] = member(model, part, write)
        return over_tasks(found)


def of(
    ready: Prepared, dtype: str = "fp32", before: Callable[[str], object] | None = None, keep: Keep | None = None
) -> OneTask | ManyTasks:
    """The scorer of what was prepared; `before`, as `ManyTasks` has it, `keep`, as `OneTask`."""
    if not ready.members:
        return OneTask(ready, dtype, keep)
    return ManyTasks(tuple(OneTask(member, dtype, keep) for member in ready.members), before)
