"""Results over draws, as they come and in the end: of adapting, and of in-context learning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from zofo.cli.output import line, plain, table
from zofo.errors import ZofoError
from zofo.report.words import duration, figure, named, score, spread

NOTE = 160  # signs of a note beside other tasks' at most


class Show:
    """Says how it goes, a line a draw (one task) or a task (a mixture)."""

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
        line(plain(f"{base.name}, {ready.task.name}: {self.what(base, plan)}"))

    def what(self, base: Any, plan: Any) -> str:
        """What is done to the base, in words."""
        start = "the run's adapter" if base.start is not None else f"a fresh {base.config.adapter.kind}"
        return f"{start}, {plan.steps} steps on {plan.batch} rows at most, lr {base.config.method.lr_p:g}, in {base.config.model.dtype}"

    def draw(self, record: Mapping[str, Any], metric: str, of: int) -> None:
        """Say how a draw went."""
        if self.alone:
            told = f"{named(metric)} {value(record['result'], metric)}{learned(record)}"
            line(f"draw {record['draw']} of {of}: {told}, {duration(record['seconds'])}")

    def task(self, record: Mapping[str, Any], number: int, of: int) -> None:
        """Say how a task went, and when all will be done."""
        passed = time.perf_counter() - self.began
        left = f", about {duration(passed / number * (of - number))} left" if number < of else ""
        told = f"failed: {record['failed']}" if "failed" in record else f"{before(record)} -> {after(record)}"
        line(plain(f"task {number} of {of}: {record['task']}: {told} ({duration(passed)}{left})"))
        for remark in remarks(record) if "failed" not in record else ():
            line(f"  {remark}")


def keeping(out: str | None, show: Show) -> Callable[[Mapping[str, Any]], None] | None:
    """What writes the results so far to a file, where one was named; that it cannot is said, and the work goes on."""
    from zofo.run.jsonfile import write_json

    def keep(found: Mapping[str, Any]) -> None:
        try:
            write_json(Path(str(out)), found)
        except ZofoError as error:
            show.note(str(error))

    return keep if out is not None else None


def learned(record: Mapping[str, Any]) -> str:
    """What a draw's steps did to the loss of their rows, and which could not be taken; which rows lost demonstrations."""
    if "losses" not in record:
        return (
            f" ({record['fewer']} rows with fewer demonstrations: the model reads no more)" if record["fewer"] else ""
        )
    bad = f", {record['skipped']} steps skipped (not finite)" if record["skipped"] else ""
    bad += f", {record['cut']} of its {len(record['rows'])} rows cut to fit" if record["cut"] else ""
    first, last = (figure(record["losses"][k]) for k in (0, -1))
    return f"; training loss of the drawn rows {first} -> {last}{bad}"


def remarks(record: Mapping[str, Any]) -> list[str]:
    """What a task's line leaves out: its notes, a line each; steps that could not be taken; examples that were cut; rows that lost demonstrations."""
    told = [shorten(plain(note), NOTE, placeholder=" ...") for note in record["notes"]]
    if bad := sum(draw.get("skipped", 0) for draw in record["draws"]):
        told.append(f"{bad} steps skipped (not finite)")
    if cut := max(draw.get("cut", 0) for draw in record["draws"]):
        told.append(f"up to {cut} examples of a draw cut to fit")
    if fewer := max(draw.get("fewer", 0) for draw in record["draws"]):
        told.append(f"up to {fewer} rows with fewer demonstrations: the model reads no more")
    return told


def value(result: Mapping[str, Any], metric: str) -> str:
    """A score in percent with its standard error, or a loss as it is."""
    return score(result, metric) if metric != "loss" else figure(result["loss"])


def before(record: Mapping[str, Any]) -> str:
    """A task's score before, with its standard error over rows."""
    return value(record["before"], record["metric"])


def after(record: Mapping[str, Any]) -> str:
    """A task's mean score over the draws, with its interval."""
    return spread(record["after"], record["metric"])


def start(found: Mapping[str, Any]) -> str:
    """What the score before is of: the base alone, or with the adapter that its run lends."""
    return "zero-shot" if found["start"] == "fresh" else "before"


def task(found: Mapping[str, Any]) -> None:
    """Print a task's results: before, each draw, and over the draws."""
    ((name, record),) = found["tasks"].items()
    line()
    line(plain(f"{name}: {record['drawn']}; {record['test']['rows']} test rows"))
    metric = record["metric"]
    held = [(start(found), record["before"]), *((f"draw {draw['draw']}", draw["result"]) for draw in record["draws"])]
    losses = metric != "loss"  # beside a score; a task without one has it as its metric
    columns = ("what", named(metric), *(("loss",) if losses else ()), "rows")
    table(columns, [(w, value(r, metric), *((figure(r["loss"]),) if losses else ()), r["n"]) for w, r in held])
    line(f"mean over {record['after']['n']} draws: {after(record)}")


def mixture(found: Mapping[str, Any]) -> None:
    """Print a mixture's results: a line a task, failed ones with their reason, and the mean over tasks."""
    columns = ("task", "metric", start(found), f"mean over {found['plan']['draws']} draws", "rows", "a draw")
    line()
    table(columns, [row(record) for record in found["tasks"].values()])
    if (mean := found["mean"]) is not None:
        several = f"mean over {mean['tasks']} of {mean['of']} tasks"
        line(f"{several}: {100 * mean['before']:.1f} % -> {spread(mean['after'])}")


def row(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A task's line."""
    if "failed" in record:
        return (record["task"], "-", "failed", record["failed"], "-", "-")
    rows = str(record["test"]["rows"])
    return (record["task"], named(record["metric"]), before(record), after(record), rows, duration(record["seconds"]))


class Demonstrations(Show):
    """The same for demonstrations in the prompt."""

    def what(self, base: Any, plan: Any) -> str:
        """What is done to the base, in words."""
        return f"{plan.shots} demonstrations in the prompt, nothing trained"
