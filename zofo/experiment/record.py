"""What is kept of a run: its cost, its curve, its choice on validation, and in the end its test scores row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zofo import config, job, models, saved, settled
from zofo.config import Config
from zofo.measure import evaluate
from zofo.report import history
from zofo.report.words import LOSSES, measured, number, primary
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object, read_scores, write_json
from zofo.run.metrics import read_metrics
from zofo.scoring.tokens import pad_id
from zofo.tasks import definition

GAPS = 200  # points of a gap's curve


def trained(run: RunFolder) -> dict[str, Any]:
    """What a finished run cost and scored on validation rows. Reads no test row."""
    rows = read_metrics(run.metrics)
    steps, checks = history.steps(rows), history.validations(rows)
    forwards, backwards = history.passes(rows)
    best, last = history.best(rows), steps[-1] if steps else {}
    held = read_scores(run.eval)
    return {
        "steps": last.get("step", 0),
        "seconds": last.get("time", {}).get("train"),
        "forwards": forwards,
        "backwards": backwards,
        "memory": held.get("memory", {}),
        "bad": last.get("bad", 0),
        "validation": chosen(best),
        "curve": curve(steps, checks),
        "gap": gaps(steps),
        "environment": read_object(run.environment),
    }


def chosen(best: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The best validation: its step, which adapter, its standing (lower is better), and all scores; None without one."""
    if best is None:
        return None
    by, used = str(best.get("by", "loss")), str(best["used"])
    value = number(best[used].get(by))
    standing = None if value is None else value if by in LOSSES else -value
    found = {"step": best["step"], "used": used, "by": by, "standing": standing, "moved": best.get("moved")}
    return found | {"scores": {slot: scores(best[slot]) for slot in history.slots(best)}}


def scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result's metrics and losses, the first metric first, without what is said row by row."""
    return {key: value for key, value in result.items() if not isinstance(value, (list, dict))}


def curve(steps: Sequence[history.Row], checks: Sequence[history.Row]) -> list[dict[str, Any]]:
    """Every validation: step, training seconds, passes (a backward one as two), the score and loss of the adapter in use."""
    passes = {int(row["step"]): int(row["forwards"]) + 2 * int(row["backwards"]) for row in steps}
    found = []
    for row in checks:
        used = row[str(row["used"])]
        point = {"step": row["step"], "seconds": row["time"]["train"], "passes": passes.get(int(row["step"]), 0)}
        found.append(point | {"used": row["used"], "score": used.get(primary(used) or ""), "loss": used.get("loss")})
    return found


def gaps(steps: Sequence[history.Row]) -> list[list[float]]:
    """Steps and gaps B - C, thinned."""
    numbers, values = history.series(steps, "gap")
    every = max(1, len(numbers) // GAPS)
    return [[k, value] for k, value in zip(numbers[::every], values[::every], strict=True)]


def tested(run: RunFolder) -> dict[str, Any]:
    """Score a run's best checkpoint on the test rows, every adapter it has; written to its eval.json too."""
    settings = settled.plain(config.load(run.config))
    ready = job.prepare(settings, task=definition.read(run.task, f"run {run.name}"), wanted=("test",))
    held = saved.open_run(run, "best", None)
    results = {}
    for name in list(held.slots.params) if held.slots is not None else ["theta"]:
        if held.slots is not None:
            held.slots.use(name)
        results[name] = scored(held.model, ready, settings, "test")
    plain = {name: scores(result) for name, result in results.items()}
    write_json(run.eval, {**read_scores(run.eval), "results": plain})
    return told(results, held.used, ready)


def told(results: Mapping[str, Mapping[str, Any]], used: str, ready: job.Prepared) -> dict[str, Any]:
    """Test results: which rows, which adapter validation chose, and each adapter's scores with every row's, by metric (the loss where there is none)."""
    kept = {}
    for name, result in results.items():
        rows = result.get("by_row") or {"loss": result["losses"]}
        kept[name] = scores(result) | {"by_row": {metric: short(values) for metric, values in rows.items()}}
    first = results[used]
    metric = primary(first) if measured(first) else "loss"
    return {
        "used": used,
        "metric": metric,
        "rows_sha256": ready.splits.record["parts"]["test"]["sha256"],
        "slots": kept,
    }


def short(values: Sequence[float]) -> list[float]:
    """Values with whole numbers as such: files of rights and wrongs are short."""
    return [int(value) if float(value).is_integer() else value for value in values]


def scored(model: Any, ready: job.Prepared, settings: Config, part: str) -> dict[str, Any]:
    """Score a model on a part of the rows, with what it answers to each."""
    return evaluate(
        model, ready.encoded[part], ready.task, dtype=settings.model.dtype, pad=pad_id(ready.tokenizer),
        nulls=ready.nulls.get(part, ()), tokenizer=ready.tokenizer, predictions=True,
    )  # fmt: skip


def as_it_is(settings: Config) -> dict[str, Any]:
    """A model's own answers without training, on validation and test rows; nothing is chosen by either."""
    settings = settled.plain(settings)
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    ready = job.prepare(settings, wanted=("validation", "test"))
    model = models.load(ready.source, settings.model)
    found = {part: scored(model, ready, settings, part) for part in ("validation", "test")}
    standing = {"step": 0, "used": "theta", "by": "loss", "standing": number(found["validation"]["loss"])}
    return {
        "steps": 0, "seconds": 0.0, "forwards": 0, "backwards": 0, "notes": ready.notes,
        "validation": standing | {"scores": {"theta": scores(found["validation"])}},
        "test": told({"theta": found["test"]}, "theta", ready),
    }  # fmt: skip
