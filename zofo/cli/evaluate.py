"""`zofo eval`: a run's best checkpoint, or a model as it is, on a task's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.cli.target import Dir, Target, find
from zofo.config import Config, build, load
from zofo.errors import BadInput
from zofo.report.words import figure, score
from zofo.run.folder import RunFolder

Which = Annotated[Literal["best", "last"], Parameter(help="which checkpoint of the run")]
Slot = Annotated[Literal["p", "s"] | None, Parameter(help="which adapter of the run")]


def evaluate(
    target: Target,
    /,
    *,
    task: Annotated[str | None, Parameter(metavar="TASK", help="task (a run: its own, if left out)")] = None,
    which: Which = "best",
    slot: Slot = None,
    split: Annotated[Literal["test", "validation"], Parameter(help="which rows")] = "test",
    dtype: Annotated[Literal["fp32", "bf16"], Parameter(help="computing dtype, for a model (a run: its own)")] = "fp32",
    dir: Dir = "runs",
) -> int:
    """Score a run or a model on a task; a run's test results at its best checkpoint go to its eval.json."""
    found = find(target, dir)
    if found.run is not None:
        return of_run(found.run, task, which, slot, split)
    if task is None:
        raise BadInput(f"zofo eval {target}", "a model needs a task", "add --task NAME")
    if slot is not None:
        raise BadInput(f"--slot {slot}", f"{target} is a model, it has no adapters", "leave it out")
    return of_model(target, task, split, dtype)


def of_model(name: str, task: str, split: str, dtype: str) -> int:
    """Zero-shot scores of a model."""
    from zofo import loop, models

    config = build({"model.name": name, "model.dtype": dtype, "data.task": task})
    ready = loop.prepare(config, ())
    results = {"zero-shot": scored(models.load(ready.source, config.model), ready, ready.tokenizer, config, split)}
    tell(ready.notes, f"{name}, {task}, {split} rows", results, None)
    return 0


def of_run(run: RunFolder, task: str | None, which: Literal["best", "last"], slot: str | None, split: str) -> int:
    """Scores of a run's adapters (or its weights) at a checkpoint."""
    own = load(run.config)
    config = own if task is None else own.model_copy(update={"data": own.data.model_copy(update={"task": task})})
    from zofo import job, saved
    from zofo.run.jsonfile import read_json
    from zofo.tasks import definition

    ready = job.prepare(config, task=definition.read(run.task, f"run {run.name}") if config == own else None)
    if config == own:
        job.same_rows(read_json(run.splits), ready)
    held = saved.open_run(run, which, None, complain)
    results: dict[str, Any] = {}
    for name in chosen(held, slot, run.name):
        if held.slots is not None:
            held.slots.use(name)
        results[name] = scored(held.model, ready, held.tokenizer, config, split)
    if split == "test" and held.which == "best" and config == own:
        record(run, held, ready, results)
    tell(ready.notes, f"run {run.name}, step {held.step}, {config.data.task}, {split} rows", results, held.used)
    return 0


def chosen(held: Any, slot: str | None, name: str) -> list[str]:
    """What to score: the adapter asked for, or all; theta where there is none. Raises `BadInput` for one not there."""
    there = list(held.slots.params) if held.slots is not None else []
    if slot is not None and slot not in there:
        raise BadInput(f"--slot {slot}", f"run {name} has no such adapter", f"it has {', '.join(there) or 'none'}")
    return [slot] if slot is not None else there or ["theta"]


def scored(model: Any, ready: Any, tokenizer: Any, config: Config, split: str) -> dict[str, Any]:
    """Evaluate a model on a split of prepared data. Stops between batches when a signal came."""
    from zofo.evaluate import evaluate as measure
    from zofo.scoring.tokens import pad_id

    pad = pad_id(tokenizer)
    return measure(model, ready.encoded[split], ready.task, dtype=config.model.dtype, pad=0 if pad is None else pad)


def record(run: RunFolder, held: Any, ready: Any, results: Mapping[str, Any]) -> None:
    """Lay new test results over those in eval.json, and note the step; the zero-shot score of the run's start stays."""
    from zofo.run.jsonfile import read_json, write_json

    before = read_json(run.eval) if run.eval.exists() else {}
    same = before.get("step") == held.step
    kept = {name: value for name, value in before.get("results", {}).items() if same or name == "zero-shot"}
    cut = sum(row.cut for row in ready.encoded["test"])
    now = {"task": held.config.data.task, "split": "test", "checkpoint": "best", "step": held.step, "truncated": cut}
    write_json(run.eval, {**before, **now, "used": held.used, "results": kept | dict(results)})


def tell(notes: list[str], title: str, results: Mapping[str, Any], used: str | None) -> None:
    """Print what was measured."""
    for note in notes:
        line(f"note: {plain(note)}")
    line(plain(title))
    rows = [
        (name + (" (used)" if name == used else ""), score(r), figure(r.get("f1")), figure(r["loss"]), r["n"])
        for name, r in results.items()
    ]
    table(("what", "accuracy", "f1", "loss", "rows"), rows)
