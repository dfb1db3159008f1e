"""Several tasks on one base: each for itself, so that one that fails does not lose the others; their records, and their mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from zofo import spread
from zofo.adapting.base import Base
from zofo.adapting.plan import Plan
from zofo.adapting.show import Show
from zofo.errors import ZofoError
from zofo.job import PACKAGES, installed
from zofo.run.jsonfile import plain
from zofo.tasks.mixture import Mixture

Record = dict[str, Any]
Keep = Callable[[Record], None]


def each(
    unseen: Mixture,
    work: Callable[[Any], Record],
    show: Show,
    head: Record | None = None,
    keep: Keep | None = None,
    kept: Record | None = None,
) -> Record:
    """The results (after a head) of every unseen task, in order; of one that fails, its reason (`failed`).

    Args: keep, called with the results so far after each task, so that an interruption loses none that is done; kept,
    what it was called with before one: its tasks stand, but for those that failed, where the head is the same.
    """
    records: dict[str, Record] = {}
    found = {**(head or {}), "mixture": unseen.name, "tasks": records, "mean": None}
    done = standing(kept or {}, head or {})
    for number, task in enumerate(unseen.test, 1):
        records[task.name] = done.get(task.name) or {"task": task.name, **guarded(partial(work, task))}
        found["mean"] = mean(records, len(unseen.test))
        if keep is not None:
            keep(found)
        show.task(records[task.name], number, len(unseen.test))
    return found


def standing(kept: Record, head: Record) -> Mapping[str, Record]:
    """The tasks of earlier results that need not be done again: those that did not fail, of the same base, plan and versions."""
    same = bool(kept) and all(kept.get(key) == value for key, value in plain(head).items())
    return {name: record for name, record in kept["tasks"].items() if "failed" not in record} if same else {}


def guarded(work: Callable[[], Record]) -> Record:
    """What some work gives, or why it failed. Interruptions go on upwards."""
    try:
        return work()
    except ZofoError as error:
        return {"failed": str(error)}
    except Exception as error:  # a fault of ours, or of a library: the other tasks do not suffer
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def header(kind: str, base: Base, plan: Plan) -> Record:
    """What a file of results says of how they came about."""
    return {
        "kind": kind,
        "base": {"name": base.name, "run": base.run, "step": base.step, "theta_sha256": base.sha256},
        "start": "fresh" if base.start is None else "run",
        "adapter": base.config.adapter.model_dump(mode="json"),
        "plan": asdict(plan) | {"lr": base.config.method.lr_p},
        "dtype": base.config.model.dtype,
        "versions": {name: installed(name) for name in PACKAGES},
    }


def mean(records: Mapping[str, Mapping[str, Any]], of: int | None = None) -> Record | None:
    """The mean over the tasks that have a score, before, and after with its interval over the draws (of each draw's own mean); `of`: tasks in all."""
    held = [r for r in records.values() if "failed" not in r and r["metric"] != "loss"]
    if not held:
        return None
    before = statistics.fmean(r["before"][r["metric"]] for r in held)
    by_draw = zip(*([draw["result"][r["metric"]] for draw in r["draws"]] for r in held), strict=True)
    after = asdict(spread.of([statistics.fmean(values) for values in by_draw]))
    return {"tasks": len(held), "of": of or len(records), "before": before, "after": after}
