"""A run's eval.json, brought up to date by an evaluation of its own test rows at its best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zofo.errors import ZofoError
from zofo.evaluating.found import Evaluation
from zofo.job import described
from zofo.run.checkpoint import unchanged
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_scores, write_json
from zofo.run.lock import lock
from zofo.saved import Saved


def keep(run: RunFolder, held: Saved, found: Evaluation, say: Callable[[str], None]) -> None:
    """Record results in the run's folder; where that cannot be (it is read-only, or being trained), say so: they are returned."""
    try:
        with lock(run):
            record(run, held, found)
    except ZofoError as error:
        say(f"note: eval.json of run {run.name} stays as it is: {error.found}")


def record(run: RunFolder, held: Saved, found: Evaluation) -> None:
    """Lay new test results over those in eval.json, and note the step; the zero-shot score of the run's start stays.

    Raises: ZofoError where the best checkpoint is another one by now, whose results these are not.
    """
    if held.found is not None and not unchanged(held.found):
        raise ZofoError(f"eval {run.name}", "training has found a better checkpoint meanwhile", "evaluate it again")
    before = read_scores(run.eval) if run.eval.exists() else {}
    now = described(held.config, found.ready, "test", found.adapter) | {
        "checkpoint": "best",
        "step": held.step,
        "truncated": sum(row.cut for row in found.ready.encoded["test"]),
    }
    write_json(run.eval, {**before, **now, "used": held.used, "results": kept(before, held.step) | found.results})


def kept(before: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The results in a record that stay beside new ones: those of the same step, and the score before training."""
    same = before.get("step") == step
    return {name: value for name, value in before.get("results", {}).items() if same or name == "zero-shot"}
