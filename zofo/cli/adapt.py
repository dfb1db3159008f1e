"""`zofo adapt`: a small adapter on a frozen base, from a few examples of a new task."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from zofo.adapting.options import NOT_OURS
from zofo.cli.evaluate import Which
from zofo.cli.output import line, plain, table
from zofo.cli.target import Dir, Target
from zofo.errors import BadInput
from zofo.report.words import duration, figure, named, score, size, spread

FOLDER = "adapters"


def key_is_read(key: str) -> bool:
    """Whether an option of the configuration has an effect on adapting."""
    data = key.startswith("data.") and key not in NOT_OURS
    return data or key.startswith("adapter.") or key in ("model.dtype", "method.objective")


def adapt(
    flags: Mapping[str, Any],
    target: Target,
    /,
    *,
    mixture: Annotated[str | None, Parameter(metavar="NAME", help="adapt to every unseen task of a mixture")] = None,
    shots: Annotated[int, Parameter(help="training examples a class")] = 4,
    steps: Annotated[int, Parameter(help="steps of the adapter")] = 10,
    draws: Annotated[int, Parameter(help="draws of the examples, each with an adapter of its own")] = 5,
    batch: Annotated[int, Parameter(help="rows a step (all that were drawn, where they are fewer)")] = 8,
    lr: Annotated[float, Parameter(help="learning rate (0: the default of the adapter's kind)")] = 0.0,
    seed: Annotated[int, Parameter(help="seed of the draws; test rows do not hang on it")] = 0,
    start: Annotated[
        Literal["run", "fresh"] | None,
        Parameter(help="begin from the run's adapter, or a fresh one (none: the run's where all its tasks share one)"),
    ] = None,
    which: Which = "best",
    out: Annotated[
        str | None,
        Parameter(metavar="FOLDER", help="new folder for the first draw's adapter (a mixture: none unless given)"),
    ] = None,
    json: Annotated[str | None, Parameter(metavar="FILE", help="write the results, draw by draw, as JSON")] = None,
    dir: Dir = "runs",
) -> int:
    """Adapt a run or a model to a task from a few examples a class: a small adapter, the base frozen.

    Prints the test rows' score before, for every draw, and over the draws: mean, sd, and a 95 % interval by Student's t.
    """
    if json is not None and not Path(json).parent.is_dir():
        raise BadInput(f"--json {json}", "its folder does not exist", "make it first")
    from zofo.adapting import run
    from zofo.adapting.plan import Plan
    from zofo.run.jsonfile import write_json

    plan = Plan(shots, steps, draws, batch, lr, seed)
    asked, show = run.Asked(target, which, start, dir, flags), Show(alone=mixture is None)
    if mixture is not None:
        found = run.over(asked, plan, mixture, Path(out) if out else None, show)
        unseen(found)
    else:
        place = Path(out) if out else free(target, flags)
        found = run.alone(asked, plan, place, show)
        one(found, place)
    if json is not None:
        write_json(Path(json), found)
    return int(any("failed" in record for record in found["tasks"].values()))


def free(target: str, flags: Mapping[str, Any]) -> Path:
    """A name for a saved adapter, made from the base's and the task's; it gets a number where it is taken."""
    words = (Path(target).name, str(flags.get("data.task") or Path(str(flags.get("data.train", "rows"))).stem))
    name = "-".join(re.sub(r"[^\w.-]+", "-", Path(word).name.removesuffix(".yaml")).strip("-.") for word in words)
    return next(p for n in chain([name], (f"{name}-{i}" for i in count(2))) if not (p := Path(FOLDER) / n).exists())


class Show:
    """Says how adapting goes, a line a draw (one task) or a task (a mixture)."""

    def __init__(self, alone: bool) -> None:
        self.alone, self.began = alone, time.perf_counter()

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        line(f"note: {plain(text)}")

    def begin(self, base: Any, plan: Any, ready: Any) -> None:
        """Say what is adapted to what."""
        if not self.alone:
            return
        for note in ready.notes:
            self.note(note)
        start = "the run's adapter" if base.start is not None else f"a fresh {base.config.adapter.kind}"
        rate = f"lr {base.config.method.lr_p:g}"
        line(plain(f"{base.name}, {ready.task.name}: {start}, {plan.steps} steps of {plan.batch} rows at most, {rate}"))

    def draw(self, record: Mapping[str, Any], metric: str, of: int) -> None:
        """Say how a draw went."""
        if self.alone:
            first, last = (figure(record["losses"][k]) for k in (0, -1))
            told = f"{named(metric)} {score(record['result'], metric)}" if metric != "loss" else ""
            bad = f", {record['skipped']} steps skipped (not finite)" if record["skipped"] else ""
            took = duration(record["seconds"])
            line(f"draw {record['draw']} of {of}: {told}  loss of the drawn rows {first} -> {last}, {took}{bad}")

    def task(self, record: Mapping[str, Any], number: int, of: int) -> None:
        """Say how a task went, and when all will be done."""
        passed = time.perf_counter() - self.began
        left = f", about {duration(passed / number * (of - number))} left" if number < of else ""
        told = f"failed: {record['failed']}" if "failed" in record else f"{before(record)} -> {spread(record['after'])}"
        line(plain(f"task {number} of {of}: {record['task']}  {told}  ({duration(passed)}{left})"))


def before(record: Mapping[str, Any]) -> str:
    """A task's score before, with its standard error over rows."""
    metric = record["metric"]
    return score(record["before"], metric) if metric != "loss" else figure(record["before"]["loss"])


def one(found: Mapping[str, Any], place: Path) -> None:
    """Print a task's results."""
    ((name, record),) = found["tasks"].items()
    line(plain(f"\n{name}: {record['drawn']}, {record['rows']} rows a draw; {record['test']['rows']} test rows"))
    metric, after = record["metric"], record["after"]
    held = [("before", record["before"]), *((f"draw {draw['draw']}", draw["result"]) for draw in record["draws"])]
    rows = [(what, score(r, metric), figure(r["loss"]), r["n"]) for what, r in held]
    table(("what", named(metric), "loss", "rows"), rows)
    line(f"mean over {after['n']} draws: {spread(after, metric)}")
    line(f"adapting took {duration(record['seconds'])} a draw")
    line(plain(f"the first draw's adapter ({size(found['bytes'])}) is in {place}; use it: --adapter {place}"))


def unseen(found: Mapping[str, Any]) -> None:
    """Print a mixture's results."""
    rows = []
    for name, record in found["tasks"].items():
        if "failed" in record:
            rows.append((name, "-", "failed", record["failed"], "-", "-"))
            continue
        after = record["after"]
        took = duration(record["seconds"])
        rows.append(
            (
                name,
                named(record["metric"]),
                before(record),
                spread(after, record["metric"]),
                record["test"]["rows"],
                took,
            )
        )
    line("")
    table(("task", "metric", "before", f"after (mean of {found['plan']['draws']} draws)", "rows", "a draw"), rows)
    if (mean := found["mean"]) is not None:
        several = f"mean over {mean['tasks']} of {mean['of']} tasks"
        line(f"{several}: {100 * mean['before']:.1f} % -> {spread(mean['after'])}")
