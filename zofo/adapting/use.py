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
from zofo.adapting.options import ROWS
from zofo.adapting.plan import Plan, seeded
from zofo.config import Config
from zofo.job import Prepared
from zofo.named import Found
from zofo.tasks import own


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
    return {**held, **flags}


def shape(saved: Saved) -> dict[str, Any]:
    """The options of a saved adapter's shape."""
    return {f"adapter.{key}": value for key, value in saved.adapter.model_dump().items()}


def opened(
    found: Found, saved: Saved, flags: Mapping[str, Any], which: str = "best", say: Callable[[str], None] = print
) -> Used:
    """A run's theta or a model, with a saved adapter on it. Raises: BadInput where it is another base. Cost: as `base.opened`."""
    base = bases.opened(found, {**flags, **shape(saved)}, Plan(), which, "fresh", say)
    return Used(base, folder.onto(saved, base))


def prepared(found: Found, saved: Saved, flags: Mapping[str, Any]) -> tuple[Config, Prepared]:
    """The test rows, those that adapting took where `flags` name no others. Raises: BadInput, before any weights are read."""
    config = bases.configured(found, {**options(saved, flags), **shape(saved)}, Plan())
    task = own.resolve(config.data)
    seeds = bases.trained_on(found.run) | {str(saved.about["task"]): int(saved.test["seed"])}
    config = seeded(config, seeds.get(task.name, 0))
    ready = draws.prepare(config, (), task)
    apart.refuse_carved(found.run, ready)
    apart.refuse_other(saved, ready, flags)
    return config, ready
