"""`zofo.adapt`: a task, or every unseen task of a mixture, each from a few examples on one frozen base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zofo import named
from zofo.adapting import apart, draws, folder
from zofo.adapting import base as bases
from zofo.adapting.base import Base
from zofo.adapting.each import Keep, Record, each, header
from zofo.adapting.options import INSTEAD, ROWS, key_is_read
from zofo.adapting.plan import Plan, seeded
from zofo.adapting.show import Quiet, Show
from zofo.config import Config
from zofo.errors import BadInput, ZofoError
from zofo.guest import given, guest
from zofo.job import Prepared
from zofo.named import Found
from zofo.run.folder import RunFolder
from zofo.tasks import mixture as mixtures
from zofo.tasks import own
from zofo.tasks import shots as few
from zofo.tasks.definition import Task
from zofo.tasks.mixture import Mixture


@dataclass(frozen=True)
class Asked:
    """A run or model, the checkpoint of a run, where its adapter comes from, where runs are, and options by dotted key."""

    target: str
    which: str = "best"
    start: str | None = None
    dir: str = "runs"
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise BadInput for a word that is none of those known."""
        for name, word, known in (
            ("which", self.which, ("best", "last")),
            ("start", self.start, (None, "run", "fresh")),
        ):
            if word not in known:
                do = f"choose one of: {', '.join(filter(None, known))}"
                raise BadInput(f"adapt({name}={word!r})", "unknown", do)

    @property
    def flags(self) -> dict[str, Any]:
        """The options that were given."""
        return dict(self.options or {})


@guest()
def adapt(
    target: str | Path,
    task: str | Path | None = None,
    *,
    mixture: str | Path | None = None,
    shots: int = 4,
    steps: int = 10,
    draws: int = 5,
    batch: int = 8,
    lr: float = 0.0,
    seed: int = 0,
    which: str = "best",
    start: str | None = None,
    out: str | Path | None = None,
    dir: str | Path = "runs",
    show: Show | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Adapt a run or a model, as `zofo adapt` does; returns the record of a task, or of a mixture's unseen tasks.

    Args: target, a run or a model; shots, examples a class; lr, 0 for the default of the adapter's kind; start, "run" or
    "fresh"; out, a new folder for the first draw's adapter (None: not saved; a mixture: a folder a task in it); options, by
    dotted key with `__` for the dot (`adapter__r=4`). Raises: BadInput; NotFinite. Cost: see `adapting.draws.on_task`.
    """
    plan = Plan(shots, steps, draws, batch, lr, seed)
    flags = given(options, key_is_read, "adapting", INSTEAD)
    asked = Asked(str(target), which, start, str(dir), flags | ({"data.task": str(task)} if task else {}))
    if mixture is not None:
        return over(asked, plan, str(mixture), Path(out) if out else None, show or Quiet())
    return alone(asked, plan, Path(out) if out else None, show or Quiet())


def alone(asked: Asked, plan: Plan, out: Path | None, show: Show, keep: Keep | None = None) -> dict[str, Any]:
    """One task; `keep` is given the results so far after each draw. Raises: BadInput, before any weights are read where that can be seen; NotFinite."""
    if out is not None:
        folder.refuse_taken(out)
    refuse_none(asked)
    found = named.find(asked.target, asked.dir)
    named.refuse_which(found, asked.which)
    config = bases.configured(found, asked.flags, plan)
    ready = prepared(config, asked, own.resolve(config.data), found.run)
    few.refuse_few(few.pool(ready.task, ready.splits), plan.shots)
    base = bases.opened(found, asked.flags, plan, asked.which, asked.start, show.note)
    head = header("adapt", base, plan)

    def so_far(record: dict[str, Any]) -> None:
        if keep is not None:
            keep(head | {"tasks": {record["task"]: record}, "bytes": None})

    record, tensors = on_one(base, plan, ready, show, so_far)
    held = saved(base, plan, record, tensors, out, show, ready.task)
    return head | {"tasks": {record["task"]: record}} | held


def refuse_none(asked: Asked) -> None:
    """Raise BadInput where no rows were named."""
    if not {"data.task", "data.train"} & set(asked.flags):
        do = "add --task NAME, --mixture NAME, or --data.train FILE"
        raise BadInput(f"RUN|MODEL {asked.target}", "no task was named for it", do)


def over(
    asked: Asked,
    plan: Plan,
    name: str,
    out: Path | None,
    show: Show,
    keep: Keep | None = None,
    kept: Record | None = None,
) -> dict[str, Any]:
    """Every unseen task of a mixture; one that fails stays in the record with its reason (`failed`); `keep` is given the results after each (`kept`: see `each`). Raises: BadInput."""
    if out is not None:
        folder.refuse_taken(out)
    found = named.find(asked.target, asked.dir)
    named.refuse_which(found, asked.which)
    unseen = unseen_of(asked, found, name)
    few.refuse_few_unseen(unseen, plan.shots, bases.configured(found, asked.flags, plan).data)
    base = bases.opened(found, asked.flags, plan, asked.which, asked.start, show.note)

    def work(task: Task) -> dict[str, Any]:
        ready = prepared(base.config, asked, task, found.run)
        record, tensors = on_one(base, plan, ready, show)
        return record | saved(
            base, plan, record, tensors, out / task.name if out is not None else None, show, ready.task
        )

    return each(unseen, work, show, header("adapt", base, plan), keep, kept)


def saved(
    base: Base,
    plan: Plan,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    out: Path | None,
    show: Show,
    task: Task,
) -> dict[str, Any]:
    """Save a task's adapter where that was asked for: its `bytes`, or why it could not be written (`unsaved`), since its scores stand without it."""
    try:
        return {"bytes": folder.write(base, plan, record, tensors, out, task) if out is not None else None}
    except (ZofoError, OSError) as error:
        show.note(f"the adapter of {record['task']} is not saved: {error}")
        return {"bytes": None, "unsaved": str(error)}


def unseen_of(asked: Asked, target: Found, name: str) -> Mixture:
    """A mixture that has unseen tasks, none of which the target was trained on. Raises: BadInput."""
    if clash := next((key for key in asked.flags if key in ROWS | {"data.validation"}), None):
        raise BadInput(
            f"--{clash} {asked.flags[clash]}", "a mixture names its tasks itself", "leave one of the two out"
        )
    found = mixtures.find(name)
    if not found.test:
        raise BadInput(f"--mixture {name}", "it has no unseen tasks", "list some under `test:`, or give --task")
    free = next((task.name for task in found.test if task.kind == "text"), None)
    if found.kind == "classification" and free is not None:
        told = "it has no options, and the mixture is of classification tasks"
        raise BadInput(f"--mixture {name}, task {free}", told, "give its rows options, or leave the task out")
    apart.refuse_seen(target.run, found)
    return found


def prepared(config: Config, asked: Asked, task: Task, run: RunFolder | None) -> Prepared:
    """A task's rows. Rows that no file parts are parted by the seed of the run that was trained on them, else by 0.

    Raises: BadInput, also where test rows would be among those that the run was trained on.
    """
    seed = bases.trained_on(run).get(task.name, 0)
    ready = draws.prepare(seeded(config, seed), list(asked.flags), task)
    apart.refuse_carved(run, ready)
    return apart.noted(run, ready)


def on_one(
    base: Base, plan: Plan, ready: Prepared, show: Show, keep: Keep | None = None
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Adapt to one task: its record, and the adapter of its first draw; `keep` is given the record so far after each draw."""
    show.begin(base, plan, ready)
    if others := few.beyond(few.pool(ready.task, ready.splits), ready.splits):
        words = ", ".join(map(repr, others))
        show.note(f"{ready.task.name}: test rows have options that no training row has, so no draw shows them: {words}")
    metric = draws.metric_of(ready.task)
    made = draws.on_task(base, plan, ready, base.config, lambda record: show.draw(record, metric, plan.draws), keep)
    return made.record, made.tensors
