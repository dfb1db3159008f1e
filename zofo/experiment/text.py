"""An experiment's tables as text: columns and cells, for a terminal and for markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zofo.report.card import grid as markdown
from zofo.report.words import ZERO_SHOT, duration, figure, named

Made = tuple[str, Sequence[str], list[Sequence[str]]]
"""A title, columns and rows."""
THETA = (("moved", "theta moved by then"), ("cosine", "cosine"))
"""|theta - theta_0| / |theta_0| at the checkpoint, and the cosine of the last estimate of G (lambda 0: of A) with its gradient."""


def tables(table: Mapping[str, Any]) -> list[Made]:
    """All tables of an experiment: an overview over tasks, each task's rows, times to reach scores, the prompt's part."""
    found = [overview(table)] if "average" in table else []
    found += [task(table, name) for name in table["tasks"]]
    found += [reach(table)] if "reach" in table else []
    found += [prompt(table)] if "prompt" in table else []
    found += [unseen(table)] if "unseen" in table else []
    return found


def told(value: float, metric: str | None, sign: str = "") -> str:
    """A value in percent, a loss as it is; `sign`: "+" where one is always written."""
    return format(value, f"{sign}.4g") if metric == "loss" else format(100 * value, f"{sign}.1f")


def score(entry: Mapping[str, Any]) -> str:
    """Mean and standard deviation, in percent but for a loss; "-" where there is none."""
    if entry.get("mean") is None:
        return "-"
    metric, sd = entry.get("metric"), entry.get("sd")
    return told(entry["mean"], metric) + (f" +- {told(sd, metric)}" if sd is not None else "")


def difference(entry: Mapping[str, Any]) -> str:
    """A paired difference with its interval, in points but for a loss (lower is better); the metric, where it is not the score's."""
    held = entry.get("difference")
    if held is None:
        return "-"
    metric = held["metric"]
    mean, low, high = (told(held[key], metric, "+") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" + (f" ({named(metric)})" if metric != entry["metric"] else "")


def note(entry: Mapping[str, Any]) -> str:
    """What is missing, what failed, what was chosen."""
    parts = [*entry["failures"], *entry["notes"]]
    parts += [f"{entry['pending']} to run"] if entry["pending"] else []
    parts += (
        [", ".join(f"{key.split('.', 1)[1]} {value}" for key, value in entry["values"].items())]
        if entry["values"]
        else []
    )
    return "; ".join([*parts, *entry.get("remarks", [])])


def task(table: Mapping[str, Any], name: str) -> Made:
    """A task's rows."""
    rows = [entry for entry in table["rows"] if entry["task"] == name]
    metric = next((entry["metric"] for entry in rows if entry["metric"]), None)
    unit = "" if metric == "loss" else ", %"
    versus = [f"less {table['against']} [95 %]"] if table["against"] else []
    about = [(key, title) for key, title in THETA if any(entry.get(key) is not None for entry in rows)]
    apart = slots(table)
    columns = [
        "row", f"test {named(metric)}{unit}", "seeds", *versus, *apart, "used", "steps", "tested at step", "seconds", "passes", "s a step", "memory, MB",
        *(title for _, title in about), "notes",
    ]  # fmt: skip
    return (
        f"{name}, {table['model']}",
        columns,
        [cells(entry, bool(versus), apart, [key for key, _ in about]) for entry in rows],
    )


def slots(table: Mapping[str, Any]) -> Sequence[str]:
    """What stands apart beside the score: both adapters, or the base before it met an unseen task."""
    return (ZERO_SHOT,) if "unseen" in table else ("p", "s")


def unseen(table: Mapping[str, Any]) -> Made:
    """Each unseen task of a mixture before and after, a row a task."""
    return "unseen tasks: mean and 95 % over draws of all seeds", table["unseen"]["columns"], table["unseen"]["rows"]


def cells(entry: Mapping[str, Any], versus: bool, apart: Sequence[str], about: Sequence[str]) -> list[str]:
    """A line's cells; `apart`: the slots that stand beside the score; `about`: what is told of theta."""
    slots, peak = entry["slots"], entry["memory"].get("peak_mb")
    used = " ".join(f"{name} x{count}" if len(entry["used"]) > 1 else name for name, count in entry["used"].items())
    seconds = entry["budgeted_seconds"] if entry["budgeted_seconds"] is not None else entry["seconds"]
    step = entry["cost"] if entry["cost"] is not None else entry["step_seconds"]
    return [
        entry["row"], score(entry), f"{entry['seeds']} of {entry['wanted']}", *([difference(entry)] if versus else []),
        *(score({**slots[slot], "metric": entry["metric"]}) if slot in slots else "-" for slot in apart),
        used or "-", str(entry["steps"] or "-"), figure(entry["checkpoint"]), duration(seconds), figure(entry["passes"]), figure(step),
        figure(peak and round(peak)), *(figure(entry.get(key)) for key in about), note(entry),
    ]  # fmt: skip


def overview(table: Mapping[str, Any]) -> Made:
    """Rows by tasks, with the mean over tasks."""
    by = {(entry["row"], entry["task"]): entry for entry in table["rows"]}
    over = {entry["row"]: entry for entry in table["average"]}
    names = list(dict.fromkeys(entry["row"] for entry in table["rows"]))
    versus = [f"less {table['against']} [95 %]"] if table["against"] else []
    rows: list[Sequence[str]] = []
    for name in names:
        mean = over.get(name, {})
        cells = [score(by[name, t]) if (name, t) in by else "-" for t in table["tasks"]]
        rows.append([name, *cells, score(mean), *([difference(mean)] if versus else [])])
    return f"all tasks, {table['model']}", ["row", *table["tasks"], "mean", *versus], rows


def reach(table: Mapping[str, Any]) -> Made:
    """Seconds until validation first scored so much: the mean over seeds, or how many of them never did."""
    levels = [f"{level:g}" for level in table["levels"]]
    rows: list[Sequence[str]] = [
        [entry["row"], entry["task"], *(first(entry["seconds"][level]) for level in levels)] for entry in table["reach"]
    ]
    columns = ["row", "task", *(f"{100 * float(level):g} %" for level in levels)]
    return "training time until validation first scored", columns, rows


def first(times: Sequence[float | None]) -> str:
    """The mean of times; "> budget" for those that never came."""
    held = [value for value in times if value is not None]
    if len(held) == len(times):
        return duration(sum(held) / len(held)) if held else "-"
    few = f" ({len(times) - len(held)} of {len(times)} seeds)" if held else ""
    return f"> budget{few}"


def prompt(table: Mapping[str, Any]) -> Made:
    """What the hard prompt is worth."""
    rows: list[Sequence[str]] = [
        (entry["row"], entry["task"], *(told(v, entry["metric"]) for v in (*entry["scores"], -entry["drop"])))
        for entry in table["prompt"]
    ]
    unit = "" if all(entry["metric"] == "loss" for entry in table["prompt"]) else ", %"
    return "the hard prompt", ["row", "task", f"with{unit}", f"without{unit}", "points" if unit else "difference"], rows


def document(table: Mapping[str, Any], name: str) -> str:
    """The markdown of all tables."""
    budget = ", ".join(f"{value:g} {unit}" for unit, value in table["budget"].items())
    parts = [
        f"# {name}",
        table["about"],
        f"Model {table['model']}; seeds {', '.join(map(str, table['seeds']))}; budget {budget} a run.",
    ]
    met = (
        "of the mean over unseen tasks, zero-shot apart. Brackets: 95 % of the paired difference over seeds and draws (of one seed: over draws alone)"
        if "unseen" in table
        else "at the checkpoint and with the adapter of the lowest validation loss; p and s apart. "
        "Brackets: 95 % of the paired difference over seeds and test rows (of one seed: over rows alone)"
    )
    parts.append(
        f"Test scores are means over seeds +- their standard deviation, {met}, in another metric where one is named. Losses are as they are: lower is better. Seconds are steps x the cost of a step where the file gives one, else as measured; a backward pass counts as two passes."
    )
    for title, columns, rows in tables(table):
        parts.append(f"## {title}\n\n{markdown(columns, rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"
