"""The table of an experiment: a row and task a line, over its seeds; what failed stays in it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zofo.experiment.cells import Cell, swept
from zofo.experiment.grid import Grid, Row, Stages
from zofo.experiment.lines import Entry, Line, lines, means, score
from zofo.experiment.pairs import Paired, against, elsewhere, less, partner
from zofo.experiment.prompts import prompts
from zofo.experiment.select import remarks
from zofo.experiment.store import DONE, Record, Store
from zofo.methods.plan import plan
from zofo.methods.two_stage import first_steps
from zofo.report import unseen
from zofo.report.words import SLOTS, UNSAID, ZERO_SHOT, common
from zofo.run.jsonfile import read_json


def tabulate(grid: Grid, store: Store, cells: Iterable[Cell]) -> dict[str, Any]:
    """Everything that the tables tell, as JSON."""
    made = lines(grid, store, cells)
    drawn = {(line.row, line.task): against(grid, line, made) for line in made}
    entries = [entry(grid, store, line, drawn[line.row, line.task], elsewhere(grid, line, made)) for line in made]
    head: dict[str, Any] = {
        "about": grid.about,
        "model": grid.model,
        "tasks": grid.subjects,
        "seeds": grid.seeds,
        "against": grid.against,
    }
    head |= {"budget": grid.budget.model_dump(exclude_none=True)}
    table = {**head, "machines": machines(made), "rows": entries}
    if len(grid.subjects) > 1:
        table["average"] = [average(grid, row, made, drawn) for row in grid.rows]
    if grid.reach:
        trained = [line for line in made if any(cell.steps for cell in line.cells.values())]
        table["levels"] = grid.reach
        table["reach"] = [reached(grid, line) for line in trained]
    if found := prompts(grid, made):
        table["prompt"] = found
    if grid.mixture:
        table |= by_task(made)
    return table


def machines(made: Sequence[Line]) -> dict[str, int]:
    """How many of the table's runs were made on each machine, as far as their records say."""
    records = [record for line in made for record in line.done.values()]
    said = (r.get("machine") or r.get("environment", {}).get("machine") or UNSAID for r in records)
    return dict(Counter(said).most_common())


def series(made: Sequence[Line]) -> list[unseen.Series]:
    """What each line scored on each unseen task of its mixture, its seeds' draws side by side, and the mean."""
    held = [(line.row, [r["test"]["tasks"] for r in line.done.values() if "tasks" in r["test"]]) for line in made]
    return unseen.averaged([unseen.pooled(row, several) for row, several in held if several])


def by_task(made: Sequence[Line]) -> dict[str, Any]:
    """The table of unseen tasks, in words."""
    columns, rows = unseen.rows(series(made))
    return {"unseen": {"columns": columns, "rows": rows}}


def entry(grid: Grid, store: Store, line: Line, drawn: Paired | None, apart: Sequence[str] = ()) -> Entry:
    """A line of the table; `apart` notes that it does not compare."""
    done = list(line.done.values())
    found: Entry = {"row": line.row, "task": line.task, "seeds": len(done), "wanted": len(grid.seeds)}
    found |= {"metric": done[0]["test"]["metric"] if done else None, **spread([score(r) for r in done])}
    found["slots"] = {
        slot: spread([r["test"]["slots"][slot][r["test"]["metric"]] for r in done])
        for slot in (*SLOTS, ZERO_SHOT) if done and all(slot in r["test"]["slots"] for r in done)
    }  # fmt: skip
    found["used"] = dict(Counter(r["test"]["used"] for r in done))
    found["difference"] = drawn.told if drawn is not None else None
    found |= cost(line, done)
    found["values"] = next((dict(cell.values) for cell in line.cells.values()), {})
    choice = chosen(grid, store, line)
    found["remarks"] = doubts(grid, line, choice) if choice is not None and line.cells else []
    found["failures"] = failures(grid, line, choice)
    told = [note for r in done if r.get("steps") for note in r.get("notes", ())]
    told += [note for r in done for note in r["test"].get("notes", ())]
    told += ["cosine of A alone"] if found["cosine"] is not None and short_of_g(line) else []
    found["notes"] = sorted({*told, *apart})
    found["pending"] = len(line.cells) - len(line.records)
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; None of one value, or where one is not finite) and the values."""
    values = list(values)
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None,
        "values_by_seed": values,
    }


def cost(line: Line, done: Sequence[Record]) -> Entry:
    """Steps, that of the checkpoint, seconds (as measured in the runs, and as budgeted: steps x cost), passes, time a step, memory."""
    cell = next(iter(line.cells.values()), None)
    trained = [r for r in done if r.get("steps")]
    found: Entry = {"steps": cell.steps if cell else None, "cost": cell.cost if cell else None}
    found["budgeted_seconds"] = budgeted(cell, line.stages, cell.steps) if cell else None
    found["seconds"] = mean([r["seconds"] for r in trained])
    found["passes"] = mean([passes(r) for r in trained])
    found["step_seconds"] = mean([r["seconds"] / r["steps"] for r in trained])
    keys = sorted({key for r in trained for key, value in r["memory"].items() if isinstance(value, (int, float))})
    found["memory"] = {key: mean([r["memory"][key] for r in trained if key in r["memory"]]) for key in keys}
    best = [r["validation"] for r in trained if r["validation"]]  # the checkpoint that is tested
    found["checkpoint"] = mean([v["step"] for v in best])
    found["moved"] = mean([v["moved"] for v in best if v.get("moved") is not None])
    held = [r["cosines"] for r in trained if r.get("cosines")]
    told = "G" if any("G" in c for c in held) else "A"
    found["cosine"] = mean([c[told]["mean"] for c in held if told in c and c[told]["mean"] is not None])
    return found


def short_of_g(line: Line) -> bool:
    """Whether a line's cosines are of A though its G has more: older runs with `lam_every` were measured where lambda was 0."""
    held = [r["cosines"] for r in line.done.values() if r.get("cosines")]
    method = next(iter(line.cells.values())).config.method if held else None
    return method is not None and len(plan(method, method.lam).terms) > 1 and not any("G" in c for c in held)


def passes(record: Record) -> int:
    """Forward passes of a run, a backward one counted as two."""
    return int(record["forwards"]) + 2 * int(record["backwards"])


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return statistics.fmean(values) if values else None


def chosen(grid: Grid, store: Store, line: Line) -> dict[str, Any] | None:
    """What was chosen for a line, or for the row that it is like, with every candidate; None where nothing is swept, or yet chosen."""
    base = grid.base(line.row)
    held = read_json(store.choices) if base.sweep and store.choices.exists() else []
    return next((c for c in held if (c["row"], c["task"]) == (base.name, line.task)), None)


def doubts(grid: Grid, line: Line, choice: Mapping[str, Any]) -> list[str]:
    """What a line's choice leaves open, and whether it is of the runs that the file asks for now."""
    found = remarks(choice, grid.row(line.row).options)
    made = sorted(digest for candidate in choice["candidates"] for digest in candidate.get("digests", []))
    asked = sorted(c.digest for c in swept(grid, grid.row(choice["row"]), line.task)) if made else []
    return [*found, "chosen by another sweep than the file's"] if made != asked else found


def failures(grid: Grid, line: Line, choice: Mapping[str, Any] | None) -> list[str]:
    """Why seeds have no score, a sentence each; where nothing is chosen, why not."""
    told = [
        f"seed {seed}: {r['status']}: {r.get('reason', '')}" for seed, r in line.records.items() if r["status"] != DONE
    ]
    if line.cells:
        return told
    if choice is None:
        return ["nothing is chosen yet"] if grid.base(line.row).sweep else []
    if choice["values"] is not None:
        return ["what was chosen is no longer in the file"]
    why = sorted({reason for candidate in choice["candidates"] for reason in candidate["failed"]})
    return [f"nothing could be chosen: {'; '.join(why)}"]


def average(grid: Grid, row: Row, made: Sequence[Line], drawn: Mapping[tuple[str, str], Paired | None]) -> Entry:
    """A row over tasks, all on the same seeds: those that it has on all of its tasks, and the row that it is compared with too.

    Its score on each, their mean by seed, the difference, and the other row's mean there. There is no mean of scores and losses
    together, nor of a row that has not all tasks. Where no seed has all tasks, each stands over its own.
    """
    held = [line for line in made if line.row == row.name]
    seeds = [seed for seed in grid.seeds if all(seed in line.done for line in held)]
    whole = len(held) == len(grid.subjects)
    metric = common(r["test"]["metric"] for line in held for r in line.done.values()) if whole else None
    others = [other for line in held if metric and (other := partner(grid, line, made)) is not None]
    difference = less(grid, held, others, drawn) if len(others) == len(held) else None
    if difference is not None:
        seeds = difference.seeds
    alone = {line.task: on(line, seeds or list(line.done)) for line in held}
    found: Entry = {"row": row.name, "seeds": len(seeds), "metric": metric, "tasks": alone}
    found |= spread(means(held, seeds) if metric else [])
    found["difference"] = difference.told if difference is not None else None
    found["other"] = mean(means(others, seeds)) if difference is not None else None
    return found


def on(line: Line, seeds: Sequence[int]) -> Entry:
    """A line's scores on some of its seeds."""
    metric = next((line.done[seed]["test"]["metric"] for seed in seeds), None)
    return {"seeds": len(seeds), "metric": metric, **spread([score(line.done[seed]) for seed in seeds])}


def clock(line: Line, seed: int, point: Mapping[str, Any]) -> float:
    """Training seconds at a point of a curve: what its steps cost, where that is known, else as measured."""
    spent = budgeted(line.cells[seed], line.stages, point["step"])
    return float(point["seconds"]) if spent is None else spent


def budgeted(cell: Cell, stages: Stages | None, steps: int) -> float | None:
    """What a cell's first steps cost by the file: steps x cost, those of each stage at its own; None where it does not say."""
    if cell.cost is None or stages is None:
        return None if cell.cost is None else steps * cell.cost
    first = min(steps, first_steps(cell.config.method, cell.steps))
    return first * stages[0] + (steps - first) * stages[1]


def reached(grid: Grid, line: Line) -> Entry:
    """When each seed's validation score first reached each of the asked-for values (None: never within the budget).

    Seeds whose validation has losses alone are left out.
    """
    times = {}
    for level in grid.reach:
        firsts = []
        for seed, record in line.done.items():
            scored = [p for p in record.get("curve", []) if p["score"] is not None]
            points = [p for p in scored if p["score"] >= level]
            firsts += [clock(line, seed, points[0]) if points else None] if scored else []
        times[f"{level:g}"] = firsts
    return {"row": line.row, "task": line.task, "seconds": times}
