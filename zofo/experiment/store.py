"""The folder of an experiment: its plan, one JSON a run, the runs themselves, logs, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.experiment.cells import Cell
from zofo.run import seam
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json

Record = dict[str, Any]
DONE = "done"


@dataclass(frozen=True)
class Store:
    """An experiment's files."""

    path: Path

    @property
    def runs(self) -> Path:
        """Run folders, as `zofo train` makes them."""
        return self.path / "runs"

    @property
    def cells(self) -> Path:
        """One JSON a run: how it ended, its curve, its scores, row by row."""
        return self.path / "cells"

    @property
    def jobs(self) -> Path:
        """What each run's process is told to do."""
        return self.path / "jobs"

    @property
    def logs(self) -> Path:
        """What each run said."""
        return self.path / "logs"

    @property
    def plan(self) -> Path:
        """The cells of the last call, to tell what has changed since."""
        return self.path / "plan.json"

    @property
    def choices(self) -> Path:
        """What was chosen on validation, and on what evidence."""
        return self.path / "choices.json"

    def make(self) -> None:
        """Make the folders, and take away what a dying writer left."""
        for folder in (self.path, self.runs, self.cells, self.jobs, self.logs):
            seam.make_folder(folder)
            seam.sweep(folder)

    def name(self, cell: Cell) -> str:
        """The name that a cell's record has, or will have: it is known by what was done, whatever the row is called."""
        for folder, end in ((self.cells, ".json"), (self.runs, "")):
            if found := sorted(folder.glob(f"*-{cell.digest}{end}")):
                return found[0].name.removesuffix(end)
        return cell.name

    def record(self, cell: Cell) -> Record | None:
        """What is known of a cell's run; None before it ended in any way."""
        path = self.cells / f"{self.name(cell)}.json"
        return read_json(path) if path.exists() else None

    def draft(self, cell: Cell) -> Path:
        """What a run's process knew when it began on what the run can do without (cosines)."""
        return self.jobs / f"{self.name(cell)}.draft.json"

    def tasks(self, cell: Cell) -> Path:
        """Unseen tasks that a run has met, until it has met all."""
        return self.jobs / f"{self.name(cell)}.tasks.json"

    def met(self, cell: Cell) -> list[str]:
        """The names of those, while the run is not finished."""
        if cell.unseen:
            with suppress(OSError):  # the run's process takes it away when it ends
                return list(json.loads(self.tasks(cell).read_text(encoding="utf-8"))["tasks"])
        return []

    def finished(self, cell: Cell) -> bool:
        """Whether nothing is left to do: done, and tested where the cell is one of the table."""
        record = self.record(cell)
        return record is not None and record["status"] == DONE and (cell.sweep or "test" in record)

    def failed(self, cell: Cell) -> bool:
        """Whether the run ended in a failure."""
        record = self.record(cell)
        return record is not None and record["status"] != DONE

    def left(self, cell: Cell, retry: bool) -> bool:
        """Whether a cell's run is still to be done: what failed only on request."""
        return not (self.finished(cell) or (self.failed(cell) and not retry))

    def order(self, cell: Cell, cosines: int = 0) -> Path:
        """Write what the cell's process is to do (`cosines`: as the grid says); returns the file."""
        name, trained = self.name(cell), self.run(cell)
        path = self.jobs / f"{name}.json"
        run = {**cell.config.model_dump(mode="json")["run"], "name": trained.path.name, "dir": str(self.runs)}
        held = {
            "name": name, "digest": cell.digest, "evaluate": cell.evaluate, "test": not cell.sweep,
            "cosines": 0 if cell.sweep else cosines, "config": {**cell.config.model_dump(mode="json"), "run": run},
            "unseen": cell.unseen, "run": str(trained.path), "result": str(self.cells / f"{name}.json"), "draft": str(self.draft(cell)),
            "tasks": str(self.tasks(cell)),
        }  # fmt: skip
        write_json(path, held)
        return path

    def run(self, cell: Cell) -> RunFolder:
        """The cell's run folder (there is none for an evaluation), known by its training alone."""
        found = sorted(self.runs.glob(f"*-{cell.training}"))
        return RunFolder(found[0] if found else self.runs / cell.named(cell.training))


def key(cell: Cell) -> str:
    """A cell's place in the grid, whatever its options are."""
    return json.dumps([cell.row, cell.task, cell.seed, cell.sweep, cell.values if cell.sweep else {}], sort_keys=True)


def changes(store: Store, cells: Iterable[Cell]) -> list[str]:
    """What differs from the plan of the last call, a sentence a row and task. Choices that became others count too."""
    if not store.plan.exists():
        return []
    before: dict[str, Any] = read_json(store.plan)
    told: dict[tuple[str, str], str] = {}
    for cell in cells:
        held = before.get(key(cell))
        if held is None or held["digest"] == cell.digest or (cell.row, cell.task) in told:
            continue
        differ = [k for k in sorted({*held["options"], *cell.flat}) if held["options"].get(k) != cell.flat.get(k)]
        what = ", ".join(f"{k} was {held['options'].get(k)}, is {cell.flat.get(k)}" for k in differ[:4])
        more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
        then = "runs of that are there" if store.finished(cell) else again(store.run(cell))
        told[cell.row, cell.task] = f"{cell.row} on {cell.task} has changed ({what}{more}): {then}"
    return [*told.values(), *gone(before, cells)]


def again(run: RunFolder) -> str:
    """What is left to do of a cell that has changed, in words."""
    return "its run is there, and meets the unseen tasks anew" if run.eval.exists() else "it is run again"


def gone(before: dict[str, Any], cells: Iterable[Cell]) -> list[str]:
    """Rows that were in the last plan and are no longer."""
    rows = {json.loads(k)[0] for k in before} - {cell.row for cell in cells}
    return [f"row '{row}' is no longer in the file; its runs stay where they are" for row in sorted(rows)]


def write_plan(store: Store, cells: Iterable[Cell]) -> None:
    """Keep the cells for the next call."""
    write_json(store.plan, {key(c): {"digest": c.digest, "name": store.name(c), "options": c.flat} for c in cells})
