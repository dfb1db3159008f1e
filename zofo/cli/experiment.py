"""`zofo experiment`: a grid of runs under one budget, chosen on validation, tested once, in tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from zofo.cli.output import line, plain, table
from zofo.cli.problems import complain
from zofo.errors import BadInput, note
from zofo.report.words import duration
from zofo.run.folder import check_name, refuse_no_place
from zofo.run.signals import Interrupted

if TYPE_CHECKING:
    from zofo.experiment.cells import Cell
    from zofo.experiment.grid import Grid
    from zofo.experiment.store import Store

PLAN = ("row", "task", "seeds", "steps", "s a step", "swept runs", "time", "done")
File = Annotated[
    str,
    Parameter(name="FILE|NAME", help="an experiment's YAML file, or one that ships with zofo (`zofo ls experiments`)"),
]


def experiment(
    file: File,
    /,
    *,
    scale: Annotated[str | None, Parameter(metavar="NAME", help="one of the file's scales (none: its first)")] = None,
    name: Annotated[
        str | None, Parameter(metavar="NAME", help="folder of the results (none: the file's name and scale)")
    ] = None,
    dir: Annotated[str, Parameter(metavar="FOLDER", help="folder that holds experiments")] = "experiments",
    jobs: Annotated[int, Parameter(metavar="N", help="runs at once")] = 1,
    retry: Annotated[bool, Parameter(negative=(), show_default=False, help="run again what failed before")] = False,
    lean: Annotated[
        bool, Parameter(negative=(), show_default=False, help="take a run's checkpoints away when it is tested")
    ] = False,
    dry: Annotated[
        bool, Parameter(negative=(), show_default=False, help="print the plan with its time, and stop")
    ] = False,
    tables: Annotated[
        bool, Parameter(negative=(), show_default=False, help="make tables and plots of what is there, and stop")
    ] = False,
    costs: Annotated[
        int | None, Parameter(metavar="ROUNDS", help="measure what a step of each row costs, interleaved, and stop")
    ] = None,
) -> int:
    """Run an experiment, or go on with it: the same command again, after a kill too.

    Swept options and checkpoints are chosen on validation rows; test rows are scored once, after the choice.
    """
    from zofo.experiment import reading
    from zofo.experiment.store import Store

    if jobs < 1 or (costs is not None and costs < 1):
        wrong = f"--jobs {jobs}" if jobs < 1 else f"--costs {costs}"
        raise BadInput(wrong, "not 1 or more", "give a whole number above 0")
    made, chosen = reading.read(file, scale)
    own = "-".join(filter(None, [reading.locate(file).stem, chosen]))
    store = Store(Path(dir) / (check_name(name, "--name") if name else check_name(own, f"{file}: --name")))
    if costs is not None:
        return measure(made, costs)
    if dry:
        return plan(made, store, jobs, retry)
    refuse_no_place(f"--dir {dir}", store.path)
    if tables and not store.path.is_dir():
        raise BadInput(f"zofo experiment {file} --tables", f"there is no folder {store.path}", "see --name and --dir")
    if tables:
        from zofo.experiment import runner

        return conclude(made, store, runner.known(made, store))
    return run(made, store, jobs, retry, lean)


def run(grid: Grid, store: Store, jobs: int, retry: bool, lean: bool) -> int:
    """Run what is left, and write tables and plots; 1 where nothing at all was scored."""
    from zofo.experiment import progress, runner

    try:
        with progress.Board() as board:
            cells = runner.run(runner.Work(grid, store, board, jobs, retry, lean))
    except Interrupted as stopped:
        note(stopped, "what is done is kept; the same command goes on")
        raise
    return conclude(grid, store, cells)


def conclude(grid: Grid, store: Store, cells: Sequence[Cell]) -> int:
    """Write tables and plots, and print the tables. Exit status 1 where nothing at all was scored."""
    from zofo.experiment import report, text

    found = report.write(grid, store, cells)
    for title, columns, rows in text.tables(found):
        line(plain(title))
        table(columns, rows)
        line()
    line(f"everything is in {store.path} (table.md, table.json, *.png, cells/)")
    return 0 if any(entry["seeds"] for entry in found["rows"]) else 1


def plan(grid: Grid, store: Store, jobs: int, retry: bool) -> int:
    """Print what would be run and how long it takes; writes nothing."""
    from zofo import sources
    from zofo.experiment import cells, progress, runner

    sources.find(grid.model)
    first = cells.rehearsed(grid)
    swept, table_ = cells.sweeps(grid), cells.finals(grid, first | runner.choices(grid, store))
    like = {(c.row, c.task): c for c in cells.finals(grid, first)}  # steps and cost, where nothing could be chosen too
    every = {cell.digest: cell for cell in (*swept, *table_)}
    pace = progress.learned(store, every.values())
    rows = []
    for task in grid.subjects:
        for row in cells.rows_of(grid, task):
            own = [c for c in table_ if (c.row, c.task) == (row.name, task)]
            sweep = [c for c in swept if (c.row, c.task) == (row.name, task)]
            seconds, unknown = pace.left({c.digest: c for c in (*sweep, *own)}.values(), 1)
            done = sum(store.finished(c) for c in (*sweep, *own))
            time = "?" if unknown and not seconds else duration(seconds) + (" and more" if unknown else "")
            one, of = like[row.name, task], len(sweep) + len(own)
            cost = f"{one.cost:.3g}" if one.cost is not None else "-"
            rows.append((row.name, task, len(own), one.steps or "-", cost, len(sweep), time, f"{done} of {of}"))
    table(PLAN, rows)
    left = [cell for cell in every.values() if store.left(cell, retry)]
    failed = 0 if retry else sum(store.failed(cell) for cell in every.values())
    told = f"{len(left)} of {len(every)} runs to do, {progress.ends(*pace.left(left, jobs))}"
    line(f"{told} ({jobs} at once; training and what was measured of the rest)")
    if failed:
        line(f"{failed} failed before: --retry runs what failed again")
    if any(cell.steps and pace.seconds(cell) is None for cell in left):
        line("times need seconds in the file's `costs`: --costs ROUNDS measures them here")
    return 0


def measure(grid: Grid, rounds: int) -> int:
    """Print what a step of each row costs, as it is written into the file."""
    from zofo.experiment import costs

    line(costs.as_yaml(costs.measure(grid, rounds, complain)))
    return 0
