"""A saved adapter: peft's files, `zofo.json`, which says what base it fits and how it came about, and its task's definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zofo import models
from zofo.adapters import stored
from zofo.adapters.slots import Slots, attach
from zofo.adapting.base import Base
from zofo.adapting.options import KEPT, NOT_OURS
from zofo.adapting.plan import Plan
from zofo.config import AdapterConfig, DataConfig, build
from zofo.errors import BadInput, ZofoError
from zofo.run import seam
from zofo.run.jsonfile import read_json, write_json
from zofo.tasks import definition
from zofo.tasks.definition import Task

ABOUT = "zofo.json"
TASK = "task.yaml"


@dataclass(frozen=True)
class Saved:
    """An adapter's folder, its shape, the SHA-256 and name of the base it fits, and the test rows that its examples were kept apart from."""

    path: Path
    adapter: AdapterConfig
    sha256: str
    base: str
    test: Mapping[str, Any]
    about: dict[str, Any]


def refuse_taken(out: Path) -> None:
    """Raise where a folder to be written is there already."""
    if out.exists() or out.is_symlink():
        raise BadInput(f"--out {out}", "it exists", "name a new folder")


def write(
    base: Base,
    plan: Plan,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    out: Path,
    task: Task | None = None,
) -> int:
    """Write a task's adapter to a new folder, whole or not at all, with the task's definition where it is given; returns its bytes. Raises: BadInput where it exists."""
    refuse_taken(out)
    seam.make_folder(out.parent)
    work = seam.beside(out)
    seam.discard(work)
    try:
        with base.adapted(plan.seed) as slots, models.quiet():
            slots.load("p", tensors)
            stored.write(slots, "p", work)
        if task is not None:
            seam.write_file(work / TASK, definition.dump(task).encode())
        write_json(work / ABOUT, about(base, plan, record))
        seam.settle_folder(work)
        seam.disk.rename(work, out)
        seam.disk.fsync_dir(out.parent)
    except BaseException:
        seam.discard(work)
        raise
    return stored.size(out)


def about(base: Base, plan: Plan, record: Mapping[str, Any]) -> dict[str, Any]:
    """What zofo.json says."""
    first = record["draws"][0]
    return {
        "base": base.name,
        "theta_sha256": base.sha256,
        "adapter": base.config.adapter.model_dump(mode="json"),
        "task": record["task"],
        "data": rows_of(base.config.data, record["task"]),
        **asdict(plan),
        "lr": base.config.method.lr_p,
        "test": record["test"],
        "drawn": record["drawn"],
        "draw": first["draw"],
        "rows": first["rows"],
        "before": record["before"],
        "after": first["result"],
    }


def rows_of(data: DataConfig, task: str) -> dict[str, Any]:
    """The options that say which rows these are and how they are read; of a mixture's task, its name.

    Defaults are left out, but for what a run may say otherwise (`KEPT`).
    """
    every = {f"data.{key}": value for key, value in data.model_dump().items()}
    changed = {f"data.{key}" for key in data.model_dump(exclude_defaults=True)} - NOT_OURS
    held = {key: value for key, value in every.items() if key in changed or key in KEPT}
    return held if {"data.task", "data.train"} & set(held) else {**held, "data.task": task}


def find(folder: str | Path) -> Saved:
    """A saved adapter. Raises: BadInput where a folder is none."""
    path, asked = Path(folder), f"--adapter {folder}"
    missing = [name for name in (ABOUT, stored.CONFIG, stored.TENSORS) if not (path / name).is_file()]
    if missing:
        found = f"no adapter that `zofo adapt` saved: {missing[0]} is not there" if path.is_dir() else "no such folder"
        raise BadInput(asked, found, "name the folder that `zofo adapt` wrote")
    try:
        held = read_json(path / ABOUT)
        shape = build({f"adapter.{key}": value for key, value in held["adapter"].items()}).adapter
        test = {key: held["test"][key] for key in ("of", "sha256", "seed", "source")}
        return Saved(path, shape, str(held["theta_sha256"]), str(held["base"]), test, held)
    except (ZofoError, KeyError, TypeError, AttributeError):
        raise BadInput(asked, f"{ABOUT} does not say what it should", "adapt again, or bring the file back") from None


def onto(saved: Saved, base: Base) -> Slots:
    """Put a saved adapter on its base, and on no other. Raises: BadInput."""
    if base.sha256 != saved.sha256:
        told = f"it fits {saved.base} (SHA-256 {saved.sha256[:12]}), and {base.name} has {base.sha256[:12]}"
        raise BadInput(f"--adapter {saved.path}", told, "put it on the base it was made on, or make one: `zofo adapt`")
    slots = attach(base.model, saved.adapter, ("p",), 0)
    stored.read(slots, "p", saved.path)
    return slots
