"""In-context learning over draws: the same scores with other demonstrations in front, nothing trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from zofo import config as configs
from zofo import job, named
from zofo.adapting import base as bases
from zofo.adapting import draws
from zofo.adapting.base import Base
from zofo.adapting.draws import Told, measured
from zofo.adapting.each import Keep, Record, each, header
from zofo.adapting.options import ROWS
from zofo.adapting.plan import Plan
from zofo.adapting.run import Asked, prepared, refuse_none, unseen_of
from zofo.adapting.show import Show
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Prepared
from zofo.methods import table
from zofo.named import Found
from zofo.run.folder import RunFolder
from zofo.tasks import own, parts
from zofo.tasks.definition import Task
from zofo.tasks.mixture import reread


def alone(asked: Asked, plan: Plan, show: Show, keep: Keep | None = None) -> dict[str, Any]:
    """One task, `plan.shots` demonstrations, each draw of them; `keep` is given the results so far after each. Raises: BadInput. Cost: (draws + 1) evaluations."""
    found = named.find(asked.target, asked.dir)
    named.refuse_which(found, asked.which)
    config = bases.configured(found, asked.flags, plan)
    if found.run is None or ROWS & set(asked.flags):
        refuse_none(asked)
        task = own.resolve(config.data)
    else:
        task, config = of_run(found.run, asked, config)
    ready = in_tokens(config, asked, plan, task, found.run)
    base = opened(found, asked, plan, show)
    show.begin(base, plan, ready)
    head, metric = header("demonstrations", base, plan), draws.metric_of(ready.task)

    def so_far(record: dict[str, Any]) -> None:
        if keep is not None:
            keep(head | {"tasks": {ready.task.name: record}})

    def told(held: Mapping[str, Any]) -> None:
        show.draw(held, metric, plan.draws)

    return head | {"tasks": {ready.task.name: on_task(base, plan, ready, base.config, told, so_far)}}


def of_run(run: RunFolder, asked: Asked, config: Config) -> tuple[Task, Config]:
    """A run's own task, of which as many test rows are scored as the run scores. Raises: BadInput where it was trained on several."""
    task = reread(run.task, f"run {run.name}")
    if not isinstance(task, Task):
        raise BadInput(f"run {run.name}", "it was trained on several tasks", "name one with --task, or --mixture NAME")
    if "data.test_rows" in asked.flags:
        return task, config
    data = config.data.model_copy(update={"test_rows": configs.load(run.config).data.test_rows})
    return task, config.model_copy(update={"data": data})


def over(
    asked: Asked, plan: Plan, name: str, show: Show, keep: Keep | None = None, kept: Record | None = None
) -> dict[str, Any]:
    """Every unseen task of a mixture; `keep` is given the results after each (`kept`: see `each`). Raises: BadInput. Cost: (draws + 1) evaluations a task."""
    found = named.find(asked.target, asked.dir)
    named.refuse_which(found, asked.which)
    unseen, base = unseen_of(asked, found, name), opened(found, asked, plan, show)

    def work(task: Task) -> dict[str, Any]:
        return on_task(base, plan, in_tokens(base.config, asked, plan, task, found.run), base.config)

    return each(unseen, work, show, header("demonstrations", base, plan), keep, kept)


def with_shots(config: Config, shots: int) -> Config:
    """The configuration with so many demonstrations; without any, `icl-sfc` is `sfc`: nothing stands before the task-only prompt."""
    bare = not shots and config.data.calibration == "icl-sfc"
    data = config.data.model_copy(update={"shots": shots} | ({"calibration": "sfc"} if bare else {}))
    return config.model_copy(update={"data": data})


def in_tokens(config: Config, asked: Asked, plan: Plan, task: Task, run: RunFolder | None) -> Prepared:
    """A task's rows, checked with their demonstrations. How many a row lost goes unsaid: each draw says it of its own."""
    ready = prepared(with_shots(config, plan.shots), asked, task, run)
    return replace(ready, notes=[note for note in ready.notes if " demonstrations (" not in note])


def opened(found: Found, asked: Asked, plan: Plan, show: Show) -> Base:
    """The base with the adapter that its run uses, where it has one for all tasks."""
    start = "run" if found.run is not None and table.lends(configs.load(found.run.config)) else "fresh"
    return bases.opened(found, asked.flags, plan, asked.which, start, show.note)


def on_task(
    base: Base, plan: Plan, ready: Prepared, config: Config, told: Told | None = None, keep: Keep | None = None
) -> dict[str, Any]:
    """A task's record: the score without demonstrations, and with those of each draw; `keep` is given the record so far after each."""
    records = []
    with base.lent() as model:
        before = measured(model, read(ready, with_shots(config, 0), 0), config)
        for draw in range(plan.draws):
            records.append(one(model, plan, ready, config, draw))
            if told is not None:
                told(records[-1])
            so_far = draws.summary(ready, f"{plan.shots} demonstrations", before, records)
            if keep is not None:
                keep(so_far)
    return so_far


def one(model: nn.Module, plan: Plan, ready: Prepared, config: Config, draw: int) -> dict[str, Any]:
    """The score with one draw of demonstrations: the same ones before every test row."""
    seed = plan.seed_of(draw)
    made = read(ready, with_shots(config, plan.shots), seed)
    began = time.perf_counter()
    result = measured(model, made, config)
    fewer = sum(row.left_out > 0 for row in made.encoded["test"])
    return {
        "draw": draw + 1, "seed": seed, "fewer": fewer, "seconds": time.perf_counter() - began, "result": result,
    }  # fmt: skip


def read(ready: Prepared, config: Config, seed: int) -> Prepared:
    """The test rows after the demonstrations that a seed draws."""
    room = job.room(config, ready.task, ready.source)
    made = parts.encode(ready.task, ready.splits, ready.tokenizer, config.data, seed, room, ("test",))
    return replace(ready, encoded=made.encoded, nulls=made.nulls)
