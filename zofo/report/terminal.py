"""What a run says while it runs: a live line on a terminal, plain lines otherwise, nothing for library use."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from zofo.report import history
from zofo.report.words import LOSSES, duration, figure, number, primary, score, size

EVERY = 30.0
"""Seconds after which a plain line is written though less than a tenth of the steps has passed."""


class Quiet:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def phase(self, text: str) -> None:
        """Say nothing."""

    def step(self, row: Mapping[str, Any], of: int) -> None:
        """Say nothing."""

    def validation(self, row: Mapping[str, Any]) -> None:
        """Say nothing."""

    def done(self, summary: Mapping[str, Any]) -> None:
        """Say nothing."""


class Reporter:
    """Says how a run goes. Use it as a context, so that the terminal is put right whatever happens.

    Args: out, where to (standard output); live, draw a moving line (default: when `out` is a
    terminal); seconds, the run's budget of training time (0: none), for the time left; clock, a
    clock in seconds, for plain lines.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        live: bool | None = None,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = sys.stdout if out is None else out
        self.seconds, self.clock = seconds, clock
        self.bar = Bar(self.out) if (self.out.isatty() if live is None else live) else None
        self.first: tuple[int, float] | None = None  # a step, and the training time at its end, to reckon the rate from
        self.said: tuple[int, float] | None = None  # step and time of the last plain line
        self.of = 0

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the moving line (twice does no harm)."""
        if self.bar is not None:
            self.bar.close()

    def line(self, text: str) -> None:
        """Write a line, above the moving one if there is one."""
        if self.bar is not None:
            self.bar.line(text)
        else:
            print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self.line(f"note: {text}")

    def phase(self, text: str) -> None:
        """Say what begins now."""
        self.line(text)

    def step(self, row: Mapping[str, Any], of: int) -> None:
        """Show a step: on a terminal each one, else about one in a tenth of the run, or every 30 s."""
        self.of, k = of, int(row["step"])
        if self.first is None:
            self.first = (0, 0.0) if k == 1 else (k, number(row.get("time", {}).get("train")) or 0.0)
        text = told(row, of, self.rate(row), self.left(row, of))
        if self.bar is not None:
            self.bar.move(k, of, text)
        elif self.due(k, of):
            self.said = (k, self.clock())
            self.line(text)

    def due(self, k: int, of: int) -> bool:
        """Whether a plain line is written for step k: the first, the last, a tenth passed, or 30 s."""
        if self.said is None or k == of:
            return True
        tenth = k * 10 // max(of, 1) > self.said[0] * 10 // max(of, 1)
        return tenth or self.clock() - self.said[1] >= EVERY

    def rate(self, row: Mapping[str, Any]) -> float | None:
        """Mean seconds of training a step since this reporter began."""
        trained = number(row.get("time", {}).get("train"))
        if trained is None or self.first is None or int(row["step"]) <= self.first[0]:
            return None
        return (trained - self.first[1]) / (int(row["step"]) - self.first[0])

    def left(self, row: Mapping[str, Any], of: int) -> float | None:
        """Seconds of training left, by steps or by the budget, whichever ends first."""
        rate = self.rate(row)
        if rate is None:
            return None
        steps = rate * (of - int(row["step"]))
        budget = self.seconds - float(row["time"]["train"])
        return max(0.0, min(steps, budget) if self.seconds else steps)

    def validation(self, row: Mapping[str, Any]) -> None:
        """Show a validation."""
        by = str(row.get("by", "loss"))
        measure = by if by in LOSSES else "loss"
        parts = [f"{slot} {scored(row[slot], measure)}" for slot in history.slots(row)]
        parts += ["best so far"] if row.get("best") else []
        self.line(f"step {row['step']}{f' of {self.of}' if self.of else ''}  validation  " + "  ".join(parts))

    def done(self, summary: Mapping[str, Any]) -> None:
        """Show the results on the test rows, and where the run is."""
        self.close()
        results, used = summary.get("results", {}), summary.get("used")
        what = f"{summary.get('split', 'test')} rows of {summary.get('task', '?')}"
        why = summary.get("untested", "--run.test false")
        self.line(f"\n{what}, {checkpoint(summary)}" if results else f"\n{what}: not scored ({why})")
        width = max([len(name) for name in results], default=0)
        for name, found in results.items():
            mark = "  <- used" if name == used else ""
            losses = "  ".join(f"{said} {figure(found[key]):<7}" for key, said in LOSSES.items() if key in found)
            self.line(f"  {name:<{width}}  {score(found):<15}  {losses}  n {found.get('n', '-')}{mark}")
        for text in by_task(results):
            self.line(f"  {text}")
        if summary.get("run") is not None:
            spent = f"{summary.get('steps', '?')} steps, {duration(summary.get('seconds'))} of training"
            self.line(f"{spent}; everything is in {summary['run']} (README.md, curves.png, eval.json)")
            self.line("\n".join(["next:", *(f"  {text}" for text in coming(summary))]))


def named(place: str) -> str:
    """A run as it is typed in a command: its name where it lies in `runs`, else its path."""
    path = Path(place)
    return shlex.quote(path.name if path.parent == Path("runs") else str(path))


def coming(summary: Mapping[str, Any]) -> list[str]:
    """What to try after a run: unseen tasks adapted to, labels for new rows where it has labels, and a prompt of its own continued."""
    name, example, mixture = named(summary["run"]), summary.get("example", {}), summary.get("mixture")
    tried = [f"zofo adapt {name} --mixture {shlex.quote(mixture)}"] if mixture else []
    tried += [f"zofo predict {name} FILE"] if example.get("choices") else []
    tried += [f"zofo generate {name} {typed(example['prompt'])}"] if example.get("prompt") else []
    return [f"zofo show {name}", *tried, f"zofo export {name} --out FOLDER", "zofo compare"]


def typed(text: str) -> str:
    """A text as one word of a shell: as it is, or with its line breaks as bash and zsh read them."""
    if text.isprintable():
        return shlex.quote(text)
    marks = {"\\": "\\\\", "'": "\\'"}
    told = (marks.get(c, c) if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"$'{''.join(told)}'"


def scored(result: Mapping[str, Any], measure: str) -> str:
    """A result in a few words: its score and loss, or its loss alone."""
    loss = f"{LOSSES[measure]} {figure(result.get(measure))}"
    return f"{score(result)} ({loss})" if primary(result) else loss


def by_task(results: Mapping[str, Any]) -> list[str]:
    """A line a task of a mixture: its score before and after; none for one task."""
    tasks = dict.fromkeys(task for found in results.values() for task in found.get("tasks", {}))
    width = max((len(task) for task in tasks), default=0)
    return [
        f"{task:<{width}}  " + "  ".join(f"{name} {said(found['tasks'][task])}" for name, found in results.items())
        for task in tasks
    ]


def said(result: Mapping[str, Any]) -> str:
    """A task's score, or its loss where it has none."""
    return score(result) if primary(result) else f"loss {figure(result.get('loss'))}"


def checkpoint(summary: Mapping[str, Any]) -> str:
    """Which checkpoint was tested."""
    return f"{summary.get('checkpoint', 'last')} checkpoint (step {summary.get('step', '?')})"


def told(row: Mapping[str, Any], of: int, rate: float | None, left: float | None) -> str:
    """A step in a line: step k of n, loss, gap, rate, memory, time left (what is not known is left out)."""
    parts = [f"step {row['step']} of {of}", f"loss {figure(loss(row))}"]
    parts += [f"gap {figure(row['gap'])}"] if number(row.get("gap")) is not None else []
    parts += [f"{rate:.3g} s/step"] if rate is not None else []
    memory = number(next(iter(row.get("memory", {}).values()), None))
    parts += [size(memory * 1e6)] if memory is not None else []
    parts += [f"{row['bad']} skipped"] if number(row.get("bad")) else []
    parts += [f"{duration(left)} left"] if left is not None else []
    return "  ".join(parts)


def loss(row: Mapping[str, Any]) -> Any:
    """The training loss that a step is shown with: p's below, else A."""
    return row.get("loss_p", row.get("A", row.get("loss_s")))


class Bar:
    """The moving line on a terminal (rich)."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(file=out, highlight=False)
        text = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(bar_width=20), text)
        self.progress = Progress(*columns, console=self.console, transient=True, refresh_per_second=2)
        self.task: Any = None
        self.open = True

    def move(self, k: int, of: int, text: str) -> None:
        """Show step k of a run."""
        if not self.open:
            return
        if self.task is None:
            self.progress.start()
            self.task = self.progress.add_task(text, total=of)
        self.progress.update(self.task, completed=k, total=of, description=text)

    def line(self, text: str) -> None:
        """Write a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.open and self.task is not None:
            self.progress.stop()
        self.open = False
