"""Tasks of MetaICL's settings that zofo has no definition of: from $ZOFO_DATA/crossfit/NAME, else from the hub (untested)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zofo.tasks import definition, files
from zofo.tasks.definition import Task
from zofo.tasks.files import VARIABLE

PREFIX = "crossfit/"
TABLE = Path(__file__).parent / "mixtures" / "hub" / "metaicl.yaml"


def table() -> dict[str, Any]:
    """The hub's data set, its file names, and which tasks are of which kind."""
    return definition.tree(TABLE, "the table of MetaICL's tasks")


def folder(entry: str) -> Path | None:
    """Where $ZOFO_DATA holds a task `crossfit/NAME` in MetaICL's form, or None."""
    root = os.environ.get(VARIABLE)
    there = Path(root) / entry if root and entry.startswith(PREFIX) else None
    return there if there is not None and there.is_dir() else None


def on_hub(entry: str) -> bool:
    """Whether a task `crossfit/NAME` is one of those on the hub (which is not asked)."""
    return any(entry in named(kind) for kind in table()["kinds"].values())


def named(kind: dict[str, Any]) -> dict[str, str]:
    """A kind's members: the hub's name of each by the entry (":" is written "-" there)."""
    return {PREFIX + name.replace(":", "-"): name for name in kind["members"]}


def hub_answers() -> bool:
    """Whether the hub can be asked for them."""
    return files.reachable(table()["hub"])


def from_hub(entry: str, side: str) -> Task:
    """A task by its rows on the hub. One to train on has training rows alone there: its validation rows are carved from them."""
    held = table()
    kind = next(kind for kind in held["kinds"].values() if entry in named(kind))
    splits = ("train",) if side == "train" else ("train", "test")
    name = named(kind)[entry]
    found = {split: held["file"].format(name=name, k=held["k"][side], split=split) for split in splits}
    hub = {"id": held["hub"], "files": found, "test": "test" if side == "test" else None}
    own = {key: value for key, value in kind.items() if key != "members"}
    return definition.validated(held["all"] | own | {"name": entry, "hub": hub}, f"task {entry}")
