"""`zofo eval`: a run's best checkpoint, or a model as it is, on a task's rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from zofo.adapting.options import refuse_idle
from zofo.cli import adapted, demonstrated, mixture
from zofo.cli.adapted import Adapter
from zofo.cli.output import line, plain, refuse_no_file, table
from zofo.cli.problems import complain
from zofo.cli.target import Dir, Target, find, refuse_slot, refuse_which
from zofo.config import Config, build
from zofo.elsewhere import ROWS
from zofo.errors import BadInput, ZofoError
from zofo.report.words import LOSSES, duration, figure, measured, named, rows_of, score
from zofo.run.folder import RunFolder

if TYPE_CHECKING:
    from zofo.samples import Samples

Side = Literal["train", "test"]
SamplesFile = Annotated[
    str | None,
    Parameter(
        metavar="FILE", help="write a JSON line a row and adapter: columns, right and predicted answer, loss, scores"
    ),
]
Which = Annotated[Literal["best", "last"], Parameter(help="which checkpoint of the run")]
Slot = Annotated[
    str | None,
    Parameter(help="which adapter of the run: p or s; where each training task has its own: TASK, or TASK/s"),
]
TRAINING = ("data.batch", "data.redraw")
"""Options of the data that act in training only."""

OTHER_PARTS = {"train", "validation", "test"}
"""What a note about rows may begin with; those of rows that are not scored go unsaid."""


@dataclass(frozen=True)
class Asked:
    """What to score on: rows of a split, a mixture's side, and where to write results and rows beside printing."""

    split: str
    out: str | None
    side: Side = "test"
    samples: str | None = None


def key_is_read(key: str) -> bool:
    """Whether an option of the configuration has an effect on evaluation."""
    return (key.startswith("data.") and key not in TRAINING) or key in ("model.dtype", "run.seed")


def evaluate(
    flags: Mapping[str, Any],
    target: Target,
    /,
    *,
    which: Which = "best",
    slot: Slot = None,
    adapter: Adapter = None,
    split: Annotated[Literal["test", "validation"], Parameter(help="which rows")] = "test",
    side: Annotated[Side, Parameter(help="of a mixture: its unseen tasks, or those it trains on")] = "test",
    draws: Annotated[
        int | None, Parameter(help="draws of the demonstrations (--shots): mean, spread and interval over them")
    ] = None,
    out: Annotated[str | None, Parameter(metavar="FILE", help="write the results as JSON too")] = None,
    samples: SamplesFile = None,
    dir: Dir = "runs",
) -> int:
    """Score a run or a model on a task; a run's test results at its best checkpoint go to its eval.json.

    Without options a run is scored on its own task, as it was trained.
    """
    refuse_no_file("--out", out)
    refuse_no_file("--samples", samples)
    found, asked = find(target, dir), Asked(split, out, side, samples)
    refuse_which(found, which)
    refuse_slot(found, slot, adapter)
    if side == "train" and split != "test":
        raise BadInput(
            "--side train", f"these tasks are scored on their test rows, not on {split} rows", "leave one out"
        )
    if adapter is not None:
        adapted.refuse(split, flags, side, draws)
        return adapted.evaluate(found, flags, which, adapter, out, samples)
    if draws is not None:
        demonstrated.refuse(slot, split, side, samples)
        return demonstrated.evaluate(target, flags, which, draws, out, dir)
    if found.run is not None:
        return of_run(found.run, flags, which, slot, asked)
    if not ROWS & set(flags):
        do = "add --task NAME, --mixture NAME, --data.train FILE, or --data.test FILE"
        raise BadInput(f"zofo eval {target}", "a model needs a task", do)
    return of_model(target, flags, asked)


def of_model(name: str, flags: Mapping[str, Any], asked: Asked) -> int:
    """Scores of a model without training."""
    from zofo import elsewhere, job, models, settled

    config = settled.plain(build({"model.name": name, **flags}))  # fp32 unless asked: scores do not hang on the machine
    refuse_idle(flags, config.data.shots)
    found = elsewhere.of_model(config, flags, asked.split, asked.side)
    config, task = found.config, mixture.turned(found.task, asked.side, rows_of(config))
    ready = job.prepare(config, task=task, wanted=(asked.split,), rows=found.rows)
    refuse_none(ready, asked.split)
    began, called = time.perf_counter(), word(config)
    with sampling(asked.samples) as rows:
        model = models.load(ready.source, config.model)
        results = {called: scored(model, ready, config, asked.split, called, rows)}
    tell(ready, config, name, results, None, asked, time.perf_counter() - began)
    return 0


def word(config: Config) -> str:
    """What a model's scores are called: zero-shot, or how many demonstrations it saw; and the channel."""
    shots = f"{config.data.shots}-shot" if config.data.shots else "zero-shot"
    return f"{shots} channel" if config.data.channel else shots


def of_run(
    run: RunFolder, flags: Mapping[str, Any], which: Literal["best", "last"], slot: str | None, asked: Asked
) -> int:
    """Scores of a run's adapters (or its weights) at a checkpoint."""
    from zofo import elsewhere, job, saved
    from zofo.adapting import apart
    from zofo.methods import table
    from zofo.run.jsonfile import read_object
    from zofo.tasks.mixture import Mixture
    from zofo.tasks.parts import PARTS

    own = elsewhere.config_of(run)
    found = elsewhere.of_run(run, own, flags, asked.split, asked.side)
    config, task = found.config, found.task
    refuse_idle(flags, config.data.shots)
    if isinstance(task, Mixture) and (asked.side, asked.split) == ("test", "test"):
        apart.refuse_seen(run, task)
    task = mixture.turned(task, asked.side, rows_of(config))
    same = config == own and asked.side == "test" and found.rows is None
    ready = job.prepare(config, task=task, wanted=PARTS if same else (asked.split,), rows=found.rows)
    if same:
        job.same_rows(read_object(run.splits, "parts"), ready)
    refuse_none(ready, asked.split)
    if slot is not None and table.apart(own) and ready.members:
        raise BadInput(
            f"--slot {slot}",
            "it is one task's own, and a mixture is scored",
            f"name the --task too: {slot}",
        )
    apart.refuse_carved(run, ready, asked.split)
    ready = apart.noted(run, ready)
    if table.apart(own) and slot is None and (asked.side == "train" or asked.split == "validation"):
        complain(
            "note: theta alone is scored, as an unseen task meets it; a training task's own adapter: --task TASK --slot TASK"
        )
    own_slot = slot if table.apart(own) else None
    held = saved.open_run(run, which, own_slot, complain)
    began, results = time.perf_counter(), dict[str, Any]()
    with sampling(asked.samples) as rows:
        for name in [held.used] if own_slot else chosen(held, slot, run.name):
            if held.slots is not None:
                held.slots.use(name)
            results[name] = scored(held.model, ready, config, asked.split, name, rows)
    where = f"run {run.name}, step {held.step}{f', own adapter of {held.task}' if held.task else ''}"
    tell(ready, config, where, results, held, asked, time.perf_counter() - began)
    if asked.split == "test" and held.which == "best" and same:
        keep(run, held, ready, results)
    return 0


def refuse_none(ready: Any, split: str) -> None:
    """Raise BadInput where a mixture has no tasks that a split's rows are of."""
    if ready.encoded[split]:
        return
    asked = f"mixture {ready.task.name}, {split} rows"
    if split == "test":
        raise BadInput(asked, "it has no unseen tasks", "add --side train, or --task")
    raise BadInput(asked, "it has no training tasks, which validation rows are of", "leave --split out, or add --task")


def chosen(held: Any, slot: str | None, name: str) -> list[str]:
    """What to score: the adapter asked for, or all; theta where there is none. Raises `BadInput` for one not there."""
    there = list(held.slots.params) if held.slots is not None else []
    if slot is not None and slot not in there:
        raise BadInput(f"--slot {slot}", f"run {name} has no such adapter", f"it has {', '.join(there) or 'none'}")
    return [slot] if slot is not None else there or ["theta"]


@contextmanager
def sampling(path: str | None) -> Iterator[Samples | None]:
    """What gathers the rows that are scored in a block, where they are asked for; they are written at its end."""
    from zofo.samples import Samples

    rows = Samples(path) if path is not None else None
    yield rows
    if rows is not None:
        rows.write()


def scored(model: Any, ready: Any, config: Config, split: str, name: str, rows: Samples | None) -> dict[str, Any]:
    """Evaluate a model on a split of prepared data, of one task or of several; `rows` gathers what was answered by this adapter's `name`."""
    from zofo import scorer

    if rows is not None:
        rows.slot = name
    return scorer.of(ready, config.model.dtype, keep=rows)(model, split)


def keep(run: RunFolder, held: Any, ready: Any, results: Mapping[str, Any]) -> None:
    """Record results in the run's folder; where that cannot be (it is read-only, or being trained), say so: they are printed."""
    from zofo.run.lock import lock

    try:
        with lock(run):
            record(run, held, ready, results)
    except ZofoError as error:
        complain(plain(f"note: eval.json of run {run.name} stays as it is: {error.found}"))


def record(run: RunFolder, held: Any, ready: Any, results: Mapping[str, Any]) -> None:
    """Lay new test results over those in eval.json, and note the step; the zero-shot score of the run's start stays.

    Raises: ZofoError where the best checkpoint is another one by now, whose results these are not.
    """
    from zofo.job import adapter_of, described
    from zofo.run.checkpoint import unchanged
    from zofo.run.jsonfile import read_object, write_json

    if held.found is not None and not unchanged(held.found):
        raise ZofoError(f"eval {run.name}", "training has found a better checkpoint meanwhile", "evaluate it again")
    before = read_object(run.eval, "results") if run.eval.exists() else {}
    same = before.get("step") == held.step
    kept = {name: value for name, value in before.get("results", {}).items() if same or name == "zero-shot"}
    cut = sum(row.cut for row in ready.encoded["test"])
    now = described(held.config, ready, "test", adapter_of(held.held)) | {
        "checkpoint": "best",
        "step": held.step,
        "truncated": cut,
    }
    write_json(run.eval, {**before, **now, "used": held.used, "results": kept | dict(results)})


def tell(
    ready: Any, config: Config, what: str, results: Mapping[str, Any], held: Any, asked: Asked, seconds: float
) -> None:
    """Print what was measured (on a run's model `held`, or a plain one), and write it where that was asked for."""
    from zofo.job import adapter_of, described
    from zofo.run.jsonfile import write_json

    for note in ready.notes:
        if (
            not (OTHER_PARTS - {asked.split}) & {*note.split(": ")[:2]} or config.data.shots
        ):  # tasks of a mixture stand first
            line(f"note: {plain(note)}")
    calibrated = f", calibrated ({config.data.calibration})" if ready.nulls else ""
    line(plain(f"{what}, {ready.task.name}, {asked.split} rows{calibrated}, {duration(seconds)}"))
    used = held.used if held is not None else None
    if ready.members:
        mixture.results(results, used)
    else:
        of_task(results, used)
    if asked.out is not None:
        cut = sum(row.cut for row in ready.encoded[asked.split])
        adapter = adapter_of(held.held) if held is not None else None
        found = described(config, ready, asked.split, adapter) | {"what": what, "used": used, "truncated": cut}
        write_json(Path(asked.out), found | {"notes": ready.notes, "seconds": seconds, "results": dict(results)})


def of_task(results: Mapping[str, Any], used: str | None) -> None:
    """Print one task's results, a line each."""
    metrics = list(dict.fromkeys(name for result in results.values() for name in measured(result)))
    losses = [key for key in LOSSES if any(key in result for result in results.values())]
    rows = [
        (
            name + (" (used)" if name == used else ""),
            *(score(r, m) for m in metrics),
            *(figure(r.get(k)) for k in losses),
            r["n"],
        )
        for name, r in results.items()
    ]
    table(("what", *map(named, metrics), *(LOSSES[key] for key in losses), "rows"), rows)
