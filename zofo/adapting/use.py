"""A saved adapter in use: on its base, ready to score a task's rows or to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zofo import models, sources
from zofo.adapters.slots import Slots
from zofo.adapting import apart, draws, folder
from zofo.adapting import base as bases
from zofo.adapting.base import Base
from zofo.adapting.folder import Saved
from zofo.adapting.options import ROWS, refuse_idle
from zofo.adapting.plan import Plan, seeded
from zofo.config import Config
from zofo.errors import BadInput
from zofo.job import Prepared
from zofo.named import Found
from zofo.tasks import definition, files, own
from zofo.tasks.definition import Task


@dataclass(frozen=True)
class Used:
    """A base with a saved adapter on it."""

    base: Base
    slots: Slots

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return models.load_tokenizer(sources.find(self.base.config.model.name))


def options(saved: Saved, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an adapter's rows were read by, with others laid over; other rows forget its own task and files."""
    held = dict(saved.about.get("data", {}))
    if {"data.task", "data.train"} & set(flags):
        held = {key: value for key, value in held.items() if key not in ROWS}
    alone = "data.test" in flags and "data.train" not in flags
    if alone and "data.test_rows" not in flags:  # a file that is named is scored whole
        where = flags["data.test"]
        held["data.test_rows"] = max(len(files.part_rows(where, "test", f"--data.test {where}")), 1)
    return {**held, **flags}


def task_of(saved: Saved, config: Config, flags: Mapping[str, Any]) -> Task:
    """The task that an adapter was made for, as it was saved beside it (on another test file, where one is named); the one that options name, where they name rows."""
    file = saved.path / folder.TASK
    if (ROWS - {"data.test"}) & set(flags) or not file.is_file():
        return own.resolve(config.data)
    task = definition.read(file, f"--adapter {saved.path}")
    if "data.test" not in flags:
        return task
    if task.files is None:
        found = f"the rows of {task.name} are no files of yours"
        raise BadInput(f"--data.test {flags['data.test']}", found, "give --data.train too")
    return task.model_copy(update={"files": task.files.model_copy(update={"test": flags["data.test"]})})


def shape(saved: Saved) -> dict[str, Any]:
    """The options of a saved adapter's shape."""
    return {f"adapter.{key}": value for key, value in saved.adapter.model_dump().items()}


def opened(
    found: Found, saved: Saved, flags: Mapping[str, Any], which: str = "best", say: Callable[[str], None] = print
) -> Used:
    """A run's theta or a model, with a saved adapter on it. Raises: BadInput where it is another base. Cost: as `base.opened`."""
    base = bases.opened(found, {**flags, **shape(saved)}, Plan(), which, "fresh", say)
    return Used(base, folder.onto(saved, base))


def read_by(found: Found, saved: Saved, flags: Mapping[str, Any]) -> tuple[Config, Task]:
    """The task that an adapter's rows are of (its own, unless `flags` name another), and the configuration that they are read by."""
    config = bases.configured(found, {**options(saved, flags), **shape(saved)}, Plan())
    refuse_idle(flags, config.data.shots)
    return config, task_of(saved, config, flags)


def prepared(found: Found, saved: Saved, flags: Mapping[str, Any]) -> tuple[Config, Prepared]:
    """The test rows, those that adapting took where `flags` name no others. Raises: BadInput, before any weights are read."""
    config, task = read_by(found, saved, flags)
    seeds = bases.trained_on(found.run) | {str(saved.about["task"]): int(saved.test["seed"])}
    config = seeded(config, seeds.get(task.name, 0))
    ready = draws.prepare(config, (), task)
    apart.refuse_carved(found.run, ready)
    apart.refuse_other(saved, ready, flags)
    return config, apart.with_examples(saved, apart.noted(found.run, ready))
