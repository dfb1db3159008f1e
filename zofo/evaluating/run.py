"""`zofo.evaluate`: a run's best checkpoint, a model as it is or a saved adapter, on a task's rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zofo import elsewhere, job, models, named, saved, settled
from zofo.adapting import apart
from zofo.adapting.options import refuse_idle
from zofo.adapting.show import Quiet
from zofo.config import Config, build
from zofo.errors import BadInput
from zofo.evaluating import record
from zofo.evaluating.adapted import of_adapter
from zofo.evaluating.demonstrated import over_draws
from zofo.evaluating.found import Asked, Evaluation, refuse_none, sampling, scored
from zofo.guest import given, guest
from zofo.loading import warned
from zofo.methods import table
from zofo.named import Found
from zofo.prepared import Prepared, same_demonstrations
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_object
from zofo.tasks.mixture import Mixture, reread, turned
from zofo.tasks.parts import PARTS
from zofo.tasks.splits import split

THETA_ALONE = (
    "note: theta alone is scored, as an unseen task meets it; a training task's own adapter: --task TASK --slot TASK"
)


@guest()
def evaluate(
    target: str | Path,
    task: str | Path | None = None,
    *,
    mixture: str | Path | None = None,
    shots: int | None = None,
    draws: int | None = None,
    seed: int | None = None,
    split: str = "test",
    side: str = "test",
    which: str = "best",
    slot: str | None = None,
    adapter: str | Path | None = None,
    samples: str | Path | None = None,
    dir: str | Path = "runs",
    **options: Any,
) -> dict[str, Any]:
    """Score a run or a model on a task's rows, as `zofo eval` does; returns what its `--out` writes, scores under "results".

    Args: target, a run or a model (name or path; a model needs a task); task, mixture, another than the run's own; shots, demonstrations
    in front of each row, draws of them (then with mean, sd and interval over the draws, under "tasks"); seed, of rows and demonstrations; split, "test" or "validation" rows; side, "test" or
    "train" tasks of a mixture; which, slot, adapter, dir, as `zofo.load`; samples, a file for a JSON line a row; options, by dotted key with `__` for the
    dot (`data__test="new.csv"`). A run's own test rows at its best checkpoint go to its eval.json too. Raises: BadInput.
    Cost: the weights in memory, and a forward pass a batch (docs/tasks.md says which).
    """
    flags = given(options, elsewhere.scores_with, "evaluating")
    ours = {"data.task": task, "data.mixture": mixture, "data.shots": shots, "run.seed": seed}
    flags |= {key: str(value) for key, value in ours.items() if value is not None}
    asked = Asked(split, side, which, slot, text(adapter), text(samples))
    if draws is not None:
        return over_draws(str(target), flags, asked, draws, str(dir), Quiet())
    return of(named.find(str(target), str(dir)), str(target), flags, asked, warned).record()


def text(path: str | Path | None) -> str | None:
    """A path as text, where there is one."""
    return None if path is None else str(path)


def of(found: Found, name: str, flags: Mapping[str, Any], asked: Asked, say: Callable[[str], None]) -> Evaluation:
    """The scores of what was found under a name. Raises: BadInput, before weights are read where that can be seen."""
    named.refuse_which(found, asked.which)
    named.refuse_slot(found, asked.slot, asked.adapter)
    if asked.adapter is not None:
        return of_adapter(found, asked.adapter, flags, asked, say)
    if found.run is not None:
        return of_run(found.run, flags, asked, say)
    if not elsewhere.ROWS & set(flags):
        do = "add --task NAME, --mixture NAME, --data.train FILE, or --data.test FILE"
        raise BadInput(f"zofo eval {name}", "a model needs a task", do)
    return of_model(name, flags, asked)


def of_model(name: str, flags: Mapping[str, Any], asked: Asked) -> Evaluation:
    """Scores of a model without training."""
    config = settled.plain(build({"model.name": name, **flags}))  # fp32 unless asked: scores do not hang on the machine
    refuse_idle(flags, config.data.shots)
    found = elsewhere.of_model(config, flags, asked.split, asked.side)
    ready = prepared(found, asked)
    began, called = time.perf_counter(), word(found.config)
    with sampling(asked.samples) as rows:
        model = models.load(ready.source, found.config.model)
        results = {called: scored(model, ready, found.config, asked.split, called, rows)}
    return Evaluation(name, found.config, ready, asked.split, results, time.perf_counter() - began)


def word(config: Config) -> str:
    """What a model's scores are called: zero-shot, or how many demonstrations it saw; and the channel."""
    shots = f"{config.data.shots}-shot" if config.data.shots else "zero-shot"
    return f"{shots} channel" if config.data.channel else shots


def prepared(found: elsewhere.Scored, asked: Asked, whole: bool = False) -> Prepared:
    """The rows that are scored, encoded (`whole`: all parts of them). Raises: BadInput where there are none."""
    task, wanted = turned(found.task, asked.side), PARTS if whole else (asked.split,)
    ready = job.prepare(found.config, task=task, wanted=wanted, rows=found.rows)
    refuse_none(ready, asked.split)
    return ready


def of_run(run: RunFolder, flags: Mapping[str, Any], asked: Asked, say: Callable[[str], None]) -> Evaluation:
    """Scores of a run's adapters (or its weights) at a checkpoint."""
    own = elsewhere.config_of(run)
    found = elsewhere.of_run(run, own, flags, asked.split, asked.side)
    config = found.config
    refuse_idle(flags, config.data.shots)
    if isinstance(found.task, Mixture) and (asked.side, asked.split) == ("test", "test"):
        apart.refuse_seen(run, found.task)
    same = config == own and asked.side == "test" and found.rows is None
    ready = prepared(found, asked, whole=same)
    if same:
        job.same_rows(read_object(run.splits, "parts"), ready)
    elif config.data.shots and not elsewhere.OTHER_ROWS & set(flags):
        refuse_changed(run, own)
    apart.refuse_carved(run, ready, asked.split)
    ready, slot = apart.noted(run, ready), own_slot(own, ready, asked, say)
    held = saved.open_run(run, asked.which, slot, say)
    began, results = time.perf_counter(), dict[str, Any]()
    with sampling(asked.samples) as rows:
        for name in [held.used] if slot else chosen(held, asked.slot, run.name):
            if held.slots is not None:
                held.slots.use(name)
            results[name] = scored(held.model, ready, config, asked.split, name, rows)
    what = f"run {run.name}, step {held.step}{f', own adapter of {held.task}' if held.task else ''}"
    seconds, kind = time.perf_counter() - began, job.adapter_of(held.held)
    evaluation = Evaluation(what, config, ready, asked.split, results, seconds, kind, held.used)
    if asked.split == "test" and held.which == "best" and same:
        record.keep(run, held, evaluation, say)
    return evaluation


def refuse_changed(run: RunFolder, own: Config) -> None:
    """Raise BadInput where the rows of a run's own task, which demonstrations come from, have changed. Cost: reads the data once."""
    task = reread(run.task, f"run {run.name}")
    if not isinstance(task, Mixture):
        same_demonstrations(read_object(run.splits, "parts"), split(task, own.data, own.run.seed).record)


def own_slot(own: Config, ready: Prepared, asked: Asked, say: Callable[[str], None]) -> str | None:
    """The training task's own adapter that is asked for, where tasks have them; where none is, what that means is said. Raises: BadInput for one task's on several."""
    if not table.apart(own):
        return None
    if asked.slot is not None and ready.members:
        found = "it is one task's own, and a mixture is scored"
        raise BadInput(f"--slot {asked.slot}", found, f"name the --task too: {asked.slot}")
    if asked.slot is None and (asked.side == "train" or asked.split == "validation"):
        say(THETA_ALONE)
    return asked.slot


def chosen(held: saved.Saved, slot: str | None, name: str) -> list[str]:
    """What to score: the adapter asked for, or all; theta where there is none. Raises `BadInput` for one not there."""
    there = list(held.slots.params) if held.slots is not None else []
    if slot is not None and slot not in there:
        raise BadInput(f"--slot {slot}", f"run {name} has no such adapter", f"it has {', '.join(there) or 'none'}")
    return [slot] if slot is not None else there or ["theta"]
