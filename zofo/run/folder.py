"""The run folder: where a run's files are, how one is made, and how one is found."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from zofo.errors import BadInput, nearest
from zofo.run import seam

CONFIG = "config.yaml"
BEFORE_CONFIG = {
    "lock",
    "environment.json",
    "splits.json",
    "texts.json",
    "task.yaml",
    "checkpoints",
}  # what a run that died beginning leaves
NONE = "no such run"
"""What is found where nothing of a name is a run."""
NAME = re.compile(r"\w[^/\\]*")
MAX_NAME = 200  # bytes


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. A folder without `config.yaml` is no run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The configuration, every key spelled out."""
        return self.path / CONFIG

    @property
    def environment(self) -> Path:
        """Versions, machine, threads and the base model's hash."""
        return self.path / "environment.json"

    @property
    def splits(self) -> Path:
        """Which rows are D_p, D_f, validation and test."""
        return self.path / "splits.json"

    @property
    def texts(self) -> Path:
        """Hashes of the texts that were trained on, and validated on: other tasks may hold them too."""
        return self.path / "texts.json"

    @property
    def task(self) -> Path:
        """The task's definition, every key spelled out."""
        return self.path / "task.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line a step, validation or note."""
        return self.path / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        """The steps as applied to the weights."""
        return self.path / "journal"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def curves(self) -> Path:
        """The plot of losses and scores."""
        return self.path / "curves.png"

    @property
    def eval(self) -> Path:
        """Results on the test rows."""
        return self.path / "eval.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.path / "README.md"

    @property
    def lock(self) -> Path:
        """Held by the process that trains."""
        return self.path / "lock"


def check_name(name: str, option: str = "--run") -> str:
    """Return the name of a run (or of what another option names) if it is a plain one.

    Raises `BadInput` for separators, "..", control signs, a leading dot or dash, or a name too long.
    """
    plain = NAME.fullmatch(name) and name.isprintable() and name == name.strip()
    if not plain or len(name.encode()) > MAX_NAME:
        found = f"not a plain folder name of at most {MAX_NAME} bytes"
        raise BadInput(
            f"{option} {name!r}", found, "use letters, digits, '-', '_', '.', beginning with a letter or digit"
        )
    return name


def _is_run(path: Path) -> bool:
    try:
        return (path / CONFIG).is_file()
    except (OSError, ValueError):
        return False


def create(dir: str | Path, name: str) -> RunFolder:
    """Make the folder `dir/name` for a new run, durably, with an empty `checkpoints`.

    What makes it a run is `config.yaml`, written after; a folder left by a crash before that is
    taken again. Raises `BadInput` for a bad name, a run that exists, or a folder of other things.
    """
    run = RunFolder(Path(dir) / check_name(name))
    if run.path.is_symlink():
        raise BadInput(f"--run {name}", f"{run.path} is a symbolic link", "use another --run name")
    refuse_begun(run)
    if run.path.exists() and not _unbegun(run.path):
        raise BadInput(f"--run {name}", f"{run.path} exists and is not a run", "use another --run name")
    seam.make_folder(run.checkpoints)
    seam.sweep(run.path)
    return run


def refuse_no_place(asked: str, path: Path) -> None:
    """Raise BadInput where no folder can be made at a path: a file stands above it, or a folder that cannot be written to."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        found = f"{there} " + ("cannot be written to" if there.is_dir() else "is no folder")
        raise BadInput(asked, found, "name another place")


def refuse_begun(run: RunFolder) -> None:
    """Raise `BadInput` when a folder holds a run. Call it again once the lock is held, before the configuration."""
    if _is_run(run.path):
        do = f"go on with `zofo resume {run.name}`, or use another --run name"
        raise BadInput(f"--run {run.name}", f"{run.path} holds a run", do)


def _unbegun(path: Path) -> bool:
    """Whether a folder holds nothing but what a run leaves that died before its configuration was written."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir() if not seam.TEMPORARY.search(entry.name)}
    checkpoints = path / "checkpoints"
    return names <= BEFORE_CONFIG and not (checkpoints.exists() and any(checkpoints.iterdir()))


def names(dir: str | Path = "runs") -> list[str]:
    """Names of the runs in a folder, sorted; none when there is no such folder."""
    root = Path(dir)
    return sorted(path.name for path in root.iterdir() if _is_run(path)) if root.is_dir() else []


def find(text: str, dir: str | Path = "runs") -> RunFolder:
    """Find a run by its name under `dir`, or by a path. Raises `BadInput` naming the nearest run."""
    places = (Path(text), Path(dir) / text) if "/" in text or text in (".", "..") else (Path(dir) / text, Path(text))
    for path in places if text else ():
        if not _is_run(path):
            continue
        if path.is_symlink():
            raise BadInput(f"run {text}", "it is a symbolic link", f"use the folder itself, {path.resolve()}")
        return RunFolder(path)
    known = names(dir)
    raise BadInput(f"run {text!r}", NONE, nearest(text, known) if known else f"there is no run in {dir} yet")
