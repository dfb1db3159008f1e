"""Running a grid: the sweep, the choice, the table's runs; each in a process, each resumed where it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from zofo import sources
from zofo.errors import BadInput
from zofo.experiment import cells as grids
from zofo.experiment import progress
from zofo.experiment.cells import Cell, Chosen
from zofo.experiment.grid import Grid
from zofo.experiment.progress import Board, Pace
from zofo.experiment.select import Choice, choose, remarks
from zofo.experiment.store import DONE, Store, changes, write_plan
from zofo.run import seam
from zofo.run.checkpoint import BEST
from zofo.run.folder import RunFolder
from zofo.run.jsonfile import read_json, write_json
from zofo.run.lock import lock
from zofo.run.signals import STOPPING, Interrupted, Stop

GRACE = 30.0
"""Seconds that runs have to save when the experiment is stopped."""
TICK = 0.2


class Handle(Protocol):
    """A run in progress."""

    def poll(self) -> int | None: ...
    def stop(self, kill: bool = False) -> None: ...


class Process:
    """A run in a process of its own, and of its own group: what stops it is told by the experiment."""

    def __init__(self, order: Path, log: Path) -> None:
        root = Path(__file__).parents[2]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
        with log.open("ab") as file:
            words = [sys.executable, "-m", "zofo.experiment.worker", str(order)]
            self.held = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=file, stderr=file, env=env, start_new_session=True
            )

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        status = self.held.poll()
        if status is not None and self.held.stdin is not None:
            self.held.stdin.close()
        return status

    def stop(self, kill: bool = False) -> None:
        """Ask it to save and end, or end it."""
        with suppress(ProcessLookupError):
            self.held.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


Launch = Callable[[Path, Path], Handle]


@dataclass(frozen=True)
class Work:
    """An experiment that is being run: where, how many runs at once, how they are started, and who is told.

    lean: checkpoints go when a run is tested.
    """

    grid: Grid
    store: Store
    board: Board
    jobs: int = 1
    retry: bool = False
    lean: bool = False
    launch: Launch = Process

    def left(self, cell: Cell) -> bool:
        """Whether a cell's run is still to be done."""
        return self.store.left(cell, self.retry)


def run(work: Work) -> list[Cell]:
    """Run what is left of an experiment, every row with one seed before the next seed; returns the cells of its table.

    Raises: BadInput where another process works on it, or where runs are left and there is no such model; Interrupted when stopped (every run's state is safe).
    """
    swept = grids.sweeps(work.grid)
    planned = [*swept, *grids.finals(work.grid, grids.rehearsed(work.grid))]  # every error of the grid comes here
    if any(map(work.left, planned)):
        sources.had(sources.find(work.grid.model))
    work.store.make()
    with held(work.store):
        text = yaml.safe_dump(work.grid.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        seam.write_file(work.store.path / "experiment.yaml", text.encode())
        for note in changes(work.store, planned):
            work.board.line(f"note: {note}")
        write_plan(work.store, planned)
        drain(work, swept, planned)
        chosen = keep(work, choose(work.grid, work.store, swept))
        table = grids.finals(work.grid, chosen)
        lighten(work, table, table)
        drain(work, sorted(table, key=lambda cell: work.grid.seeds.index(cell.seed)), table)
    return table


def known(grid: Grid, store: Store) -> list[Cell]:
    """The cells of the table as far as choices are made, without running anything."""
    undecided = {(row.name, task): None for task in grid.subjects for row in grids.rows_of(grid, task) if row.sweep}
    return grids.finals(grid, undecided | choices(grid, store))


def choices(grid: Grid, store: Store) -> dict[tuple[str, str], grids.Values | None]:
    """What was chosen for each swept row so far (None: all that was tried failed); a choice that the file no longer has is none."""
    held = read_json(store.choices) if store.choices.exists() else []
    made: dict[tuple[str, str], Any] = {(c["row"], c["task"]): c["values"] for c in held}
    swept = [(row, task) for task in grid.subjects for row in grids.rows_of(grid, task) if row.sweep]
    there = {(row.name, task): [None, *grids.combinations(row)] for row, task in swept}
    return {key: made[key] for key, values in there.items() if key in made and made[key] in values}


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Hold an experiment for this process. Raises `BadInput` at once when another holds it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(RunFolder(store.path)))
        except BadInput as error:
            do = "wait for it or stop it, or use another --name"
            raise BadInput(f"experiment {store.path}", error.found, do) from None
        yield


def keep(work: Work, choices: Sequence[Choice]) -> Chosen:
    """Write down and tell what was chosen."""
    write_json(work.store.choices, [vars(choice) for choice in choices])
    for choice in choices:
        values = None if choice.values is None else ", ".join(f"{k}={v}" for k, v in choice.values.items())
        how = "; ".join([f"by validation {work.grid.sweep.by}", *remarks(vars(choice))])
        work.board.line(f"{choice.row} on {choice.task}: {values or 'every swept run failed'} ({how})")
    return {(choice.row, choice.task): choice.values for choice in choices}


def drain(work: Work, wanted: Sequence[Cell], planned: Sequence[Cell]) -> None:
    """Run those of the wanted cells that are left, `jobs` at once; failures are recorded and passed by.

    Raises: Interrupted when this process, or one of its runs, is told to stop.
    """
    queue = list({cell.digest: cell for cell in wanted if work.left(cell)}.values())
    every = {cell.digest: cell for cell in planned}
    state = State(
        every,
        {digest: cell for digest, cell in every.items() if work.left(cell)},
        progress.learned(work.store, every.values()),
    )
    if passed := 0 if work.retry else len({cell.digest for cell in wanted if work.store.failed(cell)}):
        work.board.line(f"note: {passed} runs failed before and are left so (--retry runs them again)")
    with Stop(grace=GRACE) as stop:
        try:
            while queue or state.going:
                while (cell := state.ready(queue)) and len(state.going) < work.jobs and stop.signal is None:
                    queue.remove(cell)
                    state.going[cell.digest] = cell, begin(work, cell)
                if stop.signal is not None:
                    raise Interrupted(stop.signal)
                for cell, handle in list(state.going.values()):
                    if (status := handle.poll()) is not None:
                        ended(work, state, cell, status)
                if work.board.due:
                    work.board.move(*state.told(work))
                if state.going:
                    time.sleep(TICK)
        finally:
            settle([handle for _, handle in state.going.values()])


@dataclass
class State:
    """All cells of a plan by digest, those that are left, and those that are going."""

    every: dict[str, Cell]
    left: dict[str, Cell]
    pace: Pace
    going: dict[str, tuple[Cell, Handle]] = field(default_factory=dict)

    def ready(self, queue: Sequence[Cell]) -> Cell | None:
        """The first cell whose run no other cell's process is at; None without one."""
        held = {cell.training for cell, _ in self.going.values() if not cell.evaluate}
        return next((cell for cell in queue if cell.training not in held), None)

    def told(self, work: Work) -> tuple[int, int, str]:
        """How many runs are done, of how many, and where it stands in words."""
        done, of = len(self.every) - len(self.left), len(self.every)
        at = {cell.digest: progress.reached(work.store, cell) for cell, _ in self.going.values()}
        ahead = progress.ends(*self.pace.left(self.left.values(), work.jobs, at))
        now = "; ".join(progress.where(cell, at[digest]) for digest, (cell, _) in self.going.items())
        return done, of, f"{done} of {of} runs done, {ahead}" + (f"; {now}" if now else "")


def begin(work: Work, cell: Cell) -> Handle:
    """Start a cell's run, or go on with it."""
    if work.store.failed(cell):
        seam.remove(work.store.cells / f"{work.store.name(cell)}.json")
    order = work.store.order(cell, work.grid.cosines)
    return work.launch(order, work.store.logs / f"{order.stem}.txt")


def settle(handles: Sequence[Handle]) -> None:
    """Ask runs to save and end; kill those that take too long."""
    for handle in handles:
        handle.stop()
    until = time.monotonic() + GRACE
    while any(handle.poll() is None for handle in handles) and time.monotonic() < until:
        time.sleep(TICK / 4)
    for handle in handles:
        if handle.poll() is None:
            handle.stop(kill=True)


def ended(work: Work, state: State, cell: Cell, status: int) -> None:
    """Tell how a run ended; write the record where it could not. Raises: Interrupted for one that was told to stop."""
    del state.going[cell.digest]
    number = -status if status < 0 else status - 128
    if number in STOPPING:
        work.board.line(f"stopped: {cell.told}")
        raise Interrupted(number)
    record = work.store.record(cell)
    untested = record is not None and record["status"] == DONE and not work.store.finished(cell)  # trained for a sweep
    if record is None or untested:
        record = left_by(work, cell, status)
        write_json(work.store.cells / f"{record['name']}.json", record)
    state.left.pop(cell.digest, None)
    if record["status"] == DONE:
        state.pace.learn(cell, *progress.took(record))
        lighten(work, [cell], state.every.values())
        return work.board.line(f"done: {cell.told}; {state.told(work)[2]}")
    log = work.store.logs / f"{record['name']}.txt"
    return work.board.line(f"{record['status']}: {cell.told}: {record['reason']} (log: {log})")


def lighten(work: Work, cells: Sequence[Cell], planned: Iterable[Cell]) -> None:
    """With `lean`, take away the checkpoints of runs that are tested, and that no planned cell waits for: nothing of the experiment reads them again."""
    if not work.lean:
        return
    wanted = {cell.training for cell in planned if not (cell.sweep or work.store.finished(cell))}
    for cell in cells:
        record, run = work.store.record(cell), work.store.run(cell)
        tested = record is not None and record["status"] == DONE and "test" in record
        if tested and cell.training not in wanted and run.checkpoints.is_dir():
            for path in sorted(run.checkpoints.iterdir(), key=lambda path: path.name == BEST):
                seam.retire(path)  # the best last: a run that has it is whole for whoever meets the unseen tasks next


def left_by(work: Work, cell: Cell, status: int) -> dict[str, Any]:
    """The record of a process that left none: what it knew of a run that was whole, else why there is nothing."""
    fate, draft = died(status), work.store.draft(cell)
    if draft.exists():
        return {**read_json(draft), "notes": [f"no cosine: {fate['reason']}"]}
    frame = {"name": work.store.name(cell), "digest": cell.digest, "evaluate": cell.evaluate}
    return {**(work.store.record(cell) or {}), **frame, **fate, "options": cell.flat}


def died(status: int) -> dict[str, Any]:
    """The fate of a run that left no record."""
    if status == -signal.SIGKILL:
        return {"status": "killed", "reason": "killed by SIGKILL, as the system does where memory is out"}
    if status < 0:
        return {"status": "killed", "reason": f"ended by {signal.Signals(-status).name}"}
    return {"status": "failed", "reason": f"ended with exit status {status}; see its log"}
