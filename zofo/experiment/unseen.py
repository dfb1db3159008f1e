"""A mixture in an experiment: each row's base meets the unseen tasks, adapted to each or with demonstrations in front, draw by draw."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zofo.adapting import run as adapting
from zofo.adapting import shown
from zofo.adapting.each import Keep, Record
from zofo.adapting.plan import Plan
from zofo.adapting.run import Asked
from zofo.adapting.show import Quiet, Show
from zofo.config import Config
from zofo.errors import ZofoError
from zofo.report.words import ZERO_SHOT, common, number
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json

NOWHERE = ""
"""A folder that holds no runs: the name is a model's."""


class Told(Quiet):
    """Says notes where a run's log is."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"note: {text}", flush=True)


def by_run(run: RunFolder, settings: Config, order: Mapping[str, Any], file: Path) -> Record:
    """The test record of a finished run at its best checkpoint. Args: see `met`."""
    return met(Asked(run.name, "best", None, str(run.path.parent), order["flags"]), settings, order, file)


def as_it_is(settings: Config, order: Mapping[str, Any], file: Path) -> Record:
    """The record of a model without training: nothing is chosen, so there is no validation. Args: see `met`."""
    test = met(Asked(settings.model.name, "best", None, NOWHERE, order["flags"]), settings, order, file)
    return {"steps": 0, "seconds": 0.0, "forwards": 0, "backwards": 0, "notes": [], "validation": None, "test": test}


def met(asked: Asked, settings: Config, order: Mapping[str, Any], file: Path) -> Record:
    """The test record of a base over the unseen tasks of its mixture.

    Args: order, `Cell.unseen`; file, where the tasks that are done stand until all are: an interruption, or a task that
    fails, costs none of the others again. Returns: scores as `record.told` gives them, where a test row is a draw: the mean over tasks of its scores.
    Raises: ZofoError where a task could not be scored. Cost: see `adapting.draws.on_task`, `shown.on_task`, a task.
    """
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    plan = Plan(**{key: value for key, value in order.items() if key not in ("how", "flags")})
    kept = read_json(file) if file.exists() else None
    found = HOW[order["how"]](asked, plan, settings.data.mixture, Told(), partial(write_json, file), kept)
    return told(found["tasks"], order)


def adapted(asked: Asked, plan: Plan, mixture: str, show: Show, keep: Keep, kept: Record | None) -> Record:
    """Each task after its own steps on a few examples."""
    return adapting.over(asked, plan, mixture, None, show, keep, kept)


HOW: dict[str, Callable[[Asked, Plan, str, Show, Keep, Record | None], Record]] = {
    "adapted": adapted,
    "demonstrations": shown.over,
}


def told(tasks: Mapping[str, Record], order: Mapping[str, Any]) -> Record:
    """What is kept: each task's scores before and by draw, and their means over the tasks that have a metric.

    Raises: ZofoError where a task failed (a mean over the others compares with nothing), or none has a metric.
    """
    why = "; ".join(f"{name}: {r['failed']}" for name, r in tasks.items() if "failed" in r)
    scored = {name: r for name, r in tasks.items() if "failed" not in r and r["metric"] != "loss"}
    if why or not scored:
        found = f"some have no score ({why})"[:300] if why else "none has a metric"
        raise ZofoError("the unseen tasks", found, "see the run's log; --retry meets them again, once that is mended")
    metric = common(r["metric"] for r in scored.values()) or "score"
    draws = [statistics.fmean(values) for values in zip(*(by_draw(r) for r in scored.values()), strict=True)]
    before = statistics.fmean(float(r["before"][r["metric"]]) for r in scored.values())
    how = str(order["how"])
    return {
        "used": how,
        "metric": metric,
        "rows_sha256": rows(scored, order),
        "slots": {
            how: {"n": len(draws), metric: statistics.fmean(draws), "by_row": {metric: draws}},
            ZERO_SHOT: {"n": len(draws), metric: before, "by_row": {metric: [before] * len(draws)}},
        },
        "tasks": {name: short(r) for name, r in tasks.items()},
        "notes": [note for name, r in tasks.items() for note in lost(name, r)],
    }


def lost(name: str, record: Record) -> list[str]:
    """What draws of a task went without: demonstrations that the model has no room for, steps that were not finite; examples that were cut."""
    fewer = max(draw.get("fewer", 0) for draw in record["draws"])
    skipped = sum(draw.get("skipped", 0) for draw in record["draws"])
    cut = max(draw.get("cut", 0) for draw in record["draws"])
    found = [f"{name}: up to {cut} examples of a draw cut to fit"] if cut else []
    found += [f"{name}: up to {fewer} rows with fewer demonstrations: the model reads no more"] if fewer else []
    return found + ([f"{name}: {skipped} adapter steps skipped (not finite)"] if skipped else [])


def by_draw(record: Record) -> list[float]:
    """A task's score of each draw. Raises: ZofoError for one that is no number."""
    found = [number(draw["result"][record["metric"]]) for draw in record["draws"]]
    if None in found:
        raise ZofoError(f"the scores of {record['task']}", "one is no number", "see the run's log")
    return [value for value in found if value is not None]


def rows(scored: Mapping[str, Record], order: Mapping[str, Any]) -> str:
    """A name for the test rows and the seed of the draws: rows of a table compare in pairs where they are the same."""
    held = [{name: r["test"]["sha256"] for name, r in scored.items()}, order["seed"], order["draws"]]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def short(record: Record) -> Record:
    """A task's record without what is said of single steps and rows."""
    metric = record["metric"]
    kept = {key: record[key] for key in ("task", "metric", "drawn", "notes", "after", "seconds")}
    return kept | {
        "test": {"sha256": record["test"]["sha256"], "rows": record["test"]["rows"]},
        "before": {metric: record["before"][metric]},
        "draws": [
            {"seed": draw["seed"], "rows": draw.get("rows"), "result": {metric: draw["result"][metric]}}
            for draw in record["draws"]
        ],
    }
